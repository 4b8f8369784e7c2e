//! The server's own side of repositories: what became of a push, what lies on the disk, what is gone.

use serde_json::json;
use sqlx::Row as _;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::repo::{Branch, RefUpdate};
use wharf_domain::{Error, PushId, RepoId, SpaceId};

use super::{Due, Pusher, Repo, columns, due, kept, read};
use crate::audit::Outcome;
use crate::error::OrDomain as _;
use crate::events::Event;
use crate::scope::forbidden;
use crate::spaces::from_json;
use crate::system::System;

/// What the disk is compared with at start.
#[derive(Clone, Debug)]
pub struct KeptRepo {
    pub id: RepoId,
    pub space: SpaceId,
    pub default_branch: Branch,
    pub deleted: bool,
    /// Whether anything ever came into it.
    pub pushed: bool,
    pub garbage: bool,
}

/// A push that was let in and is not settled.
#[derive(Clone, Debug)]
pub struct OpenPush {
    pub id: PushId,
    pub repo: RepoId,
    pub space: SpaceId,
    pub updates: Vec<RefUpdate>,
}

/// What settling a push found.
#[derive(Clone, Debug)]
pub struct Settled {
    pub repo: Repo,
    pub done: Vec<RefUpdate>,
    /// The collector has something to do.
    pub garbage: bool,
    /// Builds that are owed for it.
    pub due: Vec<Due>,
}

impl System {
    pub(super) fn may_keep_repos(&self, space: Option<SpaceId>) -> Result<(), Error> {
        if self.caller.may(space, Resource::Repos, Verb::Update, None) {
            return Ok(());
        }
        Err(forbidden(Verb::Update, Resource::Repos, None))
    }

    /// Every repository there is, deleted ones too, in order of id behind `after`.
    pub async fn kept_repos(&self, after: Option<RepoId>, limit: i64) -> Result<Vec<KeptRepo>, Error> {
        self.may_keep_repos(None)?;
        let rows = sqlx::query(
            "select id, space_id, default_branch, deleted_at is not null as deleted, pushed_at is not null as pushed, garbage
             from repos where id > $1 order by id limit $2",
        )
        .bind(after.map_or(uuid::Uuid::nil(), RepoId::uuid))
        .bind(limit)
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        rows.iter()
            .map(|row| {
                Ok(KeptRepo {
                    id: RepoId::from_uuid(row.try_get("id").or_domain()?),
                    space: SpaceId::from_uuid(row.try_get("space_id").or_domain()?),
                    default_branch: kept(row.try_get("default_branch").or_domain()?)?,
                    deleted: row.try_get("deleted").or_domain()?,
                    pushed: row.try_get("pushed").or_domain()?,
                    garbage: row.try_get("garbage").or_domain()?,
                })
            })
            .collect()
    }

    /// Pushes that were let in and not written down; of one repository where it is named.
    pub async fn open_pushes(&self, repo: Option<RepoId>) -> Result<Vec<OpenPush>, Error> {
        self.may_keep_repos(None)?;
        let rows = sqlx::query(
            "select p.id, p.repo_id, r.space_id, p.updates from repo_pushes p join repos r on r.id = p.repo_id
             where $1::uuid is null or p.repo_id = $1 order by p.id",
        )
        .bind(repo.map(RepoId::uuid))
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        rows.iter()
            .map(|row| {
                Ok(OpenPush {
                    id: PushId::from_uuid(row.try_get("id").or_domain()?),
                    repo: RepoId::from_uuid(row.try_get("repo_id").or_domain()?),
                    space: SpaceId::from_uuid(row.try_get("space_id").or_domain()?),
                    updates: from_json(row.try_get("updates").or_domain()?)?,
                })
            })
            .collect()
    }

    /// Writes down what became of a push: once, whoever comes first. `done` are those of its updates that the refs on the
    /// disk show, `bytes` what the repository takes now. `None` when it is settled already.
    pub async fn settle_push(
        &self,
        push: &OpenPush,
        done: &[RefUpdate],
        bytes: u64,
    ) -> Result<Option<Settled>, Error> {
        let mut scope = self.scope(push.space).await?;
        self.may_keep_repos(Some(push.space))?;
        let now = scope.now();
        let Some(old) =
            sqlx::query("select bytes from repos where id = $1 and deleted_at is null for no key update")
                .bind(push.repo.uuid())
                .fetch_optional(scope.tx()?)
                .await
                .or_domain()?
        else {
            return Ok(None);
        };
        let old: i64 = old.try_get("bytes").or_domain()?;
        let Some(open) = sqlx::query("delete from repo_pushes where id = $1 returning rewinds, pushed_by, principal, token, impersonator")
            .bind(push.id.uuid())
            .fetch_optional(scope.tx()?)
            .await
            .or_domain()?
        else {
            return Ok(None);
        };
        let by: String = open.try_get("pushed_by").or_domain()?;
        // One that was let in and did nothing has left its objects behind, or nothing at all.
        let garbage = open.try_get::<bool, _>("rewinds").or_domain()? || done.len() < push.updates.len();
        let row = sqlx::query(concat!(
            "update repos set bytes = $2, garbage = garbage or $3, pushed_at = case when $4 then $5 else pushed_at end,
                resource_version = resource_version + 1 where id = $1 returning ",
            columns!()
        ))
        .bind(push.repo.uuid())
        .bind(bytes as i64)
        .bind(garbage)
        .bind(!done.is_empty())
        .bind(now.to_utc())
        .fetch_one(scope.tx()?)
        .await
        .or_domain()?;
        let repo = read(&row)?;
        hold(&mut scope, bytes as i64 - old).await?;
        let (id, name) = (repo.id.uuid(), Some(repo.name.as_str()));
        for update in done {
            let data = json!({
                "repo": repo.name, "ref": update.name, "old": update.old, "new": update.new, "push": push.id, "by": by,
            });
            scope.emit(Event::new("pushed", Resource::Repos, id, name, repo.resource_version, data));
        }
        let failed = push.updates.len() - done.len();
        if failed > 0 {
            let detail = json!({"push": push.id, "by": by, "refs_not_changed": failed});
            scope.audit_as("push", "repos", Some(id), name, Outcome::Failed, detail);
        }
        let changed = done.iter().filter(|u| !u.deletes());
        let branches: Vec<String> = changed.filter_map(|u| u.branch().map(str::to_owned)).collect();
        let due = match Pusher::read(&open)? {
            Some(pusher) if !branches.is_empty() => due::owe(&mut scope, push, pusher, &branches).await?,
            _ => Vec::new(),
        };
        scope.commit().await?;
        Ok(Some(Settled { repo, done: done.to_vec(), garbage, due }))
    }

    /// What a repository takes on the disk, after the collector was there.
    pub async fn repo_collected(&self, space: SpaceId, repo: RepoId, bytes: u64) -> Result<(), Error> {
        let mut scope = self.scope(space).await?;
        self.may_keep_repos(Some(space))?;
        let Some(old) = sqlx::query(
            "select bytes, exists (select from repo_pushes p where p.repo_id = $1) as pushing
             from repos where id = $1 and deleted_at is null for no key update",
        )
        .bind(repo.uuid())
        .fetch_optional(scope.tx()?)
        .await
        .or_domain()?
        else {
            return Ok(());
        };
        // A push in hand has reserved what is not to be seen yet, and says what there is when it ends.
        if old.try_get("pushing").or_domain()? {
            return Ok(());
        }
        sqlx::query("update repos set bytes = $2, garbage = false where id = $1")
            .bind(repo.uuid())
            .bind(bytes as i64)
            .execute(scope.tx()?)
            .await
            .or_domain()?;
        hold(&mut scope, bytes as i64 - old.try_get::<i64, _>("bytes").or_domain()?).await?;
        scope.commit().await
    }

    /// The directory of a deleted repository is gone, so the row goes too.
    pub async fn repo_gone(&self, repo: RepoId) -> Result<(), Error> {
        self.may_keep_repos(None)?;
        sqlx::query("delete from repos where id = $1 and deleted_at is not null")
            .bind(repo.uuid())
            .execute(self.store.pool())
            .await
            .or_domain()?;
        Ok(())
    }
}

/// The space's use follows what is on the disk: measured, not asked for, so it is not refused.
async fn hold(scope: &mut crate::scope::Scope, delta: i64) -> Result<(), Error> {
    let space = scope.space()?.id;
    sqlx::query("update space_usage set git_bytes = greatest(git_bytes + $2, 0) where space_id = $1")
        .bind(space.uuid())
        .bind(delta)
        .execute(scope.tx()?)
        .await
        .or_domain()?;
    Ok(())
}
