//! The operator's side: work on a session under a lease.
//!
//! A lease belongs to one operator and carries a token that grows with every change of hands. Every write here names
//! the token and is refused with `lease_lost` when it is no longer the newest, whatever its holder believes.
//!
//! Lease bookkeeping is committed without waiting for the disk: what a crash of the database loses is a lease that
//! then looks free or held a few seconds longer, and the tokens of those who held one are compared with the row either
//! way. A token that is given out twice would need the database to crash within its write-out delay *and* the first
//! holder to survive it without its connection breaking, which it does not.

pub(crate) mod leftovers;
mod load;
mod snapshots;
mod step;
mod turns;

pub use leftovers::{Alive, Freed};
pub use load::{Claim, RunningTurn, Task};
pub use turns::{Append, Claimed, Entry, TurnResult, TurnWork};

use std::time::Duration;

use uuid::Uuid;
use wharf_domain::{Code, Error, OperatorId, SessionId, SpaceId};

use crate::error::OrDomain as _;
use crate::store::Store;
use crate::system::System;

/// How long a lease lasts without a renewal. Short, because a dead operator's sessions wait that long.
pub const LEASE: Duration = Duration::from_secs(10);

/// One operator process: its id is new with every start, its machine is not.
#[derive(Clone, Debug)]
pub struct Owner {
    pub operator: OperatorId,
    /// What the leases of an earlier start on the same machine are known by.
    pub machine: String,
}

/// Work on sessions as one operator.
#[derive(Clone)]
pub struct Work {
    store: Store,
    owner: Owner,
}

impl System {
    /// Work under leases of this owner.
    pub fn work(&self, owner: Owner) -> Work {
        Work { store: self.store.clone(), owner }
    }
}

impl Work {
    /// The certificate (PEM) that sessions of the space trust.
    pub async fn authority_certificate(&self, space: SpaceId) -> Result<std::sync::Arc<str>, Error> {
        self.store.authority_certificate(space).await
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Frees the leases of earlier starts on this machine: their holder is dead, since there is one operator a machine.
    pub async fn adopt(&self) -> Result<u64, Error> {
        let done = sqlx::query(
            "update sessions set lease_until = null where lease_machine = $1 and lease_owner <> $2 and lease_until is not null",
        )
        .bind(&self.owner.machine)
        .bind(self.owner.operator.uuid())
        .execute(self.store.pool())
        .await
        .or_domain()?;
        Ok(done.rows_affected())
    }

    /// Extends leases that are still held; those that are not are missing from the answer.
    pub async fn renew(&self, held: &[(SessionId, i64)]) -> Result<Vec<SessionId>, Error> {
        let (ids, tokens): (Vec<Uuid>, Vec<i64>) = held.iter().map(|(id, t)| (id.uuid(), *t)).unzip();
        let kept: Vec<Uuid> = sqlx::query_scalar(
            "update sessions s set lease_until = $4
             from unnest($1::uuid[], $2::bigint[]) as h(id, token), (select set_config('synchronous_commit', 'off', true)) c
             where s.id = h.id and s.lease_token = h.token and s.lease_owner = $3
             returning s.id",
        )
        .bind(&ids)
        .bind(&tokens)
        .bind(self.owner.operator.uuid())
        .bind(self.store.now().plus(LEASE).to_utc())
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        Ok(kept.into_iter().map(SessionId::from_uuid).collect())
    }

    /// Gives up all leases: for a graceful end, so that the next operator need not wait.
    pub async fn release_all(&self) -> Result<(), Error> {
        sqlx::query(
            "update sessions set lease_until = null where lease_owner = $1 and lease_until is not null",
        )
        .bind(self.owner.operator.uuid())
        .execute(self.store.pool())
        .await
        .or_domain()?;
        Ok(())
    }
}

pub(super) fn lost(id: SessionId) -> Error {
    Error::new(Code::LeaseLost, format!("the lease of session {id} is held by another operator now"))
}

/// What the database's functions answer, other than success.
pub(super) fn outcome(id: SessionId, word: &str) -> Error {
    match word {
        "lease_lost" => lost(id),
        "missing" => Error::not_found("session", id),
        // The row changed since the plan was made: look again and plan anew. A message may have begun its turn between
        // the two reads of one look.
        "unwanted" | "not_ready" | "turn_runs" => {
            Error::new(Code::PreconditionFailed, format!("session {id} changed meanwhile"))
        }
        other => Error::internal(format!("session {id}: a step was refused as {other}")),
    }
}
