//! Builds that pushes owe to the agents that follow their branches.
//!
//! Written down in the commit that settles a push and taken out in the one that begins the build: whatever dies in between, a
//! push is built once. A later build of an agent, whoever asked for it, settles what is owed to it.

use std::time::Duration;

use sqlx::Row as _;
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{AgentId, Error, Name, NameOrId, PrincipalId, PushId, RepoId, SpaceId, TokenId};

use super::work::OpenPush;
use crate::agents::builds::Builds;
use crate::caller::{Caller, CredentialKind};
use crate::error::OrDomain as _;
use crate::scope::Scope;
use crate::spaces::name;
use crate::system::System;

/// Owed builds looked at in one go.
const PAGE: i64 = 100;

/// Who pushed, for what is done in their name when nobody has their credential any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pusher {
    pub principal: PrincipalId,
    /// The API token they pushed with: what it may is less than what they may.
    pub token: Option<TokenId>,
    /// Who acted as them.
    pub impersonator: Option<PrincipalId>,
}

impl Pusher {
    pub fn of(caller: &Caller) -> Self {
        let token = match caller.credential() {
            CredentialKind::ApiToken(token) => Some(token),
            _ => None,
        };
        Self { principal: caller.identity().id, token, impersonator: caller.impersonator().map(|i| i.id) }
    }

    /// Columns `principal`, `token` and `impersonator`; none of a push from before they were kept.
    pub(super) fn read(row: &sqlx::postgres::PgRow) -> Result<Option<Self>, Error> {
        let Some(principal) = row.try_get::<Option<Uuid>, _>("principal").or_domain()? else {
            return Ok(None);
        };
        Ok(Some(Self {
            principal: PrincipalId::from_uuid(principal),
            token: row.try_get::<Option<Uuid>, _>("token").or_domain()?.map(TokenId::from_uuid),
            impersonator: row
                .try_get::<Option<Uuid>, _>("impersonator")
                .or_domain()?
                .map(PrincipalId::from_uuid),
        }))
    }
}

/// A build that is owed.
#[derive(Clone, Debug)]
pub struct Due {
    pub agent: AgentId,
    pub name: Name,
    pub space: SpaceId,
    pub repo: RepoId,
    pub branch: String,
    pub push: PushId,
    pub by: Pusher,
}

/// An agent whose newest build came from a branch of one of the space's repositories follows that branch: owes a build to each
/// that follows one of these.
pub(super) async fn owe(
    scope: &mut Scope,
    push: &OpenPush,
    by: Pusher,
    branches: &[String],
) -> Result<Vec<Due>, Error> {
    let now = scope.now().to_utc();
    let rows = sqlx::query(
        "with f as (
            select a.id, a.name, n.source ->> 'branch' as branch from agents a cross join lateral
                (select source from builds b where b.agent_id = a.id order by b.id desc limit 1) n
             where a.space_id = $1 and n.source ->> 'repo' = $2 and n.source ->> 'branch' = any($3)
         ), d as (
            insert into push_builds (agent_id, repo_id, branch, push_id, principal, token, impersonator, created_at)
            select f.id, $4, f.branch, $5, $6, $7, $8, $9 from f
            on conflict (agent_id) do update
            set repo_id = excluded.repo_id, branch = excluded.branch, push_id = excluded.push_id,
                principal = excluded.principal, token = excluded.token, impersonator = excluded.impersonator,
                attempts = 0, created_at = excluded.created_at
         )
         select id, name, branch from f order by name",
    )
    .bind(push.space.uuid())
    .bind(push.repo.to_string())
    .bind(branches)
    .bind(push.repo.uuid())
    .bind(push.id.uuid())
    .bind(by.principal.uuid())
    .bind(by.token.map(TokenId::uuid))
    .bind(by.impersonator.map(PrincipalId::uuid))
    .bind(now)
    .fetch_all(scope.tx()?)
    .await
    .or_domain()?;
    rows.iter()
        .map(|row| {
            Ok(Due {
                agent: AgentId::from_uuid(row.try_get("id").or_domain()?),
                name: name(row, "name")?,
                space: push.space,
                repo: push.repo,
                branch: row.try_get("branch").or_domain()?,
                push: push.id,
                by,
            })
        })
        .collect()
}

impl System {
    /// Builds that have been owed for at least that long: nobody is at them any more.
    pub async fn owed_builds(&self, since: Duration) -> Result<Vec<Due>, Error> {
        self.may_keep_repos(None)?;
        let since = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let before = wharf_domain::Time::from_millis(self.store.now().millis().saturating_sub(since));
        let rows = sqlx::query(
            "select d.*, a.name, a.space_id from push_builds d join agents a on a.id = d.agent_id
             where d.created_at <= $1 order by d.created_at, d.agent_id limit $2",
        )
        .bind(before.to_utc())
        .bind(PAGE)
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        let mut owed = Vec::with_capacity(rows.len());
        for row in &rows {
            let Some(by) = Pusher::read(row)? else { continue };
            owed.push(Due {
                agent: AgentId::from_uuid(row.try_get("agent_id").or_domain()?),
                name: name(row, "name")?,
                space: SpaceId::from_uuid(row.try_get("space_id").or_domain()?),
                repo: RepoId::from_uuid(row.try_get("repo_id").or_domain()?),
                branch: row.try_get("branch").or_domain()?,
                push: PushId::from_uuid(row.try_get("push_id").or_domain()?),
                by,
            });
        }
        Ok(owed)
    }

    /// It was tried once more and did not begin. Answers how often that was.
    pub async fn build_put_off(&self, due: &Due) -> Result<i32, Error> {
        self.may_keep_repos(Some(due.space))?;
        let attempts: Option<i32> = sqlx::query_scalar(
            "update push_builds set attempts = attempts + 1 where agent_id = $1 and push_id = $2 returning attempts",
        )
        .bind(due.agent.uuid())
        .bind(due.push.uuid())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        Ok(attempts.unwrap_or(0))
    }

    /// It will not be built, for this reason.
    pub async fn build_given_up(&self, due: &Due, why: &str) -> Result<(), Error> {
        let mut scope = self.scope(due.space).await?;
        self.may_keep_repos(Some(due.space))?;
        let gone = sqlx::query("delete from push_builds where agent_id = $1 and push_id = $2")
            .bind(due.agent.uuid())
            .bind(due.push.uuid())
            .execute(scope.tx()?)
            .await
            .or_domain()?;
        if gone.rows_affected() > 0 {
            let detail = serde_json::json!({"push": due.push, "branch": due.branch, "reason": why});
            let (id, name) = (Some(due.agent.uuid()), Some(due.name.as_str()));
            scope.audit_as(
                Verb::Create.as_str(),
                Resource::Builds.as_str(),
                id,
                name,
                crate::audit::Outcome::Failed,
                detail,
            );
        }
        scope.commit().await
    }
}

impl Builds<'_> {
    /// Takes out what is owed; the build that is begun in this transaction is it. False when somebody has begun it.
    pub async fn take_owed(&mut self, due: &Due) -> Result<bool, Error> {
        let taken = sqlx::query("delete from push_builds where agent_id = $1 and push_id = $2")
            .bind(due.agent.uuid())
            .bind(due.push.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        Ok(taken.rows_affected() > 0)
    }
}

impl Due {
    pub fn space(&self) -> NameOrId<SpaceId> {
        NameOrId::Id(self.space)
    }
}
