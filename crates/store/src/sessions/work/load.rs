//! Takes a session's lease and reads all that a plan needs, in one statement.

use sqlx::Row as _;
use uuid::Uuid;
use wharf_domain::plan::{Origin, RunningTurn as TurnFact, Wanted};
use wharf_domain::session::State;
use wharf_domain::{Code, Error, SessionId, SnapshotId, Time, TurnId};

use super::{LEASE, Work};
use crate::error::OrDomain as _;
use crate::sessions::row::{self, SessionRow, session_columns, time};

/// The turn recorded as running.
#[derive(Clone, Debug)]
pub struct RunningTurn {
    pub id: TurnId,
    pub cancel: Option<String>,
    pub deadline: Time,
}

/// A session under this operator's lease.
#[derive(Clone, Debug)]
pub struct Task {
    pub session: SessionRow,
    /// The fencing token.
    pub token: i64,
    pub turn: Option<RunningTurn>,
    pub queued: bool,
    pub snapshots: Vec<SnapshotId>,
    pub origin: Origin,
    /// Its last change of state is not in log and outbox yet.
    pub owed: bool,
    /// Snapshots of it were deleted and are not freed yet.
    pub doomed: bool,
}

/// What came of asking for a lease.
#[derive(Debug)]
pub enum Claim {
    Mine(Box<Task>),
    /// Another operator works on it. If it dies, the lease ends then.
    Held(Time),
    /// Nothing is left of it.
    Gone,
}

/// Claims that had to wait for a change of the row, in a row.
const CLAIMS: usize = 20;

impl Work {
    pub async fn claim(&self, id: SessionId) -> Result<Claim, Error> {
        for _ in 0..CLAIMS {
            if let Some(claim) = self.try_claim(id).await? {
                return Ok(claim);
            }
        }
        Err(Error::new(Code::PreconditionFailed, format!("session {id} is changed all the time")))
    }

    /// `None` when the row was changed while the claim waited for its lock: the row is the one after the change then, and
    /// all that was read beside it is from before. A plan of both would delete the files of a session under the snapshot
    /// that was asked for a moment before the deletion.
    async fn try_claim(&self, id: SessionId) -> Result<Option<Claim>, Error> {
        let now = self.store.now();
        let row = sqlx::query(concat!(
            "with s as (
                update sessions s
                set lease_token = case when s.lease_owner = $2 and s.lease_until is not null then s.lease_token
                                       else s.lease_token + 1 end,
                    lease_owner = $2, lease_machine = $3, lease_until = $4
                from (select set_config('synchronous_commit', 'off', true)) c
                where s.id = $1 and s.gone_at is null
                  and (s.lease_until is null or s.lease_owner = $2 or s.lease_until <= $5)
                returning s.*
             ) select ",
            session_columns!(),
            ", s.lease_token, s.owed, t.id as turn_id, t.cancel, t.deadline_at,
               exists (select from turns q where q.session_id = s.id and q.state = 'queued') as queued,
               array(select p.id from snapshots p where p.session_id = s.id and p.state = 'pending'
                     and p.deleted_at is null order by p.id) as pending,
               exists (select from snapshots p where p.session_id = s.id and p.deleted_at is not null
                       and p.gone_at is null) as doomed,
               (o.state <> 'pending' or exists (select from sessions q where q.id = o.session_id and q.gone_at is null))
                   as origin_comes, o.state as origin_state, o.state_reason as origin_reason, o.gone_at is not null as origin_gone,
               (b.desired, b.state, b.closing, b.last_seq, b.resource_version)
                   = (s.desired, s.state, s.closing, s.last_seq, s.resource_version) as of_one_moment
             from s join sessions b on b.id = s.id left join turns t on t.session_id = s.id and t.state = 'running'
                    left join snapshots o on o.id = s.parent_snapshot and not s.volume_made"
        ))
        .bind(id.uuid())
        .bind(self.owner.operator.uuid())
        .bind(&self.owner.machine)
        .bind(now.plus(LEASE).to_utc())
        .bind(now.to_utc())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        let Some(row) = row else { return self.holder(id).await.map(Some) };
        if !row.try_get::<bool, _>("of_one_moment").or_domain()? {
            return Ok(None);
        }
        read(&row).map(|t| Some(Claim::Mine(Box::new(t)))).or_domain()
    }

    async fn holder(&self, id: SessionId) -> Result<Claim, Error> {
        let row = sqlx::query(
            "select lease_until from sessions where id = $1 and gone_at is null and lease_until is not null",
        )
        .bind(id.uuid())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        row.map_or(Ok(Claim::Gone), |r| time(&r, "lease_until").map(Claim::Held)).or_domain()
    }
}

fn read(row: &sqlx::postgres::PgRow) -> Result<Task, sqlx::Error> {
    let session = row::session(row)?;
    let turn = match row.try_get::<Option<Uuid>, _>("turn_id")? {
        Some(id) => Some(RunningTurn {
            id: TurnId::from_uuid(id),
            cancel: row.try_get("cancel")?,
            deadline: row::maybe_time(row, "deadline_at")?.unwrap_or(Time::from_millis(0)),
        }),
        None => None,
    };
    let origin = if session.volume_made || session.parent.is_none_or(|p| p.snapshot.is_none()) {
        Origin::Ready
    } else {
        let state: Option<String> = row.try_get("origin_state")?;
        let gone = row.try_get::<Option<bool>, _>("origin_gone")?.unwrap_or(true);
        match state.as_deref() {
            Some("ready") if !gone => Origin::Ready,
            Some("pending") if !gone && row.try_get("origin_comes")? => Origin::Waiting,
            _ => {
                let why: Option<String> = row.try_get("origin_reason")?;
                Origin::Lost(why.map_or_else(
                    || "the snapshot it was to be made from is gone".to_owned(),
                    |why| format!("the snapshot it was to be made from failed: {why}"),
                ))
            }
        }
    };
    Ok(Task {
        session,
        token: row.try_get("lease_token")?,
        turn,
        queued: row.try_get("queued")?,
        snapshots: row.try_get::<Vec<Uuid>, _>("pending")?.into_iter().map(SnapshotId::from_uuid).collect(),
        origin,
        owed: row.try_get::<Option<&str>, _>("owed")?.is_some(),
        doomed: row.try_get("doomed")?,
    })
}

impl Task {
    pub fn id(&self) -> SessionId {
        self.session.id
    }

    /// The half of [`wharf_domain::plan::plan`]'s input that the tables know.
    pub fn wanted(&self) -> Wanted {
        let s = &self.session;
        // 0 means never; ten thousand years from now is the end of what RFC 3339 can say.
        let idle =
            if s.idle_timeout_seconds == 0 { 10_000_000_000 } else { u64::from(s.idle_timeout_seconds) };
        Wanted {
            desired: s.desired,
            state: s.state,
            closing: s.closing,
            resources: s.resources,
            origin: self.origin.clone(),
            volume: s.volume_made,
            setup: s.setup.is_some() && !s.setup_done,
            recorded: s.computer.is_some(),
            fresh: s.incarnation == 0,
            turn: self.turn.as_ref().map(|t| TurnFact { cancel: t.cancel.clone(), deadline: t.deadline }),
            queued: self.queued,
            snapshots: self.snapshots.clone(),
            last_used_at: s.last_used_at,
            in_use_until: s.in_use_until,
            idle_timeout: std::time::Duration::from_secs(idle),
            hold_until: s.hold_until,
            failures: s.failures,
            retry_at: s.retry_at,
        }
    }

    /// Whether its computer is what a user may use now.
    pub fn serving(&self) -> bool {
        matches!(self.session.state, State::Idle | State::Busy) && self.session.computer.is_some()
    }
}
