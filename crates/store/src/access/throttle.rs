//! Bounds guessing of passwords: failures are counted per account and per address, in the database, so that every
//! process counts together.
//!
//! The count is taken before the password is looked at and given back when it was right: parallel guesses cannot
//! slip past the limit together.

use std::net::IpAddr;
use std::time::Duration;

use sqlx::Row as _;
use wharf_domain::{Code, Error, Time};

use crate::error::OrDomain as _;
use crate::spaces::time_opt;
use crate::store::Store;

/// Failures of one account within [`WINDOW`] before it is locked for [`LOCK`].
pub(crate) const PER_ACCOUNT: i32 = 8;
/// An address may stand for many people, and one person may try many accounts from it.
pub(crate) const PER_ADDRESS: i32 = 40;
pub(crate) const WINDOW: Duration = Duration::from_secs(10 * 60);
pub(crate) const LOCK: Duration = Duration::from_secs(5 * 60);

/// An attempt that has been counted.
pub(crate) struct Attempt {
    keys: Vec<String>,
}

/// A customer of IPv6 has a whole /64 to guess from: it counts as one.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6((u128::from(a) >> 64 << 64).into()),
        },
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Store {
    /// Counts an attempt, or answers `rate_limited` with the time to wait.
    pub(crate) async fn attempt(&self, account: &str, address: Option<IpAddr>) -> Result<Attempt, Error> {
        let now = self.now();
        let short: String = account.chars().take(128).collect();
        let mut keys = vec![format!("account/{short}")];
        let mut limits = vec![PER_ACCOUNT];
        if let Some(address) = address {
            keys.push(format!("address/{}", neighbourhood(address)));
            limits.push(PER_ADDRESS);
        }
        let rows = sqlx::query(
            "insert into login_attempts as a (key, failures, window_until)
             select k, 1, $3 from unnest($1::text[]) k order by k
             on conflict (key) do update set
                failures = case when a.locked_until > $4 then a.failures
                                when a.window_until <= $4 or a.locked_until is not null then 1
                                else a.failures + 1 end,
                window_until = case when a.window_until <= $4 then excluded.window_until else a.window_until end,
                locked_until = case
                    when a.locked_until > $4 then a.locked_until
                    when a.locked_until is null and a.window_until > $4
                         and a.failures + 1 > ($2::int[])[array_position($1::text[], a.key)] then $5 end
             returning key, locked_until",
        )
        .bind(&keys)
        .bind(&limits)
        .bind(now.plus(WINDOW).to_utc())
        .bind(now.to_utc())
        .bind(now.plus(LOCK).to_utc())
        .fetch_all(self.pool())
        .await
        .or_domain()?;
        let mut locked: Option<Time> = None;
        for row in &rows {
            locked = locked.max(time_opt(row, "locked_until")?);
            debug_assert!(row.try_get::<String, _>("key").is_ok());
        }
        match locked {
            Some(until) if until > now => Err(Error::new(
                Code::RateLimited,
                "too many failed logins for this account or from this address; wait and try again",
            )
            .retry_after(until.since(now))),
            _ => Ok(Attempt { keys }),
        }
    }

    /// The password was right: the account's count begins anew, the address gets this attempt back.
    pub(crate) async fn attempt_succeeded(&self, attempt: Attempt) -> Result<(), Error> {
        sqlx::query(
            "with a as (delete from login_attempts where key = $1)
             update login_attempts set failures = greatest(failures - 1, 0) where key = any($2)",
        )
        .bind(&attempt.keys[0])
        .bind(&attempt.keys[1..])
        .execute(self.pool())
        .await
        .or_domain()?;
        Ok(())
    }
}
