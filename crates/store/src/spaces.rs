//! Spaces: the tenant boundary, its labels, quotas and defaults.
//!
//! A space is deleted only when nothing is left in it; the answer names what is.

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;
use wharf_domain::quota::Quotas;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, Labels, Name, NameOrId, SpaceId, Time};

use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::scope::{Row, Scope, SpaceRef};

#[derive(Clone, Debug, Serialize)]
pub struct Space {
    pub id: SpaceId,
    pub name: Name,
    pub labels: Labels,
    pub quotas: Quotas,
    pub defaults: Value,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Row for Space {
    const KIND: &'static str = "space";
    const RESOURCE: Resource = Resource::Spaces;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
    fn at(&self, _scope: Option<SpaceId>) -> Option<SpaceId> {
        Some(self.id)
    }
}

#[derive(Clone, Debug)]
pub struct NewSpace {
    pub name: Name,
    pub labels: Labels,
    pub quotas: Quotas,
    pub defaults: Value,
}

/// What a merge patch changes; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct SpacePatch {
    pub name: Option<Name>,
    pub labels: Option<Labels>,
    pub quotas: Option<Quotas>,
    pub defaults: Option<Value>,
}

/// What of the quotas is reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub sessions: u64,
    pub running_sessions: u64,
    pub cpu_millis: u64,
    pub memory_mib: u64,
    pub disk_mib: u64,
    pub git_bytes: u64,
    pub package_bytes: u64,
}

pub struct Spaces<'s>(&'s mut Scope);

impl Spaces<'_> {
    pub(crate) fn scope(&mut self) -> &mut Scope {
        self.0
    }
}

impl Scope {
    pub fn spaces(&mut self) -> Spaces<'_> {
        Spaces(self)
    }
}

macro_rules! columns {
    () => {
        "id, name, labels, quotas, defaults, resource_version, created_at, updated_at"
    };
}

impl Spaces<'_> {
    pub async fn permit(&mut self, space: &NameOrId<SpaceId>, verb: Verb) -> Result<Permit<Space>, Error> {
        let (id, name) = split(space);
        let row = sqlx::query(locked!(
            verb,
            " for no key update",
            "select ",
            columns!(),
            " from spaces where id = $1 or name = $2"
        ))
        .bind(id)
        .bind(name)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(read).transpose()?;
        self.0.judge(&space.to_string(), row, verb).await
    }

    pub async fn allow(&mut self, verb: Verb, name: &Name) -> Result<Permit<New<Space>>, Error> {
        debug_assert_eq!(verb, Verb::Create);
        self.0.allow_new::<Space>(Some(name.as_str())).await
    }

    pub async fn create(&mut self, _permit: &Permit<New<Space>>, new: NewSpace) -> Result<Space, Error> {
        let id = SpaceId::new();
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "with s as (
                insert into spaces (id, name, labels, quotas, defaults, created_at, updated_at)
                values ($1, $2, $3, $4, $5, $6, $6) returning ",
            columns!(),
            "), u as (insert into space_usage (space_id) values ($1))
             select * from s"
        ))
        .bind(id.uuid())
        .bind(new.name.as_str())
        .bind(to_json(&new.labels)?)
        .bind(to_json(&new.quotas)?)
        .bind(&new.defaults)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let space = read(&row)?;
        self.note("created", Verb::Create, &space, json!({"quotas": space.quotas}))?;
        Ok(space)
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<Space>, Error> {
        let caller = self.0.caller().clone();
        // A grant in one space lets that space be listed; a global one all of them.
        let everywhere = caller.visible(None, Resource::Spaces, Verb::List);
        let here: Vec<Uuid> = caller
            .rights
            .grants
            .iter()
            .filter_map(|g| g.space)
            .filter(|s| {
                caller.visible(Some(*s), Resource::Spaces, Verb::List) != crate::caller::Visible::Nothing
            })
            .map(SpaceId::uuid)
            .collect();
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from spaces
             where id > $1 and (($2::text[] is null or name = any($2)) or id = any($3))
               and labels @> $4 and labels ?& $5
             order by id limit $6"
        ))
        .bind(request.after())
        .bind(everywhere.names())
        .bind(&here)
        .bind(request.label_pairs())
        .bind(request.label_keys())
        .bind(request.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let page = request.page(rows, |r| r.get("id"));
        let mut items = Vec::with_capacity(page.items.len());
        for row in &page.items {
            let space = read(row)?;
            if caller.may(Some(space.id), Resource::Spaces, Verb::List, Some(space.name.as_str())) {
                items.push(space);
            }
        }
        Ok(Page { items, next_cursor: page.next_cursor })
    }

    /// `if_version` is the `If-Match` of the request.
    pub async fn update(
        &mut self,
        permit: &Permit<Space>,
        patch: SpacePatch,
        if_version: Option<i64>,
    ) -> Result<Space, Error> {
        permit.demand(Verb::Update)?;
        check_version(permit.resource_version, if_version)?;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "update spaces set name = coalesce($2, name), labels = coalesce($3, labels), quotas = coalesce($4, quotas),
                defaults = coalesce($5, defaults), resource_version = resource_version + 1, updated_at = $6
             where id = $1 returning ",
            columns!()
        ))
        .bind(permit.id.uuid())
        .bind(patch.name.as_ref().map(Name::as_str))
        .bind(patch.labels.as_ref().map(to_json).transpose()?)
        .bind(patch.quotas.as_ref().map(to_json).transpose()?)
        .bind(&patch.defaults)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let space = read(&row)?;
        let detail = json!({"before": {"name": permit.name, "quotas": permit.quotas}, "after": {"name": space.name, "quotas": space.quotas}});
        self.note("updated", Verb::Update, &space, detail)?;
        Ok(space)
    }

    /// `in_use`, naming what is left, unless the space is empty.
    pub async fn delete(&mut self, permit: &Permit<Space>, if_version: Option<i64>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        crate::sessions::work::leftovers::purge_gone(self.0.tx()?, permit.id).await?;
        sqlx::query("delete from spaces where id = $1")
            .bind(permit.id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        self.note("deleted", Verb::Delete, permit.row(), json!({}))
    }

    /// Needs `get` on usage in that space.
    pub async fn usage(&mut self, permit: &Permit<Space>) -> Result<Usage, Error> {
        self.may_see_usage(permit).await?;
        let row = sqlx::query(
            "select sessions, running_sessions, cpu_millis, memory_mib, disk_mib, git_bytes, package_bytes from space_usage
             where space_id = $1",
        )
        .bind(permit.id.uuid())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let number = |name: &str| row.try_get::<i64, _>(name).map(|n| n as u64).or_domain();
        Ok(Usage {
            sessions: number("sessions")?,
            running_sessions: number("running_sessions")?,
            cpu_millis: number("cpu_millis")?,
            memory_mib: number("memory_mib")?,
            disk_mib: number("disk_mib")?,
            git_bytes: number("git_bytes")?,
            package_bytes: number("package_bytes")?,
        })
    }

    fn note(&mut self, kind: &str, verb: Verb, space: &Space, detail: Value) -> Result<(), Error> {
        let (id, name) = (space.id.uuid(), Some(space.name.as_str()));
        self.0.audit(verb, Resource::Spaces, Some(id), name, detail);
        let data = to_json(space)?;
        self.0.emit(
            Event::new(kind, Resource::Spaces, id, name, space.resource_version, data).in_space(space.id),
        );
        Ok(())
    }
}

/// `412` when the caller's `If-Match` names another version.
pub(crate) fn check_version(have: i64, want: Option<i64>) -> Result<(), Error> {
    match want {
        Some(want) if want != have => Err(Error::new(
            Code::PreconditionFailed,
            format!("its resource_version is {have}, not {want}; read it again and repeat the change"),
        )),
        _ => Ok(()),
    }
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(Error::internal)
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(Error::internal)
}

pub(crate) fn time(row: &sqlx::postgres::PgRow, column: &str) -> Result<Time, Error> {
    Ok(row.try_get::<chrono::DateTime<chrono::Utc>, _>(column).or_domain()?.into())
}

pub(crate) fn time_opt(row: &sqlx::postgres::PgRow, column: &str) -> Result<Option<Time>, Error> {
    Ok(row.try_get::<Option<chrono::DateTime<chrono::Utc>>, _>(column).or_domain()?.map(Time::from))
}

pub(crate) fn name(row: &sqlx::postgres::PgRow, column: &str) -> Result<Name, Error> {
    row.try_get::<String, _>(column).or_domain()?.parse().map_err(|e: Error| Error::internal(e.to_string()))
}

/// For `id = $1 or name = $2`: one of the two is null.
pub(crate) fn split<I: Copy + Into<Uuid>>(at: &NameOrId<I>) -> (Option<Uuid>, Option<&str>) {
    match at {
        NameOrId::Id(id) => (Some((*id).into()), None),
        NameOrId::Name(name) => (None, Some(name.as_str())),
    }
}

fn read(row: &sqlx::postgres::PgRow) -> Result<Space, Error> {
    Ok(Space {
        id: SpaceId::from_uuid(row.try_get("id").or_domain()?),
        name: name(row, "name")?,
        labels: from_json(row.try_get("labels").or_domain()?)?,
        quotas: from_json(row.try_get("quotas").or_domain()?)?,
        defaults: row.try_get("defaults").or_domain()?,
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}

pub(crate) async fn find_ref(
    tx: &mut PgConnection,
    space: &NameOrId<SpaceId>,
) -> Result<Option<SpaceRef>, Error> {
    // Two statements rather than an `or`: each is one index look-up, and this is on every request's path.
    let query = match space {
        NameOrId::Id(id) => {
            sqlx::query("select id, name, quotas, defaults from spaces where id = $1").bind(id.uuid())
        }
        NameOrId::Name(name) => {
            sqlx::query("select id, name, quotas, defaults from spaces where name = $1").bind(name.as_str())
        }
    };
    let Some(row) = query.fetch_optional(tx).await.or_domain()? else { return Ok(None) };
    Ok(Some(SpaceRef {
        id: SpaceId::from_uuid(row.try_get("id").or_domain()?),
        name: name(&row, "name")?,
        quotas: from_json(row.try_get("quotas").or_domain()?)?,
        defaults: row.try_get("defaults").or_domain()?,
    }))
}
