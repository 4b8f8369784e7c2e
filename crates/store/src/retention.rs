//! Removes what has outlived its time: events, idempotency keys, login counters, dead logins and keys.
//!
//! Audit entries are not among it; they are exported and kept.

use std::time::Duration;

use wharf_domain::{Error, Time, limits};

use crate::error::OrDomain as _;
use crate::system::System;

/// Watchers that were away longer list again.
const EVENTS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Ended logins are kept this long, so that a token that is used again is still recognised as such.
const LOGINS: Duration = Duration::from_secs(31 * 24 * 3600);
/// Single model requests; their sums are kept longer.
const MODEL_REQUESTS: Duration = Duration::from_secs(31 * 24 * 3600);
/// Sums of model requests: more than a year, so that a month can be compared with the same one of the year before.
const MODEL_USAGE: Duration = Duration::from_secs(800 * 24 * 3600);
/// Approvals that were decided; the audit log keeps who decided them.
const APPROVALS: Duration = Duration::from_secs(31 * 24 * 3600);
/// What ended builds printed.
const BUILD_LOGS: Duration = Duration::from_secs(limits::BUILD_LOG_DAYS * 24 * 3600);
/// Ended builds that no version came of, or whose version is gone. An agent's newest stays: it says which branch the agent follows.
const BUILDS: Duration = Duration::from_secs(limits::BUILD_DAYS * 24 * 3600);
/// Rows of one statement: small enough not to hold locks anyone notices.
const BATCH: i64 = 5000;

/// What one sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub events: u64,
    pub idempotency_keys: u64,
    pub login_counters: u64,
    pub logins: u64,
    pub api_tokens: u64,
    pub signing_keys: u64,
    pub model_requests: u64,
    pub model_usage: u64,
    pub approvals: u64,
    pub builds: u64,
    pub build_log: u64,
    /// Requests that a gateway died over, charged with what was guessed.
    pub model_requests_lost: u64,
    /// Published copies whose time was over.
    pub published: u64,
    /// Bytes by content that nothing needs: sources, packages and caches of builds, published files.
    pub blobs: u64,
}

impl System {
    /// One pass, bounded; called again while it removes full batches.
    pub async fn sweep(&self) -> Result<Swept, Error> {
        let now = self.store.now();
        let ago = |d: Duration| Time::from_millis(now.millis() - d.as_millis() as i64);
        let kept = Duration::from_secs(u64::from(limits::IDEMPOTENCY_HOURS) * 3600);
        Ok(Swept {
            events: self.store.forget_events(ago(EVENTS), BATCH).await?,
            idempotency_keys: self
                .delete(
                    "delete from idempotency where ctid in (select ctid from idempotency where created_at < $1 limit $2)",
                    ago(kept),
                )
                .await?,
            login_counters: self
                .delete(
                    "delete from login_attempts where key in (
                        select key from login_attempts
                        where window_until < $1 and (locked_until is null or locked_until < $1) limit $2)",
                    now,
                )
                .await?,
            // With their refresh tokens. A login lives as long as its newest refresh token may be used.
            logins: self
                .delete(
                    "delete from login_families where id in (
                        select f.id from login_families f
                        where f.created_at < $1 and (f.revoked_at < $1
                            or not exists (select from refresh_tokens t where t.family_id = f.id and t.expires_at > $1))
                        limit $2)",
                    ago(LOGINS),
                )
                .await?,
            api_tokens: self
                .delete(
                    "delete from api_tokens where id in (select id from api_tokens where expires_at < $1 limit $2)",
                    ago(LOGINS),
                )
                .await?,
            signing_keys: self
                .delete(
                    "delete from signing_keys where kid in (select kid from signing_keys where expires_at < $1 limit $2)",
                    ago(LOGINS),
                )
                .await?,
            model_requests: self
                .delete(
                    "delete from model_requests where id in (
                        select id from model_requests where created_at < $1 and state <> 'open' limit $2)",
                    ago(MODEL_REQUESTS),
                )
                .await?,
            model_usage: self
                .delete(
                    "delete from model_usage where ctid in (
                        select ctid from model_usage where day < ($1 at time zone 'UTC')::date limit $2)",
                    ago(MODEL_USAGE),
                )
                .await?,
            approvals: self
                .delete(
                    "delete from approvals where id in (select id from approvals where decided_at < $1 limit $2)",
                    ago(APPROVALS),
                )
                .await?,
            build_log: self
                .delete(
                    "delete from build_log where ctid in (
                        select l.ctid from build_log l join builds b on b.id = l.build_id
                        where l.at < $1 and b.ended_at < $1 limit $2)",
                    ago(BUILD_LOGS),
                )
                .await?,
            builds: self
                .delete(
                    "delete from builds where id in (
                        select b.id from builds b where b.ended_at < $1
                          and not exists (select from agent_versions v where v.agent_id = b.agent_id and v.version = b.version)
                          and exists (select from builds n where n.agent_id = b.agent_id and n.id > b.id)
                        limit $2)",
                    ago(BUILDS),
                )
                .await?,
            model_requests_lost: self.model_reap(200).await?,
            published: self.published_expire(200).await?,
            blobs: u64::try_from(self.store.sweep_blobs().await?).unwrap_or_default(),
        })
    }

    async fn delete(&self, sql: &'static str, before: Time) -> Result<u64, Error> {
        let done = sqlx::query(sql)
            .bind(before.to_utc())
            .bind(BATCH)
            .execute(self.store.pool())
            .await
            .or_domain()?;
        Ok(done.rows_affected())
    }
}
