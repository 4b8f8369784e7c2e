//! Users and service accounts: the principals that tokens stand for.
//!
//! One table, two kinds: a user logs in with a password, a service account has API tokens only.

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Rights, Verb};
use wharf_domain::{Code, Error, Labels, Name, NameOrId, Plain, PrincipalId, ServiceAccountId, Time, UserId};

use crate::access::authenticate::grants;
use crate::access::{cover, login, password};
use crate::caller::PrincipalKind;
use crate::error::OrDomain as _;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::scope::{Row, Scope};
use crate::spaces::{check_version, from_json, name, split, time, to_json};

/// What both kinds have.
#[derive(Clone, Debug, Serialize)]
pub struct Principal {
    pub id: PrincipalId,
    #[serde(skip)]
    pub kind: PrincipalKind,
    pub name: Name,
    pub display_name: String,
    pub labels: Labels,
    pub disabled: bool,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
}

#[derive(Clone, Debug)]
pub struct User(pub Principal);
#[derive(Clone, Debug)]
pub struct ServiceAccount(pub Principal);

/// What `users()` and `service_accounts()` differ in.
pub trait Kind: Send + Sync {
    type Id: Copy + Into<Uuid> + std::fmt::Display;
    const WORD: &'static str;
}

impl Kind for User {
    type Id = UserId;
    const WORD: &'static str = "user";
}
impl Kind for ServiceAccount {
    type Id = ServiceAccountId;
    const WORD: &'static str = "service-account";
}

macro_rules! principal_row {
    ($row:ident, $kind:literal, $resource:ident) => {
        impl From<Principal> for $row {
            fn from(p: Principal) -> Self {
                Self(p)
            }
        }
        impl std::ops::Deref for $row {
            type Target = Principal;
            fn deref(&self) -> &Principal {
                &self.0
            }
        }
        impl Row for $row {
            const KIND: &'static str = $kind;
            const RESOURCE: Resource = Resource::$resource;
            fn uuid(&self) -> Uuid {
                self.0.id.uuid()
            }
            fn name(&self) -> Option<&str> {
                Some(self.0.name.as_str())
            }
        }
    };
}
principal_row!(User, "user", Users);
principal_row!(ServiceAccount, "service account", ServiceAccounts);

pub struct NewPrincipal {
    pub name: Name,
    pub display_name: String,
    pub labels: Labels,
    /// Users only; without one nobody can log in as it until one is set.
    pub password: Option<Plain>,
}

#[derive(Default)]
pub struct PrincipalPatch {
    pub display_name: Option<String>,
    pub labels: Option<Labels>,
    /// True ends every login and stops every token at once.
    pub disabled: Option<bool>,
    /// Ends every login.
    pub password: Option<Plain>,
}

pub struct Principals<'s, K>(&'s mut Scope, std::marker::PhantomData<fn() -> K>);

impl Scope {
    pub fn users(&mut self) -> Principals<'_, User> {
        Principals(self, std::marker::PhantomData)
    }

    pub fn service_accounts(&mut self) -> Principals<'_, ServiceAccount> {
        Principals(self, std::marker::PhantomData)
    }
}

macro_rules! columns {
    () => {
        "id, kind, name, display_name, labels, disabled, resource_version, created_at, updated_at"
    };
}

#[allow(private_bounds)]
impl<K: Kind + Row + From<Principal> + std::ops::Deref<Target = Principal>> Principals<'_, K> {
    pub async fn permit(&mut self, at: &NameOrId<K::Id>, verb: Verb) -> Result<Permit<K>, Error> {
        let (id, named) = split(at);
        let row = sqlx::query(locked!(
            verb,
            " for no key update",
            "select ",
            columns!(),
            " from principals where kind = $1 and (id = $2 or name = $3)"
        ))
        .bind(K::WORD)
        .bind(id)
        .bind(named)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(read).transpose()?.map(K::from);
        self.0.judge(&at.to_string(), row, verb).await
    }

    pub async fn allow(&mut self, verb: Verb, name: &Name) -> Result<Permit<New<K>>, Error> {
        debug_assert_eq!(verb, Verb::Create);
        self.0.allow_new::<K>(Some(name.as_str())).await
    }

    pub async fn create(&mut self, _permit: &Permit<New<K>>, new: NewPrincipal) -> Result<K, Error> {
        let hash = match &new.password {
            Some(_) if K::WORD != "user" => return Err(no_password()),
            Some(p) => {
                password::check(p)?;
                Some(password::hash(p).await?)
            }
            None => None,
        };
        check_display(&new.display_name)?;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "insert into principals (id, kind, name, display_name, labels, password_hash, password_changed_at, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, case when $6::text is not null then $7::timestamptz end, $7, $7) returning ",
            columns!()
        ))
        .bind(PrincipalId::new().uuid())
        .bind(K::WORD)
        .bind(new.name.as_str())
        .bind(&new.display_name)
        .bind(to_json(&new.labels)?)
        .bind(hash)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let made = K::from(read(&row)?);
        self.note(Verb::Create, &made, json!({}));
        Ok(made)
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<K>, Error> {
        let visible = self.0.listing(K::RESOURCE, Verb::List).await?;
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from principals
             where kind = $1 and id > $2 and ($3::text[] is null or name = any($3)) and labels @> $4 and labels ?& $5
             order by id limit $6"
        ))
        .bind(K::WORD)
        .bind(request.after())
        .bind(visible.names())
        .bind(request.label_pairs())
        .bind(request.label_keys())
        .bind(request.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(rows, |p| p.id.uuid()).map(K::from))
    }

    /// Whoever sets a password or enables an account can act as it: that needs every right it has.
    pub async fn update(
        &mut self,
        permit: &Permit<K>,
        patch: PrincipalPatch,
        if_version: Option<i64>,
    ) -> Result<K, Error> {
        permit.demand(Verb::Update)?;
        check_version(permit.resource_version, if_version)?;
        let own = self.0.caller().identity().id == permit.id;
        let (id, now) = (permit.id.uuid(), self.0.now());
        let takes_over = patch.password.is_some() || patch.disabled.is_some();
        if takes_over && !own {
            self.outranks(id, permit.name.as_str()).await?;
        }
        if patch.disabled == Some(true) && own {
            return Err(Error::new(Code::InvalidState, "you cannot disable the account you are using")
                .field("disabled"));
        }
        let hash = match &patch.password {
            Some(_) if K::WORD != "user" => return Err(no_password()),
            Some(p) => {
                password::check(p)?;
                Some(password::hash(p).await?)
            }
            None => None,
        };
        if let Some(text) = &patch.display_name {
            check_display(text)?;
        }
        let row = sqlx::query(concat!(
            "update principals set display_name = coalesce($2, display_name), labels = coalesce($3, labels),
                disabled = coalesce($4, disabled), password_hash = coalesce($5, password_hash),
                password_changed_at = case when $5::text is not null then $6 else password_changed_at end,
                resource_version = resource_version + 1, updated_at = $6
             where id = $1 returning ",
            columns!()
        ))
        .bind(id)
        .bind(&patch.display_name)
        .bind(patch.labels.as_ref().map(to_json).transpose()?)
        .bind(patch.disabled)
        .bind(&hash)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        if hash.is_some() {
            login::revoke_all(self.0.tx()?, id, "password", now).await?;
        } else if patch.disabled == Some(true) {
            login::revoke_all(self.0.tx()?, id, "disabled", now).await?;
        }
        let made = K::from(read(&row)?);
        let mut changed = Vec::new();
        for (field, is) in [
            ("display_name", patch.display_name.is_some()),
            ("labels", patch.labels.is_some()),
            ("disabled", patch.disabled.is_some()),
            ("password", hash.is_some()),
        ] {
            if is {
                changed.push(field);
            }
        }
        self.note(Verb::Update, &made, json!({"changed": changed, "disabled": made.disabled}));
        Ok(made)
    }

    /// Takes its bindings and tokens with it.
    pub async fn delete(&mut self, permit: &Permit<K>, if_version: Option<i64>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        if self.0.caller().identity().id == permit.id {
            return Err(Error::new(Code::InvalidState, "you cannot delete the account you are using"));
        }
        self.outranks(permit.id.uuid(), permit.name.as_str()).await?;
        sqlx::query("delete from principals where id = $1")
            .bind(permit.id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        self.note(Verb::Delete, permit.row(), json!({}));
        Ok(())
    }

    async fn outranks(&mut self, id: Uuid, name: &str) -> Result<(), Error> {
        let rights = rights_of(self.0, id).await?;
        if cover::covers_all(self.0.caller().rights(), &rights) {
            return Ok(());
        }
        let why = format!("{name} holds rights that you do not; someone who holds them must do this");
        if let Some(e) = self.0.denied(K::RESOURCE, Verb::Update, Some(id), Some(name), None).await {
            return Err(e);
        }
        Err(Error::new(Code::Forbidden, why))
    }

    fn note(&mut self, verb: Verb, row: &K, detail: Value) {
        self.0.audit(verb, K::RESOURCE, Some(row.id.uuid()), Some(row.name.as_str()), detail);
    }
}

impl Scope {
    /// The caller's own password. Needs the present one; ends every login, this one too.
    pub async fn change_own_password(&mut self, present: &Plain, new: &Plain) -> Result<(), Error> {
        let identity = self.caller().identity().clone();
        if self.caller().impersonator().is_some() {
            return Err(Error::new(
                Code::Forbidden,
                "a password cannot be changed while acting as someone else",
            ));
        }
        password::check(new)?;
        let stored: Option<String> =
            sqlx::query_scalar("select password_hash from principals where id = $1 and kind = 'user'")
                .bind(identity.id.uuid())
                .fetch_optional(self.tx()?)
                .await
                .or_domain()?
                .flatten();
        let address = self.caller().meta().address;
        let attempt = self.store.attempt(&identity.name, address).await?;
        if !password::verify(present, stored.as_deref()).await? {
            return Err(
                Error::new(Code::InvalidField, "that is not your present password").field("present_password")
            );
        }
        self.store.attempt_succeeded(attempt).await?;
        let (hash, now) = (password::hash(new).await?, self.now());
        sqlx::query(
            "update principals set password_hash = $2, password_changed_at = $3, updated_at = $3,
                resource_version = resource_version + 1 where id = $1",
        )
        .bind(identity.id.uuid())
        .bind(hash)
        .bind(now.to_utc())
        .execute(self.tx()?)
        .await
        .or_domain()?;
        login::revoke_all(self.tx()?, identity.id.uuid(), "password", now).await?;
        let detail = json!({"changed": ["password"]});
        self.audit(Verb::Update, Resource::Users, Some(identity.id.uuid()), Some(&identity.name), detail);
        Ok(())
    }
}

/// What a principal may do, whoever asks.
pub(crate) async fn rights_of(scope: &mut Scope, principal: Uuid) -> Result<Rights, Error> {
    let value: Value = sqlx::query_scalar("select principal_grants($1)")
        .bind(principal)
        .fetch_one(scope.tx()?)
        .await
        .or_domain()?;
    Ok(Rights { grants: grants(value)?, subset: None })
}

fn no_password() -> Error {
    Error::new(Code::InvalidField, "a service account has no password; make a token for it").field("password")
}

fn check_display(text: &str) -> Result<(), Error> {
    if text.chars().count() > 200 {
        return Err(
            Error::new(Code::InvalidField, "display_name has at most 200 characters").field("display_name")
        );
    }
    Ok(())
}

pub(crate) fn read(row: &PgRow) -> Result<Principal, Error> {
    Ok(Principal {
        id: PrincipalId::from_uuid(row.try_get("id").or_domain()?),
        kind: PrincipalKind::read(row.try_get("kind").or_domain()?)?,
        name: name(row, "name")?,
        display_name: row.try_get("display_name").or_domain()?,
        labels: from_json(row.try_get("labels").or_domain()?)?,
        disabled: row.try_get("disabled").or_domain()?,
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}
