//! Secrets of a space: written, listed and deleted by name; their values leave only through `reveal` and the
//! gateway, each time with an audit entry.
//!
//! Values are sealed before they reach a statement; the database, its dumps and its logs never see one.

use serde::Serialize;
use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_chassis::seal::Sealed;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, Labels, Name, NameOrId, Plain, SecretId, SpaceId, Time, limits};

use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::scope::{Row, Scope};
use crate::spaces::{check_version, from_json, name, split, time, to_json};
use crate::system::System;

/// What is known of a secret besides its value.
#[derive(Clone, Debug, Serialize)]
pub struct Secret {
    pub id: SecretId,
    pub name: Name,
    pub labels: Labels,
    /// Grows with every new value.
    pub version: i32,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Row for Secret {
    const KIND: &'static str = "secret";
    const RESOURCE: Resource = Resource::Secrets;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

pub struct NewSecret {
    pub name: Name,
    pub value: Plain,
    pub labels: Labels,
}

#[derive(Default)]
pub struct SecretPatch {
    pub value: Option<Plain>,
    pub labels: Option<Labels>,
}

pub struct Secrets<'s>(&'s mut Scope);

impl Scope {
    pub fn secrets(&mut self) -> Secrets<'_> {
        Secrets(self)
    }
}

macro_rules! columns {
    () => {
        "id, name, labels, version, resource_version, created_at, updated_at"
    };
}

/// Binds a value to its space and name.
pub(crate) fn context(space: SpaceId, name: &str) -> String {
    format!("secret/{space}/{name}")
}

impl Secrets<'_> {
    pub async fn permit(&mut self, at: &NameOrId<SecretId>, verb: Verb) -> Result<Permit<Secret>, Error> {
        let space = self.0.space()?.id;
        let (id, named) = split(at);
        let row = sqlx::query(locked!(
            verb,
            " for no key update",
            "select ",
            columns!(),
            " from secrets where space_id = $1 and (id = $2 or name = $3)"
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

    pub async fn allow(&mut self, verb: Verb, name: &Name) -> Result<Permit<New<Secret>>, Error> {
        debug_assert_eq!(verb, Verb::Create);
        self.0.allow_new::<Secret>(Some(name.as_str())).await
    }

    pub async fn create(&mut self, _permit: &Permit<New<Secret>>, new: NewSecret) -> Result<Secret, Error> {
        let space = self.0.space()?.id;
        let sealed = self.seal(space, new.name.as_str(), &new.value)?;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "insert into secrets (id, space_id, name, labels, key_id, wrapped, payload, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $8) returning ",
            columns!()
        ))
        .bind(SecretId::new().uuid())
        .bind(space.uuid())
        .bind(new.name.as_str())
        .bind(to_json(&new.labels)?)
        .bind(&sealed.key_id)
        .bind(&sealed.wrapped)
        .bind(&sealed.payload)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let secret = read(&row)?;
        self.note("created", Verb::Create, &secret, json!({"version": secret.version}))?;
        Ok(secret)
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<Secret>, Error> {
        let space = self.0.space()?.id;
        let visible = self.0.listing(Resource::Secrets, Verb::List).await?;
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from secrets
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
        Ok(request.page(rows, |s| s.id.uuid()))
    }

    pub async fn update(
        &mut self,
        permit: &Permit<Secret>,
        patch: SecretPatch,
        if_version: Option<i64>,
    ) -> Result<Secret, Error> {
        permit.demand(Verb::Update)?;
        check_version(permit.resource_version, if_version)?;
        let space = self.0.space()?.id;
        let sealed = patch.value.as_ref().map(|v| self.seal(space, permit.name.as_str(), v)).transpose()?;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "update secrets set labels = coalesce($2, labels), key_id = coalesce($3, key_id),
                wrapped = coalesce($4, wrapped), payload = coalesce($5, payload),
                version = version + case when $5::bytea is null then 0 else 1 end,
                resource_version = resource_version + 1, updated_at = $6
             where id = $1 and space_id = $7 returning ",
            columns!()
        ))
        .bind(permit.id.uuid())
        .bind(patch.labels.as_ref().map(to_json).transpose()?)
        .bind(sealed.as_ref().map(|s| &s.key_id))
        .bind(sealed.as_ref().map(|s| &s.wrapped))
        .bind(sealed.as_ref().map(|s| &s.payload))
        .bind(now.to_utc())
        .bind(space.uuid())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let secret = read(&row)?;
        self.note(
            "updated",
            Verb::Update,
            &secret,
            json!({"version": secret.version, "value": sealed.is_some()}),
        )?;
        Ok(secret)
    }

    pub async fn delete(&mut self, permit: &Permit<Secret>, if_version: Option<i64>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        sqlx::query("delete from secrets where id = $1")
            .bind(permit.id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        self.note("deleted", Verb::Delete, permit.row(), json!({}))
    }

    /// The value. The permit must be for `read-values`; commit the scope before the value is shown, so that no
    /// look goes unrecorded.
    pub async fn reveal(&mut self, permit: &Permit<Secret>) -> Result<Plain, Error> {
        permit.demand(Verb::ReadValues)?;
        let space = self.0.space()?.id;
        let row = sqlx::query("select key_id, wrapped, payload from secrets where id = $1 and space_id = $2")
            .bind(permit.id.uuid())
            .bind(space.uuid())
            .fetch_one(self.0.tx()?)
            .await
            .or_domain()?;
        let value = self.0.store.0.keyring.open(&read_sealed(&row)?, &context(space, permit.name.as_str()));
        let value = value.map_err(Error::internal)?;
        let (id, name) = (permit.id.uuid(), permit.name.as_str().to_owned());
        self.0.audit(
            Verb::ReadValues,
            Resource::Secrets,
            Some(id),
            Some(&name),
            json!({"version": permit.version}),
        );
        Ok(value)
    }

    fn seal(&self, space: SpaceId, name: &str, value: &Plain) -> Result<Sealed, Error> {
        if value.is_empty() || value.len() > limits::SECRET_BYTES {
            return Err(Error::new(
                Code::InvalidField,
                format!("a secret's value has 1 to {} bytes (limit SECRET_BYTES)", limits::SECRET_BYTES),
            )
            .field("value"));
        }
        self.0.store.0.keyring.seal(value, &context(space, name)).map_err(Error::internal)
    }

    fn note(
        &mut self,
        kind: &str,
        verb: Verb,
        secret: &Secret,
        detail: serde_json::Value,
    ) -> Result<(), Error> {
        let (id, name) = (secret.id.uuid(), Some(secret.name.as_str()));
        self.0.audit(verb, Resource::Secrets, Some(id), name, detail);
        self.0.emit(Event::new(kind, Resource::Secrets, id, name, secret.resource_version, to_json(secret)?));
        Ok(())
    }
}

impl System {
    /// Puts up to `batch` sealed values (secrets, signing keys, authorities and keys of published links) under the active key-encryption key; answers how
    /// many. Zero means the older keys can be retired. Payloads are not touched.
    pub async fn rewrap(&self, batch: i64) -> Result<u64, Error> {
        let keyring = self.store.0.keyring.clone();
        let active = keyring.active();
        let mut scope = self.global().await?;
        let rows = sqlx::query(
            "select id, space_id, name, key_id, wrapped, payload from secrets where key_id <> $1
             order by id limit $2 for update",
        )
        .bind(&active)
        .bind(batch)
        .fetch_all(scope.tx()?)
        .await
        .or_domain()?;
        let mut done = 0u64;
        for row in &rows {
            let space = SpaceId::from_uuid(row.try_get("space_id").or_domain()?);
            let place = context(space, row.try_get("name").or_domain()?);
            let Some(fresh) = keyring.rewrap(&read_sealed(row)?, &place).map_err(Error::internal)? else {
                continue;
            };
            sqlx::query("update secrets set key_id = $2, wrapped = $3 where id = $1")
                .bind(row.try_get::<Uuid, _>("id").or_domain()?)
                .bind(&fresh.key_id)
                .bind(&fresh.wrapped)
                .execute(scope.tx()?)
                .await
                .or_domain()?;
            done += 1;
        }
        let keys = sqlx::query(
            "select kid, key_id, wrapped, payload from signing_keys where key_id <> $1 for update",
        )
        .bind(&active)
        .fetch_all(scope.tx()?)
        .await
        .or_domain()?;
        for row in &keys {
            let kid: String = row.try_get("kid").or_domain()?;
            let place = crate::access::keys::context(&kid);
            let Some(fresh) = keyring.rewrap(&read_sealed(row)?, &place).map_err(Error::internal)? else {
                continue;
            };
            sqlx::query("update signing_keys set key_id = $2, wrapped = $3 where kid = $1")
                .bind(&kid)
                .bind(&fresh.key_id)
                .bind(&fresh.wrapped)
                .execute(scope.tx()?)
                .await
                .or_domain()?;
            done += 1;
        }
        let authorities = sqlx::query(
            "select space_id, key_id, wrapped, payload from space_authorities where key_id <> $1 for update",
        )
        .bind(&active)
        .fetch_all(scope.tx()?)
        .await
        .or_domain()?;
        for row in &authorities {
            let space: Uuid = row.try_get("space_id").or_domain()?;
            let place = crate::gateway::authority::context(SpaceId::from_uuid(space));
            let Some(fresh) = keyring.rewrap(&read_sealed(row)?, &place).map_err(Error::internal)? else {
                continue;
            };
            sqlx::query("update space_authorities set key_id = $2, wrapped = $3 where space_id = $1")
                .bind(space)
                .bind(&fresh.key_id)
                .bind(&fresh.wrapped)
                .execute(scope.tx()?)
                .await
                .or_domain()?;
            done += 1;
        }
        let links = sqlx::query(
            "select id, slug, key_id, wrapped, payload from published where key_id <> $1 order by id limit $2 for update",
        )
        .bind(&active)
        .bind(batch)
        .fetch_all(scope.tx()?)
        .await
        .or_domain()?;
        for row in &links {
            let place = crate::published::link_context(row.try_get("slug").or_domain()?);
            let Some(fresh) = keyring.rewrap(&read_sealed(row)?, &place).map_err(Error::internal)? else {
                continue;
            };
            sqlx::query("update published set key_id = $2, wrapped = $3 where id = $1")
                .bind(row.try_get::<Uuid, _>("id").or_domain()?)
                .bind(&fresh.key_id)
                .bind(&fresh.wrapped)
                .execute(scope.tx()?)
                .await
                .or_domain()?;
            done += 1;
        }
        if done > 0 {
            let detail = json!({"rewrapped": done, "key": active});
            scope.audit_as("rotate", "secrets", None, None, crate::audit::Outcome::Allowed, detail);
        }
        scope.commit().await?;
        Ok(done)
    }
}

pub(crate) fn read_sealed(row: &PgRow) -> Result<Sealed, Error> {
    Ok(Sealed {
        key_id: row.try_get("key_id").or_domain()?,
        wrapped: row.try_get("wrapped").or_domain()?,
        payload: row.try_get("payload").or_domain()?,
    })
}

fn read(row: &PgRow) -> Result<Secret, Error> {
    Ok(Secret {
        id: SecretId::from_uuid(row.try_get("id").or_domain()?),
        name: name(row, "name")?,
        labels: from_json(row.try_get("labels").or_domain()?)?,
        version: row.try_get("version").or_domain()?,
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}
