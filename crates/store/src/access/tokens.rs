//! API tokens: random, shown once, stored as a hash, expiring, narrowed to a subset of their owner's rights.
//!
//! The subset is applied at use, on the rights the owner has then: a token never outgrows its owner.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Rights, Rule, Verb};
use wharf_domain::{Code, Error, Name, NameOrId, Plain, PrincipalId, Time, TokenId};

use crate::access::principals::{Principal, rights_of};
use crate::access::{cover, login};
use crate::error::OrDomain as _;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit};
use crate::scope::{Row, Scope};
use crate::spaces::{from_json, name, split, time, time_opt, to_json};
use crate::store::Store;

/// Beginning of every API token, so that a scanner recognises a leaked one.
pub(crate) const PREFIX: &str = "wharf_";
/// Longest life of a token.
const MAX_DAYS: u64 = 366;
/// Rules of one token.
const MAX_RULES: usize = 64;
/// `last_used_at` is this coarse, so that use costs no write per request.
const COARSE: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Serialize)]
pub struct ApiToken {
    pub id: TokenId,
    pub principal_id: PrincipalId,
    pub name: Name,
    /// The first characters, to recognise it by.
    pub prefix: String,
    pub rules: Option<Vec<Rule>>,
    pub created_at: Time,
    pub expires_at: Time,
    /// Within five minutes.
    pub last_used_at: Option<Time>,
}

impl Row for ApiToken {
    const KIND: &'static str = "token";
    const RESOURCE: Resource = Resource::Tokens;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

pub struct NewApiToken {
    pub name: Name,
    /// `None`: everything the owner may do, whenever it is used.
    pub rules: Option<Vec<Rule>>,
    pub lifetime: Duration,
}

/// The only time the token is seen.
pub struct IssuedToken {
    pub token: Plain,
    pub row: ApiToken,
}

/// Tokens of one principal.
pub struct Tokens<'s> {
    scope: &'s mut Scope,
    owner: Principal,
}

impl Scope {
    /// The owner comes out of a permit: who may not see the account does not see its tokens.
    pub fn tokens(&mut self, owner: &Principal) -> Tokens<'_> {
        Tokens { scope: self, owner: owner.clone() }
    }
}

macro_rules! columns {
    () => {
        "id, principal_id, name, prefix, rules, created_at, expires_at, last_used_at"
    };
}

impl Tokens<'_> {
    pub async fn permit(&mut self, at: &NameOrId<TokenId>, verb: Verb) -> Result<Permit<ApiToken>, Error> {
        let (id, named) = split(at);
        let row = sqlx::query(concat!(
            "select ",
            columns!(),
            " from api_tokens where principal_id = $1 and (id = $2 or name = $3)"
        ))
        .bind(self.owner.id.uuid())
        .bind(id)
        .bind(named)
        .fetch_optional(self.scope.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(read).transpose()?;
        self.scope.judge(&at.to_string(), row, verb).await
    }

    pub async fn allow(&mut self, verb: Verb, name: &Name) -> Result<Permit<New<ApiToken>>, Error> {
        debug_assert_eq!(verb, Verb::Create);
        self.scope.allow_new::<ApiToken>(Some(name.as_str())).await
    }

    /// Refuses a token that could do more than the caller may.
    pub async fn create(
        &mut self,
        _permit: &Permit<New<ApiToken>>,
        new: NewApiToken,
    ) -> Result<IssuedToken, Error> {
        let most = Duration::from_secs(MAX_DAYS * 24 * 3600);
        if new.lifetime.is_zero() || new.lifetime > most {
            return Err(Error::new(
                Code::InvalidField,
                format!("a token lives between one second and {MAX_DAYS} days"),
            )
            .field("expires_in_seconds"));
        }
        if let Some(rules) = &new.rules {
            if rules.is_empty() || rules.len() > MAX_RULES {
                return Err(Error::new(
                    Code::InvalidField,
                    format!("a token has 1 to {MAX_RULES} rules, or none given for all"),
                )
                .field("rules"));
            }
            rules.iter().try_for_each(Rule::validate)?;
        }
        let rights = rights_of(self.scope, self.owner.id.uuid()).await?;
        let gained = Rights { grants: rights.grants, subset: new.rules.clone() };
        if !cover::covers_all(self.scope.caller().rights(), &gained) {
            let (id, owner) = (self.owner.id.uuid(), self.owner.name.to_string());
            if let Some(e) =
                self.scope.denied(Resource::Tokens, Verb::Create, Some(id), Some(&owner), None).await
            {
                return Err(e);
            }
            return Err(Error::new(
                Code::Forbidden,
                format!(
                    "{owner} holds rights that you do not; narrow the token with rules you hold yourself"
                ),
            ));
        }
        let now = self.scope.now();
        let token = login::random_token(PREFIX)?;
        let row = sqlx::query(concat!(
            "insert into api_tokens (id, principal_id, name, prefix, hash, rules, created_at, expires_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8) returning ",
            columns!()
        ))
        .bind(TokenId::new().uuid())
        .bind(self.owner.id.uuid())
        .bind(new.name.as_str())
        .bind(&token[..PREFIX.len() + 6])
        .bind(hash(&token).as_slice())
        .bind(new.rules.as_ref().map(to_json).transpose()?)
        .bind(now.to_utc())
        .bind(now.plus(new.lifetime).to_utc())
        .fetch_one(self.scope.tx()?)
        .await
        .or_domain()?;
        let row = read(&row)?;
        let detail = json!({"owner": self.owner.name, "rules": row.rules, "expires_at": row.expires_at});
        self.scope.audit(
            Verb::Create,
            Resource::Tokens,
            Some(row.id.uuid()),
            Some(row.name.as_str()),
            detail,
        );
        Ok(IssuedToken { token: Plain::new(token), row })
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<ApiToken>, Error> {
        let visible = self.scope.listing(Resource::Tokens, Verb::List).await?;
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from api_tokens where principal_id = $1 and id > $2 and ($3::text[] is null or name = any($3))
             order by id limit $4"
        ))
        .bind(self.owner.id.uuid())
        .bind(request.after())
        .bind(visible.names())
        .bind(request.fetch())
        .fetch_all(self.scope.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(rows, |t| t.id.uuid()))
    }

    /// Works no more from the commit on.
    pub async fn delete(&mut self, permit: &Permit<ApiToken>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        sqlx::query("delete from api_tokens where id = $1")
            .bind(permit.id.uuid())
            .execute(self.scope.tx()?)
            .await
            .or_domain()?;
        let detail = json!({"owner": self.owner.name});
        self.scope.audit(
            Verb::Delete,
            Resource::Tokens,
            Some(permit.id.uuid()),
            Some(permit.name.as_str()),
            detail,
        );
        Ok(())
    }
}

pub(crate) fn hash(token: &str) -> [u8; 32] {
    login::hash(token)
}

fn read(row: &PgRow) -> Result<ApiToken, Error> {
    let rules = row.try_get::<Option<serde_json::Value>, _>("rules").or_domain()?;
    Ok(ApiToken {
        id: TokenId::from_uuid(row.try_get("id").or_domain()?),
        principal_id: PrincipalId::from_uuid(row.try_get("principal_id").or_domain()?),
        name: name(row, "name")?,
        prefix: row.try_get("prefix").or_domain()?,
        rules: rules.map(from_json).transpose()?,
        created_at: time(row, "created_at")?,
        expires_at: time(row, "expires_at")?,
        last_used_at: time_opt(row, "last_used_at")?,
    })
}

/// When this process last wrote a token's `last_used_at`; bounded by forgetting everything at the limit.
#[derive(Default)]
pub(crate) struct Touched(Mutex<HashMap<TokenId, Time>>);

impl Store {
    /// Writes the use of a token beside the request, at most once per [`COARSE`].
    pub(crate) fn touch_token(&self, token: TokenId, last: Option<Time>) {
        let now = self.now();
        if last.is_some_and(|t| now.since(t) < COARSE) {
            return;
        }
        {
            let mut touched = self.0.touched.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if touched.get(&token).is_some_and(|t| now.since(*t) < COARSE) {
                return;
            }
            if touched.len() >= 10_000 {
                touched.clear();
            }
            touched.insert(token, now);
        }
        let store = self.clone();
        tokio::spawn(async move {
            let done = sqlx::query("update api_tokens set last_used_at = $2 where id = $1")
                .bind(token.uuid())
                .bind(now.to_utc())
                .execute(store.pool())
                .await;
            if let Err(error) = done {
                tracing::debug!(%error, "the use of a token was not noted");
            }
        });
    }
}
