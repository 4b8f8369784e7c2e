//! Snapshots as the reconciler takes and frees them.

use sqlx::Row as _;
use uuid::Uuid;
use wharf_domain::{Error, SessionId, SnapshotId};
use wharf_ports::Topic;
use wharf_ports::runtime::SnapshotInfo;

use super::{Task, Work};
use crate::error::OrDomain as _;

/// Attempts until a snapshot has failed.
const ATTEMPTS: i32 = 3;

impl Work {
    /// It is there: who waits for it goes on.
    pub async fn snapshot_taken(&self, task: &Task, info: &SnapshotInfo) -> Result<(), Error> {
        self.settle(task, info.snapshot, "ready", None, Some(info)).await
    }

    /// It will not be. `certain`: however often it is tried; otherwise after a few attempts.
    pub async fn snapshot_failed(
        &self,
        task: &Task,
        id: SnapshotId,
        why: &str,
        certain: bool,
    ) -> Result<(), Error> {
        let attempts: Option<i32> =
            sqlx::query_scalar("update snapshots set attempts = attempts + 1 where id = $1 and state = 'pending' returning attempts")
                .bind(id.uuid())
                .fetch_optional(self.store.pool())
                .await
                .or_domain()?;
        if certain || attempts.is_some_and(|n| n >= ATTEMPTS) {
            return self.settle(task, id, "failed", Some(why), None).await;
        }
        Ok(())
    }

    async fn settle(
        &self,
        task: &Task,
        id: SnapshotId,
        state: &str,
        why: Option<&str>,
        info: Option<&SnapshotInfo>,
    ) -> Result<(), Error> {
        let now = self.store.now().to_utc();
        let waiting: Vec<Uuid> = sqlx::query_scalar(
            "with p as (
                update snapshots p
                set state = $3, state_reason = $4, bytes = $5, stall_micros = $6, updated_at = $7,
                    resource_version = p.resource_version + 1,
                    disk_reserved = p.disk_reserved and $3 = 'ready'
                from snapshots was
                where p.id = $1 and was.id = p.id and p.state = 'pending'
                  and exists (select from sessions s where s.id = $2 and s.lease_token = $8)
                returning p.*, was.disk_reserved as was_reserved
             ), u as (
                update space_usage u set disk_mib = u.disk_mib - p.disk_mib
                from p where u.space_id = p.space_id and p.was_reserved and not p.disk_reserved
             ), e as (
                insert into events (space_id, kind, resource, resource_id, name, resource_version, data, created_at)
                select space_id, 'updated', 'snapshots', id, name, resource_version,
                    jsonb_build_object('state', state, 'session', session_id), $7
                from p where not for_fork and deleted_at is null
             )
             select id from sessions where parent_snapshot = $1 and not volume_made and gone_at is null",
        )
        .bind(id.uuid())
        .bind(task.id().uuid())
        .bind(state)
        .bind(why.map(|w| w.replace('\0', "\u{fffd}")))
        .bind(info.map(|i| i.bytes as i64))
        .bind(info.map(|i| i.stall_micros as i64))
        .bind(now)
        .bind(task.token)
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        self.changed(task.id(), task.session.space);
        for child in waiting {
            self.store.wake(Topic::Session(SessionId::from_uuid(child)));
        }
        Ok(())
    }

    /// Deleted snapshots of a session (which may be gone) that no fork waits for, and the runtime that has each.
    pub async fn doomed_snapshots(
        &self,
        session: Option<SessionId>,
    ) -> Result<Vec<(SnapshotId, String)>, Error> {
        let rows = sqlx::query(
            "select p.id, p.runtime from snapshots p
             where p.deleted_at is not null and p.gone_at is null and ($1::uuid is null or p.session_id = $1)
               and not exists (select from sessions c
                    where c.parent_snapshot = p.id and not c.volume_made and c.gone_at is null)
             order by p.id limit 1000",
        )
        .bind(session.map(SessionId::uuid))
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        rows.iter()
            .map(|r| Ok((SnapshotId::from_uuid(r.try_get("id")?), r.try_get("runtime")?)))
            .collect::<Result<_, sqlx::Error>>()
            .or_domain()
    }

    /// The runtime has freed it: what it reserved is released, once.
    pub async fn snapshot_gone(&self, id: SnapshotId) -> Result<(), Error> {
        sqlx::query(
            "with old as (select * from snapshots where id = $1 and gone_at is null for update),
             p as (
                update snapshots set gone_at = $2, disk_reserved = false from old where snapshots.id = old.id
             )
             update space_usage u set disk_mib = u.disk_mib - old.disk_mib
             from old where u.space_id = old.space_id and old.disk_reserved",
        )
        .bind(id.uuid())
        .bind(self.store.now().to_utc())
        .execute(self.store.pool())
        .await
        .or_domain()?;
        Ok(())
    }
}
