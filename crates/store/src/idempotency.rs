//! Idempotency keys: the reply is stored by the transaction of its effect, so a repeat gets the same answer and the
//! effect happens once, whatever crashes in between.
//!
//! A key is claimed before the work with a lease; a claim whose process died is free again when the lease ends.
//! While the handle lives its lease is renewed, however long the work takes. A handle that is dropped without a stored reply gives the key up, so that a request that failed may be tried
//! again at once.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};
use uuid::Uuid;
use wharf_domain::{Code, Error, Time, limits};

use crate::caller::Caller;
use crate::error::OrDomain as _;
use crate::store::Store;

/// How long a claim holds without being extended: what a caller waits when the process that worked on it was killed.
/// Short is safe, because the reply is stored with the effect and only by the claim's owner.
const LEASE: Duration = Duration::from_secs(6);

/// What identifies a request and what it says.
pub struct IdempotencyRequest<'a> {
    /// Method and route template with its parameters filled in: one key may be used on different routes.
    pub route: &'a str,
    pub key: &'a str,
    /// SHA-256 of the body.
    pub body_hash: [u8; 32],
}

pub enum Begin {
    /// Do the work and commit it with this handle on the scope.
    Fresh(IdempotencyHandle),
    /// It was done before; this was answered.
    Replay { status: u16, body: serde_json::Value },
}

/// A claimed key.
pub struct IdempotencyHandle {
    store: Store,
    principal: Uuid,
    route: String,
    key: String,
    owner: Uuid,
    finished: bool,
    renewal: tokio::task::AbortHandle,
}

impl Store {
    /// Claims the key, or answers what was answered before. `409 idempotency_mismatch` for another body,
    /// `409 in_progress` while the first request still runs.
    pub async fn idempotency_begin(
        &self,
        caller: &Caller,
        request: IdempotencyRequest<'_>,
    ) -> Result<Begin, Error> {
        if request.key.is_empty() || request.key.chars().count() > limits::IDEMPOTENCY_KEY_CHARS {
            return Err(Error::new(
                Code::InvalidField,
                format!("Idempotency-Key has 1 to {} characters", limits::IDEMPOTENCY_KEY_CHARS),
            )
            .field("Idempotency-Key"));
        }
        let (now, principal, owner) = (self.now(), caller.identity.id.uuid(), Uuid::now_v7());
        let kept_since = Time::from_millis(now.millis() - i64::from(limits::IDEMPOTENCY_HOURS) * 3_600_000);
        let row = sqlx::query(
            "with mine as (
                insert into idempotency (principal_id, route, key, body_hash, state, owner, lease_until, created_at)
                values ($1, $2, $3, $4, 'running', $5, $6, $7)
                on conflict on constraint idempotency_key do update
                set body_hash = excluded.body_hash, state = 'running', owner = excluded.owner,
                    lease_until = excluded.lease_until, status = null, reply = null, created_at = excluded.created_at
                where idempotency.created_at < $8
                   or (idempotency.state = 'running' and idempotency.lease_until < $7
                       and idempotency.body_hash = excluded.body_hash)
                returning owner
             )
             select (select owner from mine) as owner, i.body_hash, i.state, i.status, i.reply
             from (select 1) one
             left join idempotency i on i.principal_id = $1 and i.route = $2 and i.key = $3",
        )
        .bind(principal)
        .bind(request.route)
        .bind(request.key)
        .bind(request.body_hash.as_slice())
        .bind(owner)
        .bind(now.plus(LEASE).to_utc())
        .bind(now.to_utc())
        .bind(kept_since.to_utc())
        .fetch_one(self.pool())
        .await
        .or_domain()?;
        if row.try_get::<Option<Uuid>, _>("owner").or_domain()?.is_some() {
            let (route, key) = (request.route.to_owned(), request.key.to_owned());
            let renewal = tokio::spawn(renew(self.clone(), principal, route.clone(), key.clone(), owner))
                .abort_handle();
            return Ok(Begin::Fresh(IdempotencyHandle {
                store: self.clone(),
                principal,
                route,
                key,
                owner,
                finished: false,
                renewal,
            }));
        }
        // Nothing of ours and nothing seen: another request claimed it after this statement's snapshot.
        let hash: Option<Vec<u8>> = row.try_get("body_hash").or_domain()?;
        if hash.as_ref().is_some_and(|h| h.as_slice() != request.body_hash) {
            return Err(Error::new(
                Code::IdempotencyMismatch,
                "this Idempotency-Key was used with another body; use a new key for a new request",
            ));
        }
        match row.try_get::<Option<String>, _>("state").or_domain()?.as_deref() {
            Some("done") => Ok(Begin::Replay {
                status: row.try_get::<i32, _>("status").or_domain()? as u16,
                body: row.try_get("reply").or_domain()?,
            }),
            _ => Err(Error::new(
                Code::InProgress,
                "a request with this Idempotency-Key is still running; ask again in a moment",
            )
            .retry_after(Duration::from_secs(1))),
        }
    }
}

impl IdempotencyHandle {
    /// Holds the key until `by` from now; the renewal does the same by itself. `lease_lost` when another request has
    /// taken it over.
    pub async fn extend(&self, by: Duration) -> Result<(), Error> {
        extend(&self.store, self.principal, &self.route, &self.key, self.owner, by).await
    }

    /// Gives the key up after a failure, so that the caller may try again at once.
    pub async fn abandon(mut self) -> Result<(), Error> {
        self.finished = true;
        free(&self.store, self.principal, &self.route, &self.key, self.owner).await
    }

    /// In the scope's transaction; refused when the lease went to another.
    pub(crate) async fn store_reply(
        &mut self,
        tx: &mut PgConnection,
        status: u16,
        body: &serde_json::Value,
        now: Time,
    ) -> Result<(), Error> {
        let stored = sqlx::query(
            "update idempotency set state = 'done', status = $5, reply = $6::json, created_at = $7
             where principal_id = $1 and route = $2 and key = $3 and owner = $4 and state = 'running'",
        )
        .bind(self.principal)
        .bind(&self.route)
        .bind(&self.key)
        .bind(self.owner)
        .bind(i32::from(status))
        .bind(body.to_string())
        .bind(now.to_utc())
        .execute(tx)
        .await
        .or_domain()?;
        if stored.rows_affected() == 1 { Ok(()) } else { Err(lost()) }
    }

    pub(crate) fn done(mut self) {
        self.finished = true;
    }
}

/// Ends with the handle. A database that is away for a moment is tried again at the next turn.
async fn renew(store: Store, principal: Uuid, route: String, key: String, owner: Uuid) {
    loop {
        tokio::time::sleep(LEASE / 3).await;
        match extend(&store, principal, &route, &key, owner, LEASE).await {
            Err(error) if error.code == Code::LeaseLost => return,
            Err(error) => tracing::debug!(%error, "an idempotency key was not renewed"),
            Ok(()) => {}
        }
    }
}

async fn extend(
    store: &Store,
    principal: Uuid,
    route: &str,
    key: &str,
    owner: Uuid,
    by: Duration,
) -> Result<(), Error> {
    let kept = sqlx::query(
        "update idempotency set lease_until = greatest(lease_until, $5)
         where principal_id = $1 and route = $2 and key = $3 and owner = $4 and state = 'running'",
    )
    .bind(principal)
    .bind(route)
    .bind(key)
    .bind(owner)
    .bind(store.now().plus(by).to_utc())
    .execute(store.pool())
    .await
    .or_domain()?;
    if kept.rows_affected() == 1 { Ok(()) } else { Err(lost()) }
}

fn lost() -> Error {
    Error::new(Code::LeaseLost, "another request took over this Idempotency-Key; ask again for its answer")
}

async fn free(store: &Store, principal: Uuid, route: &str, key: &str, owner: Uuid) -> Result<(), Error> {
    sqlx::query(
        "delete from idempotency
         where principal_id = $1 and route = $2 and key = $3 and owner = $4 and state = 'running'",
    )
    .bind(principal)
    .bind(route)
    .bind(key)
    .bind(owner)
    .execute(store.pool())
    .await
    .or_domain()?;
    Ok(())
}

impl Drop for IdempotencyHandle {
    fn drop(&mut self) {
        self.renewal.abort();
        if self.finished {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (store, principal, owner) = (self.store.clone(), self.principal, self.owner);
        let (route, key) = (std::mem::take(&mut self.route), std::mem::take(&mut self.key));
        runtime.spawn(async move {
            // Failing to free it costs the caller the rest of the lease, no more.
            if let Err(error) = free(&store, principal, &route, &key, owner).await {
                tracing::debug!(%error, "an idempotency key waits for its lease to end");
            }
        });
    }
}
