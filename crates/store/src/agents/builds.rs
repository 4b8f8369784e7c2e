//! Builds as the API asks for and shows them. What is done about them is [`super::work`]'s.

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::egress::Pattern;
use wharf_domain::manifest::Place;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{AgentId, BuildId, Error, Name, SessionId, SpaceId, Time};
use wharf_ports::Topic;

use super::Agent;
use super::blobs::Blob;
use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::quota;
use crate::scope::{Row, Scope};
use crate::sessions::SessionRow;
use crate::spaces::{name, time, to_json};
use crate::store::Store;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildState {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl BuildState {
    pub const fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Build {
    pub id: BuildId,
    #[serde(skip)]
    pub space: SpaceId,
    #[serde(skip)]
    pub agent_id: AgentId,
    pub agent: Name,
    pub state: BuildState,
    pub reason: Option<String>,
    /// `{git: {url, ref, commit}}` or `{upload: digest}`; of a repository of the space also `repo` (its id) and `branch`.
    pub source: Value,
    #[serde(skip)]
    pub blob: Option<Uuid>,
    /// What was asked for with it, or with the build before it. What the package wants is in the package.
    #[serde(skip)]
    pub asked: Place,
    pub session: SessionId,
    /// What it became.
    pub version: Option<i32>,
    pub attempts: i32,
    /// What its manifest may ask for; whatever it names where there is no list.
    #[serde(skip)]
    pub egress: Option<Vec<Pattern>>,
    pub created_by: Option<String>,
    pub created_at: Time,
    pub started_at: Option<Time>,
    pub ended_at: Option<Time>,
}

impl Row for Build {
    const KIND: &'static str = "build";
    const RESOURCE: Resource = Resource::Builds;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    /// Rules that name builds name their agents.
    fn name(&self) -> Option<&str> {
        Some(self.agent.as_str())
    }
}

pub struct NewBuild {
    pub source: Value,
    pub blob: Option<Blob>,
    pub asked: Place,
    pub egress: Option<Vec<Pattern>>,
}

/// One piece of what a build printed.
#[derive(Clone, Debug)]
pub struct Line {
    pub n: i64,
    pub stream: String,
    pub text: String,
    pub at: Time,
}

pub struct Builds<'s>(pub(crate) &'s mut Scope);

impl Scope {
    pub fn builds(&mut self) -> Builds<'_> {
        Builds(self)
    }
}

macro_rules! build_columns {
    () => {
        "b.id, b.space_id, b.agent_id, a.name, b.state, b.reason, b.source, b.blob_id, b.session_id, b.version, \
         b.attempts, b.egress, b.created_by, b.created_at, b.started_at, b.ended_at, b.image, b.resources"
    };
}

pub(super) use build_columns;

impl Builds<'_> {
    pub async fn allow(&mut self, agent: &Name) -> Result<Permit<New<Build>>, Error> {
        self.0.allow_new::<Build>(Some(agent.as_str())).await
    }

    /// Queues a build in a session that was made for it in the same transaction.
    pub async fn create(
        &mut self,
        _permit: &Permit<New<Build>>,
        agent: &Permit<Agent>,
        session: &SessionRow,
        new: NewBuild,
    ) -> Result<Build, Error> {
        let id = BuildId::new();
        let author = self.0.caller().identity().name.clone();
        let source_bytes = new.blob.as_ref().map_or(0, |b| b.bytes);
        let row = sqlx::query(concat!(
            "with b as (
                insert into builds (id, space_id, agent_id, state, source, blob_id, session_id, created_by, created_at,
                    image, resources, egress, bytes)
                values ($1, $2, $3, 'queued', $4::text::json, $5, $6, $7, $8, $9, $10::text::json, $11, $12) returning *
             ), o as (
                -- What a push owed to the agent before this is behind it.
                delete from push_builds where agent_id = $3
             ) select ",
            build_columns!(),
            " from b join agents a on a.id = b.agent_id"
        ))
        .bind(id.uuid())
        .bind(session.space.uuid())
        .bind(agent.id.uuid())
        .bind(serde_json::to_string(&new.source).map_err(Error::internal)?)
        .bind(new.blob.as_ref().map(|b| b.id))
        .bind(session.id.uuid())
        .bind(author)
        .bind(self.0.now().to_utc())
        .bind(new.asked.image.as_ref().map(Name::as_str))
        .bind(serde_json::to_string(&new.asked.resources).map_err(Error::internal)?)
        .bind(new.egress.as_ref().map(to_json).transpose()?)
        .bind(source_bytes)
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        quota::admit_packages(self.0.tx()?, session.space, source_bytes).await?;
        let build = read(&row)?;
        let called = Some(build.agent.as_str());
        let detail = json!({"source": build.source, "session": build.session, "egress": build.egress});
        self.0.audit(Verb::Create, Resource::Builds, Some(id.uuid()), called, detail);
        self.0.emit(Event::new("created", Resource::Builds, id.uuid(), called, 1, to_json(&build)?));
        self.0.wake(Topic::Build(id));
        Ok(build)
    }

    /// What was asked for with the newest build of an agent; nothing where there is none.
    pub async fn asked_last(&mut self, agent: AgentId) -> Result<Place, Error> {
        let space = self.0.space()?.id;
        let row = sqlx::query(
            "select image, resources from builds where space_id = $1 and agent_id = $2 order by id desc limit 1",
        )
        .bind(space.uuid())
        .bind(agent.uuid())
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        row.as_ref().map(asked).transpose().map(Option::unwrap_or_default)
    }

    pub async fn permit(&mut self, id: BuildId, verb: Verb) -> Result<Permit<Build>, Error> {
        let space = self.0.space()?.id;
        let row = sqlx::query(locked!(
            verb,
            " for update of b",
            "select ",
            build_columns!(),
            " from builds b join agents a on a.id = b.agent_id where b.space_id = $1 and b.id = $2"
        ))
        .bind(space.uuid())
        .bind(id.uuid())
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(read).transpose()?;
        self.0.judge(&id.to_string(), row, verb).await
    }

    /// Oldest first; of one agent where it is named.
    pub async fn list(&mut self, agent: Option<&Name>, request: &PageRequest) -> Result<Page<Build>, Error> {
        let space = self.0.space()?.id;
        let visible = self.0.listing(Resource::Builds, Verb::List).await?;
        let rows = sqlx::query(concat!(
            "select ",
            build_columns!(),
            " from builds b join agents a on a.id = b.agent_id
             where b.space_id = $1 and b.id > $2 and ($3::text[] is null or a.name = any($3))
               and ($4::text is null or a.name = $4) order by b.id limit $5"
        ))
        .bind(space.uuid())
        .bind(request.after())
        .bind(visible.names())
        .bind(agent.map(Name::as_str))
        .bind(request.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(rows, |b| b.id.uuid()))
    }
}

impl Store {
    /// What a build printed behind `after`, and how it stands. The permit is what opened the stream.
    pub async fn build_log(
        &self,
        permit: &Permit<Build>,
        after: i64,
        limit: i64,
    ) -> Result<(Vec<Line>, Build), Error> {
        // The state first: what was printed before the end is there when the end is seen.
        let row = sqlx::query(concat!(
            "select ",
            build_columns!(),
            " from builds b join agents a on a.id = b.agent_id where b.id = $1"
        ))
        .bind(permit.id.uuid())
        .fetch_optional(self.pool())
        .await
        .or_domain()?
        .ok_or_else(|| Error::not_found("build", permit.id))?;
        let build = read(&row)?;
        let rows = sqlx::query(
            "select n, stream, text, at from build_log where build_id = $1 and n > $2 order by n limit $3",
        )
        .bind(permit.id.uuid())
        .bind(after)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .or_domain()?;
        let lines = rows
            .iter()
            .map(|row| {
                Ok(Line {
                    n: row.try_get("n").or_domain()?,
                    stream: row.try_get("stream").or_domain()?,
                    text: row.try_get("text").or_domain()?,
                    at: time(row, "at")?,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        Ok((lines, build))
    }
}

fn maybe_time(row: &PgRow, column: &str) -> Result<Option<Time>, Error> {
    crate::sessions::row::maybe_time(row, column).or_domain()
}

pub(super) fn read(row: &PgRow) -> Result<Build, Error> {
    Ok(Build {
        id: BuildId::from_uuid(row.try_get("id").or_domain()?),
        space: SpaceId::from_uuid(row.try_get("space_id").or_domain()?),
        agent_id: AgentId::from_uuid(row.try_get("agent_id").or_domain()?),
        agent: name(row, "name")?,
        state: match row.try_get("state").or_domain()? {
            "queued" => BuildState::Queued,
            "running" => BuildState::Running,
            "succeeded" => BuildState::Succeeded,
            "cancelled" => BuildState::Cancelled,
            _ => BuildState::Failed,
        },
        reason: row.try_get("reason").or_domain()?,
        source: row.try_get("source").or_domain()?,
        blob: row.try_get("blob_id").or_domain()?,
        session: SessionId::from_uuid(row.try_get("session_id").or_domain()?),
        version: row.try_get("version").or_domain()?,
        attempts: row.try_get("attempts").or_domain()?,
        egress: row
            .try_get::<Option<Value>, _>("egress")
            .or_domain()?
            .map(|hosts| serde_json::from_value(hosts).map_err(Error::internal))
            .transpose()?,
        created_by: row.try_get("created_by").or_domain()?,
        created_at: time(row, "created_at")?,
        started_at: maybe_time(row, "started_at")?,
        ended_at: maybe_time(row, "ended_at")?,
        asked: asked(row)?,
    })
}

/// What was named with a build.
fn asked(row: &PgRow) -> Result<Place, Error> {
    let image: Option<String> = row.try_get("image").or_domain()?;
    let resources: Value = row.try_get("resources").or_domain()?;
    Ok(Place {
        image: image.map(|text| text.parse()).transpose().map_err(Error::internal)?,
        resources: serde_json::from_value(resources).map_err(Error::internal)?,
    })
}
