//! Caches of builds: what package managers fetched for an agent, by what it was fetched for.

use sqlx::Row as _;
use uuid::Uuid;
use wharf_domain::{Error, limits};

use super::blobs::Blob;
use super::work::{BuildTask, BuildWork, lost};
use crate::error::OrDomain as _;
use crate::quota;

/// A cache that may be of use.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub blob: Uuid,
    /// Whether it is of the very key that was asked for.
    pub is_exact: bool,
}

impl BuildWork {
    /// The agent's cache of this key, else its newest.
    pub async fn cache(&self, task: &BuildTask, key: &str) -> Result<Option<Kept>, Error> {
        let row = sqlx::query(
            "with c as (
                select key, blob_id, key = $2 as is_exact from build_caches where agent_id = $1
                order by (key = $2) desc, used_at desc limit 1
             ), used as (
                update build_caches b set used_at = $3 from c where b.agent_id = $1 and b.key = c.key
             ) select blob_id, is_exact from c",
        )
        .bind(task.build.agent_id.uuid())
        .bind(key)
        .bind(self.store().now().to_utc())
        .fetch_optional(self.store().pool())
        .await
        .or_domain()?;
        row.map(|row| Ok(Kept { blob: row.try_get("blob_id")?, is_exact: row.try_get("is_exact")? }))
            .transpose()
            .or_domain()
    }

    /// Keeps a cache, and of the agent's others only the newest. `quota_exceeded` where the space has no room for it.
    pub async fn keep_cache(&self, task: &BuildTask, key: &str, blob: &Blob) -> Result<(), Error> {
        let (agent, space) = (task.build.agent_id.uuid(), task.build.space);
        let mut tx = self.store().pool().begin().await.or_domain()?;
        let held: i64 = sqlx::query_scalar(
            "select coalesce(sum(bytes), 0)::bigint from build_caches where agent_id = $1",
        )
        .bind(agent)
        .fetch_one(&mut *tx)
        .await
        .or_domain()?;
        let kept = sqlx::query(
            "insert into build_caches (agent_id, space_id, key, blob_id, bytes, used_at)
             select $1, $2, $3, $4, $5, $6 where exists (select from builds where id = $7 and lease_token = $8)
             on conflict (agent_id, key) do update
             set blob_id = excluded.blob_id, bytes = excluded.bytes, used_at = excluded.used_at",
        )
        .bind(agent)
        .bind(space.uuid())
        .bind(key)
        .bind(blob.id)
        .bind(blob.bytes)
        .bind(self.store().now().to_utc())
        .bind(task.build.id.uuid())
        .bind(task.token)
        .execute(&mut *tx)
        .await
        .or_domain()?;
        if kept.rows_affected() != 1 {
            return Err(lost(task.build.id));
        }
        let now: i64 = sqlx::query_scalar(
            "with gone as (
                delete from build_caches where agent_id = $1 and key not in
                    (select key from build_caches where agent_id = $1 order by used_at desc, key limit $2)
                returning bytes
             ) select ((select coalesce(sum(bytes), 0) from build_caches where agent_id = $1)
                - (select coalesce(sum(bytes), 0) from gone))::bigint",
        )
        .bind(agent)
        .bind(i64::from(limits::BUILD_CACHES))
        .fetch_one(&mut *tx)
        .await
        .or_domain()?;
        quota::admit_packages(&mut tx, space, now - held).await?;
        tx.commit().await.or_domain()
    }
}
