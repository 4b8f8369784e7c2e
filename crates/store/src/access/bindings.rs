//! Role bindings: a role's rules, given to a principal in one space or everywhere.
//!
//! Binding a role hands out its rules, so the binder must hold them there himself. A binding is made and deleted;
//! only its labels change.

use serde::Serialize;
use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Rule, Verb};
use wharf_domain::{BindingId, Code, Error, Labels, Name, NameOrId, PrincipalId, RoleId, SpaceId, Time};

use crate::access::cover;
use crate::caller::PrincipalKind;
use crate::error::OrDomain as _;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::scope::{Row, Scope};
use crate::spaces::{check_version, from_json, name, split, time, to_json};

#[derive(Clone, Debug, Serialize)]
pub struct Binding {
    pub id: BindingId,
    pub name: Name,
    pub role_id: RoleId,
    pub role: Name,
    pub principal_id: PrincipalId,
    pub principal: Name,
    #[serde(skip)]
    pub principal_kind: PrincipalKind,
    /// `None`: in every space and for what lives in none.
    pub space_id: Option<SpaceId>,
    pub space: Option<Name>,
    pub labels: Labels,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
    #[serde(skip)]
    rules: Vec<Rule>,
}

impl Row for Binding {
    const KIND: &'static str = "role binding";
    const RESOURCE: Resource = Resource::RoleBindings;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

pub struct NewBinding {
    /// By default `<principal>-<role>` with the space, cut to a name.
    pub name: Name,
    pub role: NameOrId<RoleId>,
    pub principal_kind: PrincipalKind,
    pub principal: NameOrId<PrincipalId>,
    pub space: Option<NameOrId<SpaceId>>,
    pub labels: Labels,
}

#[derive(Default)]
pub struct BindingPatch {
    pub labels: Option<Labels>,
}

pub struct Bindings<'s>(&'s mut Scope);

impl Scope {
    pub fn bindings(&mut self) -> Bindings<'_> {
        Bindings(self)
    }
}

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "select b.id, b.name, b.role_id, r.name as role, r.rules, b.principal_id, p.name as principal, p.kind,
                b.space_id, s.name as space, b.labels, b.resource_version, b.created_at, b.updated_at
             from role_bindings b join roles r on r.id = b.role_id join principals p on p.id = b.principal_id
             left join spaces s on s.id = b.space_id ",
            $tail
        )
    };
}

impl Bindings<'_> {
    pub async fn permit(&mut self, at: &NameOrId<BindingId>, verb: Verb) -> Result<Permit<Binding>, Error> {
        let (id, named) = split(at);
        let row =
            sqlx::query(locked!(verb, " for no key update of b", select!("where b.id = $1 or b.name = $2")))
                .bind(id)
                .bind(named)
                .fetch_optional(self.0.tx()?)
                .await
                .or_domain()?;
        let row = row.as_ref().map(read).transpose()?;
        self.0.judge(&at.to_string(), row, verb).await
    }

    pub async fn allow(&mut self, verb: Verb, name: &Name) -> Result<Permit<New<Binding>>, Error> {
        debug_assert_eq!(verb, Verb::Create);
        self.0.allow_new::<Binding>(Some(name.as_str())).await
    }

    pub async fn create(
        &mut self,
        _permit: &Permit<New<Binding>>,
        new: NewBinding,
    ) -> Result<Binding, Error> {
        let missing = |field: &str, what: &dyn std::fmt::Display| {
            Error::new(Code::InvalidReference, format!("there is no {field} {what}")).field(field)
        };
        let (id, named) = split(&new.role);
        let role = sqlx::query(
            "select id, name, built_in, rules, labels, resource_version, created_at, updated_at
             from roles where id = $1 or name = $2 for share",
        )
        .bind(id)
        .bind(named)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let role =
            role.as_ref().map(super::roles::read).transpose()?.ok_or_else(|| missing("role", &new.role))?;
        let (id, named) = split(&new.principal);
        let principal: Uuid =
            sqlx::query_scalar("select id from principals where kind = $1 and (id = $2 or name = $3)")
                .bind(new.principal_kind.as_str())
                .bind(id)
                .bind(named)
                .fetch_optional(self.0.tx()?)
                .await
                .or_domain()?
                .ok_or_else(|| missing("principal", &new.principal))?;
        let space = match &new.space {
            None => None,
            Some(at) => {
                let found = crate::spaces::find_ref(self.0.tx()?, at).await?;
                Some(found.map(|s| s.id).ok_or_else(|| missing("space", at))?)
            }
        };
        if let Err(refused) = cover::check_grant(self.0.caller().rights(), space, &role.rules) {
            let name = new.name.as_str().to_owned();
            if let Some(e) =
                self.0.denied(Resource::RoleBindings, Verb::Create, None, Some(&name), space).await
            {
                return Err(e);
            }
            return Err(refused);
        }
        let now = self.0.now();
        let id = BindingId::new();
        sqlx::query(
            "insert into role_bindings (id, name, role_id, principal_id, space_id, labels, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $7)",
        )
        .bind(id.uuid())
        .bind(new.name.as_str())
        .bind(role.id.uuid())
        .bind(principal)
        .bind(space.map(SpaceId::uuid))
        .bind(to_json(&new.labels)?)
        .bind(now.to_utc())
        .execute(self.0.tx()?)
        .await
        .or_domain()?;
        let made = self.read_back(id).await?;
        self.note(Verb::Create, &made);
        Ok(made)
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<Binding>, Error> {
        let visible = self.0.listing(Resource::RoleBindings, Verb::List).await?;
        let rows = sqlx::query(select!(
            "where b.id > $1 and ($2::text[] is null or b.name = any($2)) and b.labels @> $3 and b.labels ?& $4
             order by b.id limit $5"
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
        Ok(request.page(rows, |b| b.id.uuid()))
    }

    pub async fn update(
        &mut self,
        permit: &Permit<Binding>,
        patch: BindingPatch,
        if_version: Option<i64>,
    ) -> Result<Binding, Error> {
        permit.demand(Verb::Update)?;
        check_version(permit.resource_version, if_version)?;
        let now = self.0.now();
        sqlx::query(
            "update role_bindings set labels = coalesce($2, labels), resource_version = resource_version + 1,
                updated_at = $3 where id = $1",
        )
        .bind(permit.id.uuid())
        .bind(patch.labels.as_ref().map(to_json).transpose()?)
        .bind(now.to_utc())
        .execute(self.0.tx()?)
        .await
        .or_domain()?;
        let made = self.read_back(permit.id).await?;
        self.note(Verb::Update, &made);
        Ok(made)
    }

    /// Counts from the commit on. The last binding that makes someone admin everywhere stays: without it nobody
    /// could ever grant it again.
    pub async fn delete(&mut self, permit: &Permit<Binding>, if_version: Option<i64>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        if let Err(refused) = cover::check_grant(self.0.caller().rights(), permit.space_id, &permit.rules) {
            let name = permit.name.as_str().to_owned();
            let id = Some(permit.id.uuid());
            if let Some(e) =
                self.0.denied(Resource::RoleBindings, Verb::Delete, id, Some(&name), permit.space_id).await
            {
                return Err(e);
            }
            return Err(refused);
        }
        // Taking the role's row makes two deletions of the last two take turns.
        sqlx::query("select 1 from roles where id = $1 for no key update")
            .bind(permit.role_id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        let last: bool = sqlx::query_scalar(
            "select $2 = 'admin' and $3::uuid is null and not exists (
                select from role_bindings b join principals p on p.id = b.principal_id and not p.disabled
                where b.role_id = $1 and b.space_id is null and b.id <> $4)",
        )
        .bind(permit.role_id.uuid())
        .bind(permit.role.as_str())
        .bind(permit.space_id.map(SpaceId::uuid))
        .bind(permit.id.uuid())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        if last {
            return Err(Error::new(
                Code::InvalidState,
                "this is the last binding that makes someone admin everywhere; bind another admin first",
            ));
        }
        sqlx::query("delete from role_bindings where id = $1")
            .bind(permit.id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        self.note(Verb::Delete, permit.row());
        Ok(())
    }

    async fn read_back(&mut self, id: BindingId) -> Result<Binding, Error> {
        let row = sqlx::query(select!("where b.id = $1"))
            .bind(id.uuid())
            .fetch_one(self.0.tx()?)
            .await
            .or_domain()?;
        read(&row)
    }

    fn note(&mut self, verb: Verb, b: &Binding) {
        let detail = json!({"role": b.role, "principal": b.principal, "principal_kind": b.principal_kind.as_str(), "space": b.space});
        self.0.audit(verb, Resource::RoleBindings, Some(b.id.uuid()), Some(b.name.as_str()), detail);
    }
}

fn read(row: &PgRow) -> Result<Binding, Error> {
    let space: Option<String> = row.try_get("space").or_domain()?;
    Ok(Binding {
        id: BindingId::from_uuid(row.try_get("id").or_domain()?),
        name: name(row, "name")?,
        role_id: RoleId::from_uuid(row.try_get("role_id").or_domain()?),
        role: name(row, "role")?,
        principal_id: PrincipalId::from_uuid(row.try_get("principal_id").or_domain()?),
        principal: name(row, "principal")?,
        principal_kind: PrincipalKind::read(row.try_get("kind").or_domain()?)?,
        space_id: row.try_get::<Option<Uuid>, _>("space_id").or_domain()?.map(SpaceId::from_uuid),
        space: space.map(|s| s.parse()).transpose().map_err(|e: Error| Error::internal(e.to_string()))?,
        labels: from_json(row.try_get("labels").or_domain()?)?,
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        rules: from_json(row.try_get("rules").or_domain()?)?,
    })
}
