//! Reservation of a space's quotas, in the transaction that admits.
//!
//! The usage row is locked by the update, so concurrent admissions queue up behind each other and the sum can
//! never pass the limit. Releasing is a negative delta and is never refused.

use sqlx::{PgConnection, Row as _};
use wharf_domain::quota::Quotas;
use wharf_domain::{Code, Error, SpaceId};

use crate::error::OrDomain as _;

/// What changes. Positive reserves, negative releases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    pub sessions: i64,
    pub running_sessions: i64,
    pub cpu_millis: i64,
    pub memory_mib: i64,
    pub disk_mib: i64,
    pub git_bytes: i64,
}

impl std::ops::Neg for Delta {
    type Output = Self;
    fn neg(self) -> Self {
        Self {
            sessions: -self.sessions,
            running_sessions: -self.running_sessions,
            cpu_millis: -self.cpu_millis,
            memory_mib: -self.memory_mib,
            disk_mib: -self.disk_mib,
            git_bytes: -self.git_bytes,
        }
    }
}

/// Refuses where what builds keep does not fit any more. The rows that were written in this transaction are counted already, and
/// whoever counted holds the usage row.
pub async fn admit_packages(tx: &mut PgConnection, space: SpaceId, added: i64) -> Result<(), Error> {
    let row = sqlx::query(
        "select u.package_bytes, (s.quotas ->> 'package_bytes')::bigint as most
         from space_usage u join spaces s on s.id = u.space_id where u.space_id = $1",
    )
    .bind(space.uuid())
    .fetch_optional(tx)
    .await
    .or_domain()?
    .ok_or_else(|| Error::not_found("space", space))?;
    let (after, most): (i64, Option<i64>) =
        (row.try_get("package_bytes").or_domain()?, row.try_get("most").or_domain()?);
    match most {
        Some(most) if added > 0 && after > most => {
            let used = after - added;
            let detail = format!(
                "the space's quota package_bytes is {most} and {used} are in use, so {added} more do not fit; delete versions \
                 of agents nobody needs (`wharf agent delete-version`), or raise the quota"
            );
            Err(Error::new(Code::QuotaExceeded, detail).field("package_bytes"))
        }
        _ => Ok(()),
    }
}

/// Adds `delta` to the space's use, or answers `quota_exceeded` naming the quota, its limit and its use.
pub async fn reserve(tx: &mut PgConnection, space: SpaceId, delta: Delta) -> Result<(), Error> {
    if delta == Delta::default() {
        return Ok(());
    }
    let row = sqlx::query(
        "update space_usage u
         set sessions = u.sessions + $2, running_sessions = u.running_sessions + $3, cpu_millis = u.cpu_millis + $4,
             memory_mib = u.memory_mib + $5, disk_mib = u.disk_mib + $6, git_bytes = u.git_bytes + $7
         from spaces s where u.space_id = $1 and s.id = $1
         returning s.quotas, u.sessions, u.running_sessions, u.cpu_millis, u.memory_mib, u.disk_mib,
                   u.git_bytes",
    )
    .bind(space.uuid())
    .bind(delta.sessions)
    .bind(delta.running_sessions)
    .bind(delta.cpu_millis)
    .bind(delta.memory_mib)
    .bind(delta.disk_mib)
    .bind(delta.git_bytes)
    .fetch_optional(tx)
    .await
    .or_domain()?
    .ok_or_else(|| Error::not_found("space", space))?;
    let quotas: Quotas =
        serde_json::from_value(row.try_get("quotas").or_domain()?).map_err(Error::internal)?;
    let lines = [
        ("sessions", quotas.sessions.map(u64::from), delta.sessions),
        ("running_sessions", quotas.running_sessions.map(u64::from), delta.running_sessions),
        ("cpu_millis", quotas.cpu_millis, delta.cpu_millis),
        ("memory_mib", quotas.memory_mib, delta.memory_mib),
        ("disk_mib", quotas.disk_mib, delta.disk_mib),
        ("git_bytes", quotas.git_bytes, delta.git_bytes),
    ];
    for (name, limit, change) in lines {
        let after: i64 = row.try_get(name).or_domain()?;
        if let Some(limit) = limit
            && change > 0
            && after > i64::try_from(limit).unwrap_or(i64::MAX)
        {
            let used = after - change;
            return Err(Error::new(
                Code::QuotaExceeded,
                format!(
                    "the space's quota {name} is {limit} and {used} are in use, so {change} more do not fit; \
                     delete or close something, or raise the quota"
                ),
            )
            .field(name));
        }
    }
    Ok(())
}
