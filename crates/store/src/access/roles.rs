//! Roles: named lists of rules. The built-in ones cannot be changed; nobody writes a role that says more than he
//! may do himself.

use serde::Serialize;
use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Rule, Verb};
use wharf_domain::{Code, Error, Labels, Name, NameOrId, RoleId, Time};

use crate::access::cover;
use crate::error::OrDomain as _;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::scope::{Row, Scope};
use crate::spaces::{check_version, from_json, name, split, time, to_json};

const MAX_RULES: usize = 256;

#[derive(Clone, Debug, Serialize)]
pub struct Role {
    pub id: RoleId,
    pub name: Name,
    pub built_in: bool,
    pub rules: Vec<Rule>,
    pub labels: Labels,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Row for Role {
    const KIND: &'static str = "role";
    const RESOURCE: Resource = Resource::Roles;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

pub struct NewRole {
    pub name: Name,
    pub rules: Vec<Rule>,
    pub labels: Labels,
}

#[derive(Default)]
pub struct RolePatch {
    pub rules: Option<Vec<Rule>>,
    pub labels: Option<Labels>,
}

pub struct Roles<'s>(&'s mut Scope);

impl Scope {
    pub fn roles(&mut self) -> Roles<'_> {
        Roles(self)
    }
}

macro_rules! columns {
    () => {
        "id, name, built_in, rules, labels, resource_version, created_at, updated_at"
    };
}

impl Roles<'_> {
    pub async fn permit(&mut self, at: &NameOrId<RoleId>, verb: Verb) -> Result<Permit<Role>, Error> {
        let (id, named) = split(at);
        let row = sqlx::query(locked!(
            verb,
            " for no key update",
            "select ",
            columns!(),
            " from roles where id = $1 or name = $2"
        ))
        .bind(id)
        .bind(named)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(read).transpose()?;
        self.0.judge(&at.to_string(), row, verb).await
    }

    pub async fn allow(&mut self, verb: Verb, name: &Name) -> Result<Permit<New<Role>>, Error> {
        debug_assert_eq!(verb, Verb::Create);
        self.0.allow_new::<Role>(Some(name.as_str())).await
    }

    pub async fn create(&mut self, _permit: &Permit<New<Role>>, new: NewRole) -> Result<Role, Error> {
        self.judge_rules(&new.rules, new.name.as_str()).await?;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "insert into roles (id, name, rules, labels, created_at, updated_at) values ($1, $2, $3, $4, $5, $5) returning ",
            columns!()
        ))
        .bind(RoleId::new().uuid())
        .bind(new.name.as_str())
        .bind(to_json(&new.rules)?)
        .bind(to_json(&new.labels)?)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let role = read(&row)?;
        self.note(Verb::Create, &role, json!({"rules": role.rules}));
        Ok(role)
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<Role>, Error> {
        let visible = self.0.listing(Resource::Roles, Verb::List).await?;
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from roles where id > $1 and ($2::text[] is null or name = any($2)) and labels @> $3 and labels ?& $4
             order by id limit $5"
        ))
        .bind(request.after())
        .bind(visible.names())
        .bind(request.label_pairs())
        .bind(request.label_keys())
        .bind(request.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(rows, |r| r.id.uuid()))
    }

    pub async fn update(
        &mut self,
        permit: &Permit<Role>,
        patch: RolePatch,
        if_version: Option<i64>,
    ) -> Result<Role, Error> {
        permit.demand(Verb::Update)?;
        changeable(permit)?;
        check_version(permit.resource_version, if_version)?;
        if let Some(rules) = &patch.rules {
            self.judge_rules(rules, permit.name.as_str()).await?;
        }
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "update roles set rules = coalesce($2, rules), labels = coalesce($3, labels),
                resource_version = resource_version + 1, updated_at = $4 where id = $1 returning ",
            columns!()
        ))
        .bind(permit.id.uuid())
        .bind(patch.rules.as_ref().map(to_json).transpose()?)
        .bind(patch.labels.as_ref().map(to_json).transpose()?)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let role = read(&row)?;
        self.note(
            Verb::Update,
            &role,
            json!({"before": {"rules": permit.rules}, "after": {"rules": role.rules}}),
        );
        Ok(role)
    }

    /// `in_use` while something binds it.
    pub async fn delete(&mut self, permit: &Permit<Role>, if_version: Option<i64>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        changeable(permit)?;
        check_version(permit.resource_version, if_version)?;
        sqlx::query("delete from roles where id = $1")
            .bind(permit.id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        self.note(Verb::Delete, permit.row(), json!({"rules": permit.rules}));
        Ok(())
    }

    async fn judge_rules(&mut self, rules: &[Rule], name: &str) -> Result<(), Error> {
        if rules.is_empty() || rules.len() > MAX_RULES {
            return Err(
                Error::new(Code::InvalidField, format!("a role has 1 to {MAX_RULES} rules")).field("rules")
            );
        }
        rules.iter().try_for_each(Rule::validate)?;
        // A role may be bound anywhere, now or later, so its rules must be held everywhere.
        if let Err(refused) = cover::check_grant(self.0.caller().rights(), None, rules) {
            if let Some(e) = self.0.denied(Resource::Roles, Verb::Update, None, Some(name), None).await {
                return Err(e);
            }
            return Err(refused);
        }
        Ok(())
    }

    fn note(&mut self, verb: Verb, role: &Role, detail: serde_json::Value) {
        self.0.audit(verb, Resource::Roles, Some(role.id.uuid()), Some(role.name.as_str()), detail);
    }
}

fn changeable(role: &Role) -> Result<(), Error> {
    if role.built_in {
        return Err(Error::new(
            Code::InvalidState,
            format!("{} is a built-in role and cannot be changed; make a role of your own", role.name),
        ));
    }
    Ok(())
}

pub(crate) fn read(row: &PgRow) -> Result<Role, Error> {
    Ok(Role {
        id: RoleId::from_uuid(row.try_get("id").or_domain()?),
        name: name(row, "name")?,
        built_in: row.try_get("built_in").or_domain()?,
        rules: from_json(row.try_get("rules").or_domain()?)?,
        labels: from_json(row.try_get("labels").or_domain()?)?,
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}
