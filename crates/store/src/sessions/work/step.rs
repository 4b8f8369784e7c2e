//! What one step of a plan writes. Each is one statement under the fencing token, and may be repeated.

use wharf_domain::plan;
use wharf_domain::session::State;
use wharf_domain::{Error, JailId, SessionId, SpaceId};
use wharf_ports::Topic;

use super::{Task, Work, lost, outcome};
use crate::error::OrDomain as _;

impl Work {
    /// Enters a state. `same` and `moved` are both success.
    pub async fn become_state(&self, task: &Task, to: State, reason: Option<&str>) -> Result<(), Error> {
        // Text in PostgreSQL holds no U+0000.
        let reason = reason.map(|r| r.replace('\0', "\u{fffd}"));
        let word: String = sqlx::query_scalar("select outcome from session_move($1, $2, $3, $4, $5, false)")
            .bind(task.id().uuid())
            .bind(task.token)
            .bind(to.as_str())
            .bind(reason)
            .bind(self.store.now().to_utc())
            .fetch_one(self.store.pool())
            .await
            .or_domain()?;
        if !matches!(word.as_str(), "moved" | "same") {
            return Err(outcome(task.id(), &word));
        }
        self.changed(task.id(), task.session.space);
        Ok(())
    }

    /// Records the computer that is up, so that the server finds it, and enters `idle` when asked to.
    ///
    /// Who waits for the session goes on at once, without waiting for the disk: if the database crashes now, the next
    /// look finds the computer up and opens the session again. Log and outbox follow with [`Self::announce`].
    pub async fn open(
        &self,
        task: &Task,
        running: &wharf_ports::runtime::Running,
        to: Option<State>,
    ) -> Result<(), Error> {
        let word: Option<String> = sqlx::query_scalar(
            "with s as (
                update sessions
                set jail_id = $3, host_socket = $4, incarnation = $5, warm = $6, suspect = false, volume_made = true,
                    started_at = $7, retry_at = null
                from (select set_config('synchronous_commit', 'off', true)) c
                where id = $1 and lease_token = $2 and gone_at is null
                returning id, parent_snapshot
             ), p as (
                update snapshots set deleted_at = $7 from s
                where snapshots.id = s.parent_snapshot and for_fork and deleted_at is null
             )
             select case when $8::text is null then 'recorded'
                         else (select outcome from session_move($1, $2, $8, null, $7, true)) end
             from s",
        )
        .bind(task.id().uuid())
        .bind(task.token)
        .bind(running.jail.uuid())
        .bind(running.host_socket.to_string_lossy().into_owned())
        .bind(running.incarnation as i64)
        .bind(running.warm)
        .bind(self.store.now().to_utc())
        .bind(to.map(State::as_str))
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        match word.as_deref() {
            Some("recorded" | "moved" | "same") => {}
            Some(word) => return Err(outcome(task.id(), word)),
            None => return Err(lost(task.id())),
        }
        self.store.wake(Topic::Session(task.id()));
        if let Some(parent) = task.session.parent.filter(|_| !task.session.volume_made) {
            // The snapshot made for this fork is not needed any more.
            self.store.wake(Topic::Session(parent.session));
        }
        Ok(())
    }

    /// Says in log and outbox what state the session has entered, if that is owed.
    pub async fn announce(&self, task: &Task) -> Result<(), Error> {
        let said: bool = sqlx::query_scalar("select session_announce($1, $2)")
            .bind(task.id().uuid())
            .bind(self.store.now().to_utc())
            .fetch_one(self.store.pool())
            .await
            .or_domain()?;
        if said {
            self.store.wake(Topic::SessionLog(task.id()));
            self.store.wake(Topic::Space(task.session.space));
        }
        Ok(())
    }

    /// Its computer ended by itself: the record goes, the failure counts.
    pub async fn note_death(&self, task: &Task) -> Result<(), Error> {
        let now = self.store.now();
        let steady = task.session.started_at.is_some_and(|t| now.since(t) >= plan::STEADY_AFTER);
        let failures = if steady { 1 } else { task.session.failures + 1 };
        self.note(task, "its computer ended by itself and is started again", failures, true).await
    }

    /// A step failed in a way that may pass: counted, and tried again after a pause.
    pub async fn note_failure(&self, task: &Task, why: &str) -> Result<(), Error> {
        self.note(task, why, task.session.failures + 1, false).await
    }

    async fn note(&self, task: &Task, why: &str, failures: u32, died: bool) -> Result<(), Error> {
        let now = self.store.now();
        let done = sqlx::query_scalar::<_, i64>(
            "with s as (
                update sessions
                set failures = $3, retry_at = $4, suspect = false,
                    jail_id = case when $6 then null else jail_id end,
                    host_socket = case when $6 then null else host_socket end,
                    started_at = case when $6 then null else started_at end
                where id = $1 and lease_token = $2
                returning id
             )
             select session_say(id, 'session.trouble', null, json_build_object('reason', $5::text, 'failures', $3::int), $7)
             from s",
        )
        .bind(task.id().uuid())
        .bind(task.token)
        .bind(failures as i32)
        .bind(now.plus(plan::back_off(failures)).to_utc())
        .bind(why.replace('\0', "\u{fffd}"))
        .bind(died)
        .bind(now.to_utc())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        done.ok_or_else(|| lost(task.id()))?;
        self.store.wake(Topic::SessionLog(task.id()));
        Ok(())
    }

    /// Its computer was ended: nothing is recorded of it any more.
    pub async fn stopped(&self, task: &Task) -> Result<(), Error> {
        self.fenced(
            task,
            "update sessions set jail_id = null, host_socket = null, started_at = null, suspect = false
             where id = $1 and lease_token = $2",
        )
        .await
    }

    /// The record was looked at and is true.
    pub async fn trusted(&self, task: &Task) -> Result<(), Error> {
        self.fenced(task, "update sessions set suspect = false where id = $1 and lease_token = $2").await
    }

    pub async fn setup_done(&self, task: &Task) -> Result<(), Error> {
        self.fenced(task, "update sessions set setup_done = true where id = $1 and lease_token = $2").await
    }

    pub async fn volume_made(&self, task: &Task) -> Result<(), Error> {
        self.fenced(task, "update sessions set volume_made = true where id = $1 and lease_token = $2").await
    }

    /// Writes an event into the session's log.
    pub async fn say(&self, task: &Task, kind: &'static str, data: &serde_json::Value) -> Result<(), Error> {
        let seq: Option<i64> = sqlx::query_scalar(
            "select session_say($1, $3, null, $4::text::json, $5)
             where exists (select from sessions where id = $1 and lease_token = $2)",
        )
        .bind(task.id().uuid())
        .bind(task.token)
        .bind(kind)
        .bind(crate::sessions::create::text(data)?)
        .bind(self.store.now().to_utc())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        seq.ok_or_else(|| lost(task.id()))?;
        self.store.wake(Topic::SessionLog(task.id()));
        Ok(())
    }

    /// Whether the session is still wanted running, and ours.
    pub async fn still_running(&self, task: &Task) -> Result<bool, Error> {
        sqlx::query_scalar(
            "select exists (select from sessions where id = $1 and lease_token = $2 and desired = 'running' and not closing)",
        )
        .bind(task.id().uuid())
        .bind(task.token)
        .fetch_one(self.store.pool())
        .await
        .or_domain()
    }

    async fn fenced(&self, task: &Task, sql: &'static str) -> Result<(), Error> {
        let done = sqlx::query(sql)
            .bind(task.id().uuid())
            .bind(task.token)
            .execute(self.store.pool())
            .await
            .or_domain()?;
        if done.rows_affected() == 0 { Err(lost(task.id())) } else { Ok(()) }
    }

    /// Wants an idle session closed, if it is idle, unused and without messages at this very moment. False when it is not.
    pub async fn close_idle(&self, task: &Task) -> Result<bool, Error> {
        let now = self.store.now();
        let closed = sqlx::query_scalar::<_, i64>(
            "with s as (
                update sessions s
                set desired = 'closed', closing = true, resource_version = resource_version + 1, updated_at = $3
                where id = $1 and lease_token = $2 and state = 'idle' and desired = 'running' and not closing
                  and idle_timeout_seconds > 0
                  and greatest(last_used_at, in_use_until) + make_interval(secs => idle_timeout_seconds) <= $3
                  and not exists (select from turns t where t.session_id = s.id and t.state = 'queued')
                returning *
             ), e as (
                insert into events (space_id, kind, resource, resource_id, name, resource_version, data, created_at)
                select space_id, 'updated', 'sessions', id, name, resource_version,
                    jsonb_build_object('state', state, 'desired', desired, 'reason', 'idle'), $3 from s
             )
             select session_say(id, 'session.closing', null, json_build_object('reason', 'idle'), $3) from s",
        )
        .bind(task.id().uuid())
        .bind(task.token)
        .bind(now.to_utc())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        self.changed(task.id(), task.session.space);
        Ok(closed.is_some())
    }

    /// Nothing is left of it outside the database: what it reserved is released, once.
    pub async fn forget(&self, task: &Task) -> Result<(), Error> {
        let s = &task.session;
        let done = sqlx::query_scalar::<_, uuid::Uuid>(
            "with old as (
                select * from sessions where id = $1 and lease_token = $2 and gone_at is null for update
             ), s as (
                update sessions set gone_at = $3, running_reserved = false, disk_reserved = false, lease_until = null,
                    jail_id = null, host_socket = null, volume_made = false, updated_at = $3
                from old where sessions.id = old.id returning sessions.id
             ), u as (
                update space_usage u
                set sessions = u.sessions - 1,
                    disk_mib = u.disk_mib - case when old.disk_reserved then old.disk_mib else 0 end,
                    running_sessions = u.running_sessions - case when old.running_reserved then 1 else 0 end,
                    cpu_millis = u.cpu_millis - case when old.running_reserved then old.cpu_millis else 0 end,
                    memory_mib = u.memory_mib - case when old.running_reserved then old.memory_mib else 0 end
                from old where u.space_id = old.space_id
             ), p as (
                update snapshots set deleted_at = coalesce(deleted_at, $3)
                where for_fork and id = (select parent_snapshot from old)
             )
             select id from s",
        )
        .bind(s.id.uuid())
        .bind(task.token)
        .bind(self.store.now().to_utc())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        done.ok_or_else(|| lost(s.id))?;
        self.changed(s.id, s.space);
        if let Some(parent) = s.parent {
            // A snapshot may have waited for this fork.
            self.store.wake(Topic::Session(parent.session));
        }
        Ok(())
    }

    pub(super) fn changed(&self, id: SessionId, space: SpaceId) {
        self.store.wake(Topic::Session(id));
        self.store.wake(Topic::SessionLog(id));
        self.store.wake(Topic::Space(space));
    }

    /// The name of the jail a task has recorded.
    pub fn recorded(task: &Task) -> Option<JailId> {
        task.session.computer.as_ref().map(|c| c.jail)
    }
}
