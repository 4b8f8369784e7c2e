//! Model providers of a space: made, listed and changed by name. What they need a key for they name a secret for; the
//! key itself is read by the gateway alone (see [`crate::models`]).
//!
//! Whoever writes a provider has the secret's value sent to an address of their choice, so naming one takes the verb `read-values` on
//! it, and the verbs of providers are no part of the developer's role.

use serde::Serialize;
use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::model::{ProviderSpec, RESERVED};
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, Labels, Name, NameOrId, ProviderId, Time};

use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::scope::{Row, Scope};
use crate::spaces::{check_version, from_json, name, split, time, to_json};

#[derive(Clone, Debug, Serialize)]
pub struct Provider {
    pub id: ProviderId,
    pub name: Name,
    pub labels: Labels,
    pub spec: ProviderSpec,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Row for Provider {
    const KIND: &'static str = "provider";
    const RESOURCE: Resource = Resource::Providers;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

pub struct NewProvider {
    pub name: Name,
    pub labels: Labels,
    pub spec: ProviderSpec,
}

/// What changes; `None` leaves it. The spec is the whole new one.
#[derive(Default)]
pub struct ProviderPatch {
    pub labels: Option<Labels>,
    pub spec: Option<ProviderSpec>,
}

pub struct Providers<'s>(&'s mut Scope);

impl Scope {
    pub fn providers(&mut self) -> Providers<'_> {
        Providers(self)
    }
}

macro_rules! columns {
    () => {
        "id, name, labels, spec, resource_version, created_at, updated_at"
    };
}

impl Providers<'_> {
    pub async fn permit(&mut self, at: &NameOrId<ProviderId>, verb: Verb) -> Result<Permit<Provider>, Error> {
        let space = self.0.space()?.id;
        let (id, named) = split(at);
        let row = sqlx::query(locked!(
            verb,
            " for no key update",
            "select ",
            columns!(),
            " from providers where space_id = $1 and (id = $2 or name = $3)"
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

    pub async fn allow(&mut self, verb: Verb, name: &Name) -> Result<Permit<New<Provider>>, Error> {
        debug_assert_eq!(verb, Verb::Create);
        self.0.allow_new::<Provider>(Some(name.as_str())).await
    }

    pub async fn create(
        &mut self,
        _permit: &Permit<New<Provider>>,
        new: NewProvider,
    ) -> Result<Provider, Error> {
        if RESERVED.contains(&new.name.as_str()) {
            let detail = format!("{} is a name of the gateway's own; choose another", new.name);
            return Err(Error::new(Code::InvalidField, detail).field("name"));
        }
        self.check(&new.spec).await?;
        let space = self.0.space()?.id;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "insert into providers (id, space_id, name, labels, secret, spec, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $7) returning ",
            columns!()
        ))
        .bind(ProviderId::new().uuid())
        .bind(space.uuid())
        .bind(new.name.as_str())
        .bind(to_json(&new.labels)?)
        .bind(new.spec.secret.as_ref().map(Name::as_str))
        .bind(sqlx::types::Json(&new.spec))
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let provider = read(&row)?;
        self.note("created", Verb::Create, &provider);
        Ok(provider)
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<Provider>, Error> {
        let space = self.0.space()?.id;
        let visible = self.0.listing(Resource::Providers, Verb::List).await?;
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from providers
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
        permit: &Permit<Provider>,
        patch: ProviderPatch,
        if_version: Option<i64>,
    ) -> Result<Provider, Error> {
        permit.demand(Verb::Update)?;
        check_version(permit.resource_version, if_version)?;
        let spec = patch.spec.unwrap_or_else(|| permit.spec.clone());
        spec.validate()?;
        let goes =
            |s: &ProviderSpec| (s.secret.clone(), s.protocol, s.base_url.clone(), s.key_header.clone());
        if goes(&spec) != goes(&permit.spec) {
            self.check(&spec).await?;
        }
        let space = self.0.space()?.id;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "update providers set labels = coalesce($3, labels), secret = $4, spec = $5,
                resource_version = resource_version + 1, updated_at = $6
             where id = $1 and space_id = $2 returning ",
            columns!()
        ))
        .bind(permit.id.uuid())
        .bind(space.uuid())
        .bind(patch.labels.as_ref().map(to_json).transpose()?)
        .bind(spec.secret.as_ref().map(Name::as_str))
        .bind(sqlx::types::Json(&spec))
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let provider = read(&row)?;
        self.note("updated", Verb::Update, &provider);
        Ok(provider)
    }

    pub async fn delete(&mut self, permit: &Permit<Provider>, if_version: Option<i64>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        sqlx::query("delete from providers where id = $1")
            .bind(permit.id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        self.note("deleted", Verb::Delete, permit.row());
        Ok(())
    }

    /// Besides what the spec knows of itself: the secret is there, and the caller may read its value. Whoever points a secret at an
    /// address can read it there.
    async fn check(&mut self, spec: &ProviderSpec) -> Result<(), Error> {
        spec.validate()?;
        let Some(secret) = &spec.secret else { return Ok(()) };
        let judged = self.0.secrets().permit(&NameOrId::Name(secret.clone()), Verb::ReadValues).await;
        judged.map(drop).map_err(|e| match e.code {
            Code::NotFound => {
                let detail =
                    format!("the space has no secret {secret}; make it first (wharf secret set {secret})");
                Error::new(Code::InvalidReference, detail).field("secret")
            }
            Code::Forbidden => {
                let detail =
                    format!("a provider sends secret {secret} out, which takes the verb read-values on it");
                Error::new(Code::Forbidden, detail).field("secret")
            }
            _ => e,
        })
    }

    /// The audit entry says where keys go.
    fn note(&mut self, kind: &str, verb: Verb, provider: &Provider) {
        let (id, name) = (provider.id.uuid(), Some(provider.name.as_str()));
        let spec = &provider.spec;
        let detail = json!({"protocol": spec.protocol, "base_url": spec.upstream(), "secret": spec.secret});
        self.0.audit(verb, Resource::Providers, Some(id), name, detail.clone());
        let version = provider.resource_version;
        self.0.emit(Event::new(kind, Resource::Providers, id, name, version, detail));
    }
}

pub(crate) fn read(row: &PgRow) -> Result<Provider, Error> {
    Ok(Provider {
        id: ProviderId::from_uuid(row.try_get("id").or_domain()?),
        name: name(row, "name")?,
        labels: from_json(row.try_get("labels").or_domain()?)?,
        spec: row.try_get::<sqlx::types::Json<ProviderSpec>, _>("spec").or_domain()?.0,
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}
