//! Limits that a request would pass, by name, with what it takes to go on.
//!
//! What is used up stays so until somebody raises it or a day has passed; what open requests hold is free again when they end,
//! and then the vendors' own libraries come back by themselves.

use http::StatusCode;
use wharf_domain::Time;
use wharf_store::Provider;

use super::fault::Fault;
use crate::sessions::Session;

/// Whose limit it is, what it counts, and the command that raises it.
fn named(session: &Session, provider: &Provider, limit: &str) -> (String, &'static str, String) {
    let unit = if limit.contains("cost") { "micro-dollars" } else { "tokens" };
    if limit.starts_with("model_") {
        let space = &session.space_name;
        let command = format!("wharf space update {space} --quota {limit}=…");
        return (format!("quota {limit} of space {space}"), unit, command);
    }
    let (flag, name) = (limit.replace("_micro_usd", ""), &provider.name);
    let command = format!("wharf provider update {name} --budget {flag}=…");
    (format!("budget {limit} of provider {name}"), unit, command)
}

/// By what is settled.
pub(super) fn used_up(
    now: Time,
    session: &Session,
    provider: &Provider,
    limit: &str,
    used: u64,
    most: u64,
) -> Fault {
    let (whose, unit, command) = named(session, provider, limit);
    let mut text = format!("the {whose} is used up: {used} of {most} {unit}");
    let mut retry_after = None;
    if limit.ends_with("_per_day") {
        let day = 86_400;
        let left = day - now.millis().div_euclid(1000).rem_euclid(day);
        text = format!("{text} today; a new day begins in {left} s (0:00 UTC), or raise it ({command})");
        retry_after = u64::try_from(left).ok();
    } else {
        text = format!("{text}; raise it ({command})");
    }
    let fault = Fault::new(StatusCode::TOO_MANY_REQUESTS, "budget_exceeded", text);
    Fault { retry_after, retry: Some(false), ..fault }
}

/// Only with what requests hold that are open.
pub(super) fn held(
    session: &Session,
    provider: &Provider,
    limit: &str,
    used: u64,
    held: u64,
    most: u64,
) -> Fault {
    let (whose, unit, command) = named(session, provider, limit);
    let text = format!(
        "the {whose} has no room now: {used} of {most} {unit} are used, and requests that are open hold {held}; try again \
         when some have ended, or raise it ({command})"
    );
    let fault = Fault::new(StatusCode::TOO_MANY_REQUESTS, "budget_held", text);
    Fault { retry: Some(true), ..fault }
}
