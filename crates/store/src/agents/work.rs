//! The operator's side of builds: work under a lease, with a token that every write names.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Row as _;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::session::Desired;
use wharf_domain::{BuildId, Code, Error, NameOrId, OperatorId, SessionId, SpaceId};
use wharf_ports::Topic;

use super::blobs::Blob;
use super::builds::{Build, build_columns, read};
use crate::error::OrDomain as _;
use crate::events::Event;
use crate::permit::Permit;
use crate::quota;
use crate::scope::Scope;
use crate::sessions::SessionRow;
use crate::spaces::to_json;
use crate::store::Store;
use crate::system::System;

/// How long a lease of a build lasts without a renewal.
pub const BUILD_LEASE: Duration = Duration::from_secs(15);

/// A build under a lease.
#[derive(Clone, Debug)]
pub struct BuildTask {
    pub build: Build,
    pub token: i64,
    /// The number of the last piece of its log.
    pub lines: i64,
}

/// Builds as one operator works on them.
#[derive(Clone)]
pub struct BuildWork {
    system: System,
    owner: OperatorId,
}

impl System {
    pub fn builds(&self, owner: OperatorId) -> BuildWork {
        BuildWork { system: self.clone(), owner }
    }
}

pub(super) fn lost(id: BuildId) -> Error {
    Error::new(Code::LeaseLost, format!("build {id} is another operator's now, or at its end"))
}

/// Refuses where another holds the build now, or somebody ended it; holds it until the scope ends.
pub(super) async fn held(scope: &mut Scope, task: &BuildTask) -> Result<(), Error> {
    let held = sqlx::query(
        "select 1 from builds where id = $1 and lease_token = $2 and state = 'running' for update",
    )
    .bind(task.build.id.uuid())
    .bind(task.token)
    .fetch_optional(scope.tx()?)
    .await
    .or_domain()?;
    held.map(drop).ok_or_else(|| lost(task.build.id))
}

impl BuildWork {
    pub(super) async fn scope(&self, space: SpaceId) -> Result<Scope, Error> {
        self.system.scope(space).await
    }

    pub fn store(&self) -> &Store {
        self.system.store()
    }

    /// The oldest build that nobody works on, of the space with the fewest at work; none of one that has `per_space` of them.
    /// Two operators that look in the same moment may each take one there.
    pub async fn claim(&self, per_space: u32) -> Result<Option<BuildTask>, Error> {
        let now = self.store().now();
        let row = sqlx::query(concat!(
            "with b as (
                update builds set state = 'running', lease_owner = $1, lease_token = lease_token + 1, lease_until = $2,
                    attempts = attempts + 1, started_at = coalesce(started_at, $3)
                where id = (
                    select w.id from builds w cross join lateral (
                        select count(*) as busy from builds o
                        where o.space_id = w.space_id and o.state = 'running' and o.lease_until >= $3
                    ) n
                    where w.state in ('queued', 'running') and (w.lease_until is null or w.lease_until < $3) and n.busy < $4
                    order by n.busy, w.id limit 1 for update of w skip locked)
                returning *
             ) select ",
            build_columns!(),
            ", b.lease_token, coalesce((select max(n) from build_log l where l.build_id = b.id), 0) as lines
             from b join agents a on a.id = b.agent_id"
        ))
        .bind(self.owner.uuid())
        .bind(now.plus(BUILD_LEASE).to_utc())
        .bind(now.to_utc())
        .bind(i64::from(per_space))
        .fetch_optional(self.store().pool())
        .await
        .or_domain()?;
        let Some(row) = row else { return Ok(None) };
        let task = BuildTask {
            build: read(&row)?,
            token: row.try_get("lease_token").or_domain()?,
            lines: row.try_get("lines").or_domain()?,
        };
        self.store().wake(Topic::Build(task.build.id));
        Ok(Some(task))
    }

    /// When the next build that another operator held may be taken; none while there is none.
    pub async fn open(&self) -> Result<bool, Error> {
        sqlx::query_scalar("select exists (select from builds where state in ('queued', 'running'))")
            .fetch_one(self.store().pool())
            .await
            .or_domain()
    }

    pub async fn renew(&self, task: &BuildTask) -> Result<(), Error> {
        let kept = sqlx::query("update builds set lease_until = $3 where id = $1 and lease_token = $2")
            .bind(task.build.id.uuid())
            .bind(task.token)
            .bind(self.store().now().plus(BUILD_LEASE).to_utc())
            .execute(self.store().pool())
            .await
            .or_domain()?;
        if kept.rows_affected() == 1 { Ok(()) } else { Err(lost(task.build.id)) }
    }

    /// Gives a build up that is to be done anew: by an operator that ends (the attempt does not count), or after something
    /// broke that may be whole the next time.
    pub async fn release(&self, task: &BuildTask, counts: bool) -> Result<(), Error> {
        sqlx::query(
            "update builds set lease_until = null, attempts = attempts - $3 where id = $1 and lease_token = $2
             and state = 'running'",
        )
        .bind(task.build.id.uuid())
        .bind(task.token)
        .bind(i32::from(!counts))
        .execute(self.store().pool())
        .await
        .or_domain()?;
        self.store().wake(Topic::Build(task.build.id));
        Ok(())
    }

    /// Appends a piece to the log.
    pub async fn say(&self, task: &mut BuildTask, stream: &str, text: &str) -> Result<(), Error> {
        // A text of PostgreSQL holds no U+0000.
        let text = text.replace('\0', "\u{fffd}");
        let said = sqlx::query(
            "insert into build_log (build_id, n, stream, text, at)
             select $1, $2, $3, $4, $5 where exists (select from builds where id = $1 and lease_token = $6)",
        )
        .bind(task.build.id.uuid())
        .bind(task.lines + 1)
        .bind(stream)
        .bind(text)
        .bind(self.store().now().to_utc())
        .bind(task.token)
        .execute(self.store().pool())
        .await
        .or_domain()?;
        if said.rows_affected() != 1 {
            return Err(lost(task.build.id));
        }
        task.lines += 1;
        self.store().wake(Topic::BuildLog(task.build.id));
        Ok(())
    }

    /// Which commit the source turned out to be; it is shown with the build.
    pub async fn found(&self, task: &mut BuildTask, commit: &str) -> Result<(), Error> {
        let source = sqlx::query_scalar(
            "update builds set source = jsonb_set(source::jsonb, '{git,commit}', to_jsonb($2::text))::json
             where id = $1 and lease_token = $3 returning source",
        )
        .bind(task.build.id.uuid())
        .bind(commit)
        .bind(task.token)
        .fetch_optional(self.store().pool())
        .await
        .or_domain()?;
        task.build.source = source.ok_or_else(|| lost(task.build.id))?;
        Ok(())
    }

    /// The computer the build runs in.
    pub async fn session(&self, space: SpaceId, id: SessionId) -> Result<Permit<SessionRow>, Error> {
        let mut scope = self.system.scope(space).await?;
        scope.sessions().permit(&NameOrId::Id(id), Verb::Get).await
    }

    /// What the build may reach from now on. Answers whether that is something else than before.
    pub async fn reach(&self, task: &BuildTask, network: &Value) -> Result<bool, Error> {
        let changed: Option<bool> = sqlx::query_scalar(
            "with b as (
                select session_id from builds where id = $1 and lease_token = $2 and state = 'running' for update
             ), s as (
                update sessions set network = $3::text::json, resource_version = resource_version + 1 from b
                where sessions.id = b.session_id and sessions.network::jsonb <> $3::text::jsonb returning 1
             ) select exists (select from s) from b",
        )
        .bind(task.build.id.uuid())
        .bind(task.token)
        .bind(network.to_string())
        .fetch_optional(self.store().pool())
        .await
        .or_domain()?;
        let changed = changed.ok_or_else(|| lost(task.build.id))?;
        if changed {
            self.store().wake(Topic::Session(task.build.session));
        }
        Ok(changed)
    }

    /// The build became a version, which is the active one from now on.
    pub async fn succeed(&self, task: &BuildTask, layer: &Blob, manifest: &Value) -> Result<i32, Error> {
        let build = &task.build;
        let mut scope = self.system.scope(build.space).await?;
        let now = scope.now();
        held(&mut scope, task).await?;
        let version: i32 = sqlx::query_scalar(
            "with a as (
                update agents set last_version = last_version + 1, active = last_version + 1,
                    resource_version = resource_version + 1, updated_at = $2
                where id = $1 returning last_version
             ), v as (
                insert into agent_versions (agent_id, version, build_id, blob_id, digest, bytes, manifest, created_by,
                    created_at, space_id)
                select $1, a.last_version, $3, $4, $5, $6, $7::text::json, $8, $2, $9 from a
             ) select last_version from a",
        )
        .bind(build.agent_id.uuid())
        .bind(now.to_utc())
        .bind(build.id.uuid())
        .bind(layer.id)
        .bind(&layer.digest)
        .bind(layer.bytes)
        .bind(manifest.to_string())
        .bind(&build.created_by)
        .bind(build.space.uuid())
        .fetch_one(scope.tx()?)
        .await
        .or_domain()?;
        quota::admit_packages(scope.tx()?, build.space, layer.bytes).await?;
        let row = sqlx::query(
            "select id, name, description, labels, active, resource_version, created_at, updated_at from agents
             where id = $1",
        )
        .bind(build.agent_id.uuid())
        .fetch_one(scope.tx()?)
        .await
        .or_domain()?;
        let agent = super::read(&row)?;
        let (name, changed) = (Some(agent.name.as_str()), agent.resource_version);
        let id = agent.id.uuid();
        scope.emit(Event::new("updated", Resource::Agents, id, name, changed, to_json(&agent)?));
        self.end(&mut scope, task, "succeeded", None, Some(version)).await?;
        scope.commit().await?;
        Ok(version)
    }

    pub async fn fail(&self, task: &BuildTask, reason: &str) -> Result<(), Error> {
        let mut scope = self.system.scope(task.build.space).await?;
        self.end(&mut scope, task, "failed", Some(reason), None).await?;
        scope.commit().await
    }

    async fn end(
        &self,
        scope: &mut Scope,
        task: &BuildTask,
        state: &str,
        reason: Option<&str>,
        version: Option<i32>,
    ) -> Result<(), Error> {
        let build = &task.build;
        let now = scope.now().to_utc();
        let row = sqlx::query(concat!(
            "with b as (
                update builds set state = $3, reason = $4, version = $5, ended_at = $6, lease_until = null, blob_id = null,
                    bytes = 0
                where id = $1 and lease_token = $2 and state = 'running' returning *
             ) select ",
            build_columns!(),
            " from b join agents a on a.id = b.agent_id"
        ))
        .bind(build.id.uuid())
        .bind(task.token)
        .bind(state)
        .bind(reason.map(|r| r.replace('\0', "\u{fffd}")))
        .bind(version)
        .bind(now)
        .fetch_optional(scope.tx()?)
        .await
        .or_domain()?
        .ok_or_else(|| lost(build.id))?;
        let ended = read(&row)?;
        let name = Some(ended.agent.as_str());
        scope.emit(Event::new(state, Resource::Builds, build.id.uuid(), name, 2, to_json(&ended)?));
        scope.audit(
            Verb::Update,
            Resource::Builds,
            Some(build.id.uuid()),
            name,
            json!({"state": state, "version": version}),
        );
        // The computer has done its work. One that was deleted meanwhile is gone already.
        if let Ok(permit) = scope.sessions().permit(&NameOrId::Id(build.session), Verb::Delete).await {
            scope.sessions().desire(&permit, Desired::Deleted).await?;
        }
        scope.wake(Topic::Build(build.id));
        scope.wake(Topic::BuildLog(build.id));
        Ok(())
    }
}
