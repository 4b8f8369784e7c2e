//! Agents of a space: packages with numbered versions, one of them active. Versions come from builds and never change.

pub mod blobs;
pub mod builds;
pub mod cache;
mod cancel;
mod place;
pub mod versions;
pub mod work;

use serde::Serialize;
use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{AgentId, Code, Error, Labels, Name, NameOrId, Time};

use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::scope::{Row, Scope};
use crate::spaces::{check_version, from_json, name, split, time, to_json};

pub use builds::{Build, BuildState, Line, NewBuild};
pub use versions::{Unmet, Version};

#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    pub id: AgentId,
    pub name: Name,
    pub description: Option<String>,
    pub labels: Labels,
    /// The version sessions get that name none.
    pub active: Option<i32>,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Row for Agent {
    const KIND: &'static str = "agent";
    const RESOURCE: Resource = Resource::Agents;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

pub struct NewAgent {
    pub name: Name,
    pub description: Option<String>,
    pub labels: Labels,
}

#[derive(Default)]
pub struct AgentPatch {
    /// `Some(None)` removes it.
    pub description: Option<Option<String>>,
    pub labels: Option<Labels>,
}

/// Messages for this module's constraints; see [`crate::error`].
pub(crate) fn constraint(name: &str) -> Option<(Code, &'static str, &'static str)> {
    (name == "agents_name").then_some((
        Code::AlreadyExists,
        "name",
        "there is already an agent of that name in the space; build a new version of it, or choose another name",
    ))
}

pub struct Agents<'s>(pub(super) &'s mut Scope);

impl Scope {
    pub fn agents(&mut self) -> Agents<'_> {
        Agents(self)
    }
}

macro_rules! columns {
    () => {
        "id, name, description, labels, active, resource_version, created_at, updated_at"
    };
}

impl Agents<'_> {
    pub async fn permit(&mut self, at: &NameOrId<AgentId>, verb: Verb) -> Result<Permit<Agent>, Error> {
        let space = self.0.space()?.id;
        let (id, named) = split(at);
        let row = sqlx::query(locked!(
            verb,
            " for no key update",
            "select ",
            columns!(),
            " from agents where space_id = $1 and (id = $2 or name = $3)"
        ))
        .bind(space.uuid())
        .bind(id)
        .bind(named)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(read).transpose()?;
        self.0.judge(&at.to_string(), row, verb).await
    }

    pub async fn allow(&mut self, name: &Name) -> Result<Permit<New<Agent>>, Error> {
        self.0.allow_new::<Agent>(Some(name.as_str())).await
    }

    pub async fn create(&mut self, _permit: &Permit<New<Agent>>, new: NewAgent) -> Result<Agent, Error> {
        check_description(new.description.as_deref())?;
        let space = self.0.space()?.id;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "insert into agents (id, space_id, name, description, labels, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $6) returning ",
            columns!()
        ))
        .bind(AgentId::new().uuid())
        .bind(space.uuid())
        .bind(new.name.as_str())
        .bind(&new.description)
        .bind(to_json(&new.labels)?)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let agent = read(&row)?;
        self.note("created", Verb::Create, &agent, json!({}))?;
        Ok(agent)
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<Agent>, Error> {
        let space = self.0.space()?.id;
        let visible = self.0.listing(Resource::Agents, Verb::List).await?;
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from agents
             where space_id = $1 and id > $2 and ($3::text[] is null or name = any($3)) and labels @> $4 and labels ?& $5
             order by id limit $6"
        ))
        .bind(space.uuid())
        .bind(request.after())
        .bind(visible.names())
        .bind(request.label_pairs())
        .bind(request.label_keys())
        .bind(request.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(rows, |a| a.id.uuid()))
    }

    pub async fn update(
        &mut self,
        permit: &Permit<Agent>,
        patch: AgentPatch,
        if_version: Option<i64>,
    ) -> Result<Agent, Error> {
        permit.demand(Verb::Update)?;
        check_version(permit.resource_version, if_version)?;
        check_description(patch.description.as_ref().and_then(Option::as_deref))?;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "update agents set description = case when $2 then $3 else description end, labels = coalesce($4, labels),
                resource_version = resource_version + 1, updated_at = $5 where id = $1 returning ",
            columns!()
        ))
        .bind(permit.id.uuid())
        .bind(patch.description.is_some())
        .bind(patch.description.flatten())
        .bind(patch.labels.as_ref().map(to_json).transpose()?)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let agent = read(&row)?;
        self.note("updated", Verb::Update, &agent, json!({}))?;
        Ok(agent)
    }

    /// Removes the agent with its versions and builds. Sessions that have it keep it.
    pub async fn delete(&mut self, permit: &Permit<Agent>, if_version: Option<i64>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        let open: i64 = sqlx::query_scalar(
            "select count(*) from builds where agent_id = $1 and state in ('queued', 'running')",
        )
        .bind(permit.id.uuid())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        if open > 0 {
            return Err(Error::new(
                Code::InUse,
                format!(
                    "{open} builds of {} are not at their end; wait for them, or cancel them (wharf agent cancel)",
                    permit.name
                ),
            ));
        }
        sqlx::query("delete from agents where id = $1")
            .bind(permit.id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        self.note("deleted", Verb::Delete, permit.row(), json!({}))
    }

    pub(super) fn note(
        &mut self,
        kind: &str,
        verb: Verb,
        agent: &Agent,
        detail: serde_json::Value,
    ) -> Result<(), Error> {
        let (id, name) = (agent.id.uuid(), Some(agent.name.as_str()));
        self.0.audit(verb, Resource::Agents, Some(id), name, detail);
        self.0.emit(Event::new(kind, Resource::Agents, id, name, agent.resource_version, to_json(agent)?));
        Ok(())
    }
}

fn check_description(text: Option<&str>) -> Result<(), Error> {
    if text.is_some_and(|t| t.len() > 1024) {
        return Err(Error::new(Code::InvalidField, "a description has up to 1024 bytes").field("description"));
    }
    Ok(())
}

pub(super) fn read(row: &PgRow) -> Result<Agent, Error> {
    Ok(Agent {
        id: AgentId::from_uuid(row.try_get("id").or_domain()?),
        name: name(row, "name")?,
        description: row.try_get("description").or_domain()?,
        labels: from_json(row.try_get("labels").or_domain()?)?,
        active: row.try_get("active").or_domain()?,
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}
