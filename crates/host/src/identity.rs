//! Who this jail is: nobody until the operator hands over a session's identity, then that session for good.

use std::sync::Arc;

use wharf_wire::host::{Claimed, Health, Identity};

use crate::accounts::Power;
use crate::fault::{Fault, Result};
use crate::host::Host;
use crate::limits;
use crate::reply::{self, Reply};
use crate::request::{self, Incomes, Query};

pub fn health(host: &Host) -> Result<Reply> {
    reply::json(&Health {
        incarnation: host.incarnation.clone(),
        session: host.identity().map(|i| i.session),
        uptime_ms: host.started.elapsed().as_millis() as u64,
        turn: host.turns.running(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

pub async fn claim(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    Query::of(&request)?.finish()?;
    let identity: Identity = request::json(&mut request, limits::BODY_BYTES).await?;
    check_hostname(&identity.hostname)?;
    identity.env.check().map_err(|e| Fault::invalid("env", e))?;
    for (field, seconds) in [
        ("limits.exec_timeout_seconds", identity.limits.exec_timeout_seconds),
        ("limits.turn_timeout_seconds", identity.limits.turn_timeout_seconds),
    ] {
        crate::exec::check_timeout(seconds).map_err(|f| f.field(field))?;
    }
    let hostname = identity.hostname.clone();
    let first = host.claim(identity)?;
    let hostname_set = set_hostname(&host, &hostname);
    reply::json(&Claimed { first, hostname_set })
}

/// The jailer may have set it already. Outside of a jail the name is the machine's and stays.
fn set_hostname(host: &Host, name: &str) -> bool {
    rustix::system::uname().nodename().to_bytes() == name.as_bytes()
        || (host.power == Power::Jail && rustix::system::sethostname(name.as_bytes()).is_ok())
}

/// What the kernel and DNS both take (RFC 1123, 2.1).
fn check_hostname(name: &str) -> Result<()> {
    let is_label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(Fault::invalid("hostname", format!("{name:?} is not a host name")))
}
