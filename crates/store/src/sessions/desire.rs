//! What users want of a session: close, restore, delete, cancel its turn, hold its computer for its files.
//!
//! The wish is recorded with what it reserves; the reconciler makes it true. A wish that is fulfilled already is a
//! success without a change, one that cannot be is refused with both states.

use std::time::Duration;

use serde_json::json;
use wharf_domain::rbac::Verb;
use wharf_domain::session::{Desired, State};
use wharf_domain::{Error, SessionId, TurnId};

use super::create::running;
use super::row::SessionRow;
use super::{Sessions, refused};
use crate::error::OrDomain as _;
use crate::permit::Permit;
use crate::quota;
use crate::store::Store;

/// How long files of a closed session are served after they were asked for last.
pub const HOLD: Duration = Duration::from_secs(60);

/// What a cancel found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This turn will end.
    Turn(TurnId),
    /// No turn ran.
    Nothing,
}

impl Sessions<'_> {
    /// Wants the session running, closed or deleted. Closing waits for no turn: the one that runs is cancelled with
    /// reason `closed`, queued messages stay queued and run after the restore. A close is carried through: a restore
    /// that comes before its end brings up what comes after it.
    pub async fn desire(
        &mut self,
        permit: &Permit<SessionRow>,
        desired: Desired,
    ) -> Result<SessionRow, Error> {
        let verb = if desired == Desired::Deleted { Verb::Delete } else { permit.verb() };
        let was = self.lock(permit.row().id).await?;
        if was.desired == Desired::Deleted {
            return match desired {
                Desired::Deleted => {
                    let name = Some(was.name.as_str());
                    let detail = json!({"again": true});
                    self.0.audit(
                        verb,
                        wharf_domain::rbac::Resource::Sessions,
                        Some(was.id.uuid()),
                        name,
                        detail,
                    );
                    Ok(was)
                }
                _ => Err(Error::not_found("session", &was.name)),
            };
        }
        match desired {
            Desired::Running => self.reserve_running(&was).await?,
            Desired::Closed | Desired::Deleted => {
                self.end_running_turn(was.id, desired.as_str()).await?;
            }
        }
        if was.state == State::Error && desired == Desired::Running {
            self.move_to(&was, State::Init).await?;
        }
        let now = self.0.now();
        sqlx::query(
            "update sessions set desired = $2,
                closing = closing or $2 = 'closed' and state in ('init', 'idle', 'busy'),
                deleted_at = case when $2 = 'deleted' then $3 else deleted_at end,
                last_used_at = case when $2 = 'running' then $3 else last_used_at end,
                failures = case when $2 = 'running' and state = 'closed' then 0 else failures end,
                retry_at = case when $2 = 'running' and state = 'closed' then null else retry_at end,
                resource_version = resource_version + case when desired = $2 then 0 else 1 end,
                updated_at = case when desired = $2 then updated_at else $3 end
             where id = $1",
        )
        .bind(was.id.uuid())
        .bind(desired.as_str())
        .bind(now.to_utc())
        .execute(self.0.tx()?)
        .await
        .or_domain()?;
        let session = self.lock(was.id).await?;
        let kind = if desired == Desired::Deleted { "deleted" } else { "updated" };
        self.note(kind, verb, &session, json!({"desired": desired, "was": was.state}));
        Ok(session)
    }

    /// CPU and memory of a session that will run, unless it holds them already.
    async fn reserve_running(&mut self, s: &SessionRow) -> Result<(), Error> {
        if self.reserved(s.id).await? {
            return Ok(());
        }
        quota::reserve(self.0.tx()?, s.space, running(s.resources)).await?;
        sqlx::query("update sessions set running_reserved = true where id = $1")
            .bind(s.id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        Ok(())
    }

    async fn end_running_turn(&mut self, id: SessionId, reason: &str) -> Result<Option<TurnId>, Error> {
        let turn: Option<uuid::Uuid> = sqlx::query_scalar(
            "update turns set cancel = coalesce(cancel, $2) where session_id = $1 and state = 'running' returning id",
        )
        .bind(id.uuid())
        .bind(reason)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        Ok(turn.map(TurnId::from_uuid))
    }

    /// A user's own transition; everything else is the reconciler's.
    async fn move_to(&mut self, s: &SessionRow, to: State) -> Result<(), Error> {
        let now = self.0.now().to_utc();
        let outcome: String =
            sqlx::query_scalar("select outcome from session_move($1, null, $2, null, $3, false)")
                .bind(s.id.uuid())
                .bind(to.as_str())
                .bind(now)
                .fetch_one(self.0.tx()?)
                .await
                .or_domain()?;
        match outcome.as_str() {
            "moved" | "same" => Ok(()),
            _ => Err(refused(s, to.as_str(), "look at its state and try again")),
        }
    }

    /// Ends the running turn; what was said so far stays, messages that wait run next.
    pub async fn cancel(&mut self, permit: &Permit<SessionRow>) -> Result<Ended, Error> {
        let s = self.lock(permit.row().id).await?;
        let ended = self.end_running_turn(s.id, "cancelled").await?;
        let name = Some(s.name.as_str());
        self.0.audit(
            permit.verb(),
            wharf_domain::rbac::Resource::Sessions,
            Some(s.id.uuid()),
            name,
            json!({"cancel": ended}),
        );
        self.0.wake(wharf_ports::Topic::Session(s.id));
        Ok(ended.map_or(Ended::Nothing, Ended::Turn))
    }

    /// Makes sure that the session's files can be served: a closed one, or one that is about to be, gets a small computer
    /// for [`HOLD`] from now, its state stays `closed`. Wait for [`SessionRow::endpoint`] after the commit.
    pub async fn hold(&mut self, permit: &Permit<SessionRow>) -> Result<(), Error> {
        self.hold_as(permit, permit.row()).await
    }

    /// As [`Self::hold`], of a session that was looked at again since.
    pub async fn hold_as(&mut self, permit: &Permit<SessionRow>, s: &SessionRow) -> Result<(), Error> {
        match (s.state, s.desired) {
            (State::Error, _) => return Err(refused(s, "open for its files", "restore it first")),
            (_, Desired::Closed) => {}
            // It runs, or will in a moment.
            _ => return Ok(()),
        }
        let now = self.0.now();
        if s.hold_until.is_some_and(|t| t.since(now) > HOLD / 2) {
            return Ok(());
        }
        sqlx::query("update sessions set hold_until = greatest(hold_until, $2) where id = $1")
            .bind(s.id.uuid())
            .bind(now.plus(HOLD).to_utc())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        let name = Some(s.name.as_str());
        self.0.audit(
            permit.verb(),
            wharf_domain::rbac::Resource::Files,
            Some(s.id.uuid()),
            name,
            json!({"held": true}),
        );
        self.0.wake(wharf_ports::Topic::Session(s.id));
        Ok(())
    }

    /// Says of an idle session whose time is nearly over that it is used again, before it is. False when the close was
    /// quicker.
    pub async fn stay_open(&mut self, permit: &Permit<SessionRow>) -> Result<bool, Error> {
        let stays = sqlx::query(
            "update sessions set last_used_at = greatest(last_used_at, $2)
             where id = $1 and desired = 'running' and not closing",
        )
        .bind(permit.row().id.uuid())
        .bind(self.0.now().to_utc());
        // Those who hold the row write it themselves; for the others it is as the uses that are written once a second.
        let done = if super::holds_the_row(permit.verb()) {
            stays.execute(self.0.tx()?).await
        } else {
            stays.execute(self.0.store.pool()).await
        };
        Ok(done.or_domain()?.rows_affected() > 0)
    }
}

impl Store {
    /// Reports that the recorded computer does not answer: the reconciler looks before it believes the record.
    pub async fn suspect(&self, session: &SessionRow) -> Result<(), Error> {
        let Some(computer) = &session.computer else { return Ok(()) };
        sqlx::query("update sessions set suspect = true where id = $1 and incarnation = $2 and host_socket is not null")
            .bind(session.id.uuid())
            .bind(computer.incarnation as i64)
            .execute(self.pool())
            .await
            .or_domain()?;
        self.wake(wharf_ports::Topic::Session(session.id));
        Ok(())
    }
}
