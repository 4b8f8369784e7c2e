//! What an operator looks at when it starts and from time to time: sessions that want work, things nobody knows, rows
//! that have outlived their time, images.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::Row as _;
use uuid::Uuid;
use wharf_domain::{Error, ImageId, SessionId, SnapshotId, SpaceId, VolumeId};
use wharf_ports::runtime::{ImageInfo, Inventory};

use super::Work;
use crate::error::OrDomain as _;

/// A session that may want work.
#[derive(Clone, Debug)]
pub struct Alive {
    pub id: SessionId,
    pub runtime: String,
    /// Of the computer that is recorded; 0 when none is.
    pub incarnation: u64,
    /// Something is to be done that a wake-up should have told.
    pub waiting: bool,
}

/// Things of the runtime that no row stands for.
#[derive(Clone, Debug, Default)]
pub struct Freed {
    /// Computers of sessions that are gone or never were.
    pub sessions: Vec<SessionId>,
    pub volumes: Vec<VolumeId>,
    pub snapshots: Vec<SnapshotId>,
}

impl Work {
    /// Sessions that are not at rest: everything but those without a computer that are closed as they shall be, or in error.
    pub async fn alive(&self) -> Result<Vec<Alive>, Error> {
        let rows = sqlx::query(
            "select id, runtime, case when host_socket is null then 0 else incarnation end as incarnation,
                state = 'idle' and (desired <> 'running' or closing
                    or exists (select from turns t where t.session_id = s.id and t.state = 'queued'))
                or state = 'closed' and desired = 'running' as waiting
             from sessions s
             where gone_at is null
               and ((state, desired) not in (('closed', 'closed'), ('error', 'running')) or host_socket is not null
                    or exists (select from snapshots p where p.session_id = s.id and p.state = 'pending'))
             order by id",
        )
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        rows.iter()
            .map(|r| {
                Ok(Alive {
                    id: SessionId::from_uuid(r.try_get("id")?),
                    runtime: r.try_get("runtime")?,
                    incarnation: r.try_get::<i64, _>("incarnation")?.max(0) as u64,
                    waiting: r.try_get("waiting")?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .or_domain()
    }

    /// What of the runtime's inventory no row stands for. `None` when the tables know nothing of it at all although
    /// there is much: then this is more likely the wrong database than a machine full of leftovers.
    pub async fn leftovers(&self, seen: &Inventory) -> Result<Option<Freed>, Error> {
        let sessions: Vec<Uuid> = seen.running.iter().map(|r| r.session.uuid()).collect();
        let volumes: Vec<Uuid> = seen.volumes.iter().map(|v| v.uuid()).collect();
        let snapshots: Vec<Uuid> = seen.snapshots.iter().map(|s| s.uuid()).collect();
        let row = sqlx::query(
            "select array(select id from sessions where id = any($1) and gone_at is null) as sessions,
                    array(select volume_id from sessions where volume_id = any($2) and gone_at is null) as volumes,
                    array(select id from snapshots where id = any($3) and gone_at is null) as snapshots",
        )
        .bind(&sessions)
        .bind(&volumes)
        .bind(&snapshots)
        .fetch_one(self.store.pool())
        .await
        .or_domain()?;
        let known = |column: &str| -> Result<HashSet<Uuid>, Error> {
            Ok(row.try_get::<Vec<Uuid>, _>(column).or_domain()?.into_iter().collect())
        };
        let (s, v, p) = (known("sessions")?, known("volumes")?, known("snapshots")?);
        if volumes.len() + snapshots.len() >= 4 && v.is_empty() && p.is_empty() {
            return Ok(None);
        }
        Ok(Some(Freed {
            sessions: seen.running.iter().map(|r| r.session).filter(|i| !s.contains(&i.uuid())).collect(),
            volumes: seen.volumes.iter().copied().filter(|i| !v.contains(&i.uuid())).collect(),
            snapshots: seen.snapshots.iter().copied().filter(|i| !p.contains(&i.uuid())).collect(),
        }))
    }

    /// Makes the image rows what the runtime holds.
    pub async fn sync_images(&self, runtime: &str, images: &[ImageInfo]) -> Result<(), Error> {
        let now = self.store.now().to_utc();
        let (mut ids, mut names, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        let (mut sizes, mut created) = (Vec::new(), Vec::new());
        for i in images {
            ids.push(ImageId::new().uuid());
            names.push(i.image.name.as_str());
            digests.push(i.image.digest.as_str());
            sizes.push(i.size_bytes as i64);
            created.push(wharf_domain::Time::from_millis(i.created_ms).to_utc());
        }
        sqlx::query(
            "with seen as (
                select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[])
                    as x(id, name, digest, size_bytes, created_at)
             ), gone as (
                delete from images i where runtime = $6
                  and not exists (select from seen where seen.name = i.name and seen.digest = i.digest)
             )
             insert into images (id, name, digest, runtime, size_bytes, created_at, seen_at)
             select id, name, digest, $6, size_bytes, created_at, $7 from seen
             on conflict on constraint images_version
             do update set size_bytes = excluded.size_bytes, seen_at = excluded.seen_at
             where images.size_bytes <> excluded.size_bytes",
        )
        .bind(&ids)
        .bind(&names)
        .bind(&digests)
        .bind(&sizes)
        .bind(&created)
        .bind(runtime)
        .bind(now)
        .execute(self.store.pool())
        .await
        .or_domain()?;
        Ok(())
    }

    /// Removes rows of what has been gone for longer than `keep`. A few at a time: the log of one session can be long.
    pub async fn purge(&self, keep: Duration) -> Result<u64, Error> {
        let before = wharf_domain::Time::from_millis(
            self.store.now().millis().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)),
        )
        .to_utc();
        let sessions = sqlx::query(
            "delete from sessions where id in (
                select id from sessions s where gone_at < $1
                  -- The line of descent stays readable for as long as somebody living comes from it.
                  and not exists (select from sessions c where c.parent_session = s.id)
                order by gone_at limit 100)",
        )
        .bind(before)
        .execute(self.store.pool())
        .await
        .or_domain()?;
        let snapshots = sqlx::query(
            "delete from snapshots where id in (select id from snapshots where gone_at < $1 order by gone_at limit 1000)",
        )
        .bind(before)
        .execute(self.store.pool())
        .await
        .or_domain()?;
        Ok(sessions.rows_affected() + snapshots.rows_affected())
    }
}

/// Removes the rows of a space's sessions and snapshots that are gone.
pub(crate) async fn purge_gone(conn: &mut sqlx::PgConnection, space: SpaceId) -> Result<(), Error> {
    sqlx::query(
        "with s as (delete from sessions where space_id = $1 and gone_at is not null)
         delete from snapshots where space_id = $1 and gone_at is not null",
    )
    .bind(space.uuid())
    .execute(conn)
    .await
    .or_domain()?;
    Ok(())
}
