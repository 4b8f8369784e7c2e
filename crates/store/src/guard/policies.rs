//! Policies of a space: made, listed and changed by name.

use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;
use wharf_domain::guard::Rule;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, Labels, Name, NameOrId, PolicyId, Time, limits};

use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::scope::{Row, Scope};
use crate::spaces::{check_version, from_json, name, split, time, to_json};

#[derive(Clone, Debug)]
pub struct Policy {
    pub id: PolicyId,
    pub name: Name,
    pub labels: Labels,
    /// The smaller is asked first.
    pub priority: u16,
    pub rules: Vec<Rule>,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Row for Policy {
    const KIND: &'static str = "policy";
    const RESOURCE: Resource = Resource::Policies;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

/// Its rules were checked.
pub struct NewPolicy {
    pub name: Name,
    pub labels: Labels,
    pub priority: u16,
    pub rules: Vec<Rule>,
}

/// What changes; `None` leaves it.
#[derive(Default)]
pub struct PolicyPatch {
    pub labels: Option<Labels>,
    pub priority: Option<u16>,
    pub rules: Option<Vec<Rule>>,
}

pub struct Policies<'s>(&'s mut Scope);

impl Scope {
    pub fn policies(&mut self) -> Policies<'_> {
        Policies(self)
    }
}

macro_rules! columns {
    () => {
        "id, name, labels, priority, rules, resource_version, created_at, updated_at"
    };
}
pub(super) use columns;

impl Policies<'_> {
    pub async fn permit(&mut self, at: &NameOrId<PolicyId>, verb: Verb) -> Result<Permit<Policy>, Error> {
        let space = self.0.space()?.id;
        let (id, named) = split(at);
        let row = sqlx::query(locked!(
            verb,
            " for no key update",
            "select ",
            columns!(),
            " from policies where space_id = $1 and (id = $2 or name = $3)"
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

    pub async fn allow(&mut self, name: &Name) -> Result<Permit<New<Policy>>, Error> {
        self.0.allow_new::<Policy>(Some(name.as_str())).await
    }

    pub async fn create(&mut self, _permit: &Permit<New<Policy>>, new: NewPolicy) -> Result<Policy, Error> {
        let space = self.0.space()?.id;
        let count: i64 = sqlx::query_scalar("select count(*) from policies where space_id = $1")
            .bind(space.uuid())
            .fetch_one(self.0.tx()?)
            .await
            .or_domain()?;
        if count as usize >= limits::POLICIES {
            let most = limits::POLICIES;
            let detail = format!("a space has up to {most} policies (POLICIES); delete one first");
            return Err(Error::new(Code::QuotaExceeded, detail));
        }
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "insert into policies (id, space_id, name, labels, priority, rules, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $7) returning ",
            columns!()
        ))
        .bind(PolicyId::new().uuid())
        .bind(space.uuid())
        .bind(new.name.as_str())
        .bind(to_json(&new.labels)?)
        .bind(i32::from(new.priority))
        .bind(Json(&new.rules))
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let policy = read(&row)?;
        self.note("created", Verb::Create, &policy);
        Ok(policy)
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<Policy>, Error> {
        let space = self.0.space()?.id;
        let visible = self.0.listing(Resource::Policies, Verb::List).await?;
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from policies
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
        Ok(request.page(rows, |p| p.id.uuid()))
    }

    pub async fn update(
        &mut self,
        permit: &Permit<Policy>,
        patch: PolicyPatch,
        if_version: Option<i64>,
    ) -> Result<Policy, Error> {
        permit.demand(Verb::Update)?;
        check_version(permit.resource_version, if_version)?;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "update policies set labels = coalesce($2, labels), priority = coalesce($3, priority),
                rules = coalesce($4::text::json, rules), resource_version = resource_version + 1, updated_at = $5
             where id = $1 returning ",
            columns!()
        ))
        .bind(permit.id.uuid())
        .bind(patch.labels.as_ref().map(to_json).transpose()?)
        .bind(patch.priority.map(i32::from))
        .bind(patch.rules.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)?)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let policy = read(&row)?;
        self.note("updated", Verb::Update, &policy);
        Ok(policy)
    }

    pub async fn delete(&mut self, permit: &Permit<Policy>, if_version: Option<i64>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        sqlx::query("delete from policies where id = $1")
            .bind(permit.id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        self.note("deleted", Verb::Delete, permit.row());
        Ok(())
    }

    /// The audit entry holds the rules, so that it says what was forbidden when.
    fn note(&mut self, kind: &str, verb: Verb, policy: &Policy) {
        let (id, name) = (policy.id.uuid(), Some(policy.name.as_str()));
        let detail = json!({"priority": policy.priority, "rules": policy.rules});
        self.0.audit(verb, Resource::Policies, Some(id), name, detail);
        let data = json!({"priority": policy.priority, "rules": policy.rules.len()});
        self.0.emit(Event::new(kind, Resource::Policies, id, name, policy.resource_version, data));
    }
}

pub(super) fn read(row: &PgRow) -> Result<Policy, Error> {
    Ok(Policy {
        id: PolicyId::from_uuid(row.try_get("id").or_domain()?),
        name: name(row, "name")?,
        labels: from_json(row.try_get("labels").or_domain()?)?,
        priority: row.try_get::<i32, _>("priority").or_domain()?.clamp(0, i32::from(u16::MAX)) as u16,
        rules: row.try_get::<Json<Vec<Rule>>, _>("rules").or_domain()?.0,
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}
