//! From a credential to a [`Caller`], in one round trip. Rights are read at every request, so a changed binding, a
//! disabled user or a revoked login counts at once.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::rbac::{Grant, Rights, Rule};
use wharf_domain::{Code, Error, Plain, PrincipalId, RequestId, SpaceId, TokenId};

use crate::access::keys::Claims;
use crate::access::{cover, tokens};
use crate::caller::{
    Caller, Credential, CredentialKind, Identity, PrincipalKind, RequestMeta, unauthenticated,
};
use crate::error::OrDomain as _;
use crate::repos::Pusher;
use crate::spaces::{from_json, time, time_opt};
use crate::store::Store;

/// What `principal_grants()` answers, written out: a function's body is planned anew with every call, and this is on
/// every request's path.
macro_rules! grants_of {
    ($id:literal) => {
        concat!(
            "(select coalesce(jsonb_agg(jsonb_build_object('binding', b.name, 'role', r.name, 'space', b.space_id,
                'rules', r.rules) order by b.id), '[]')
              from role_bindings b join roles r on r.id = b.role_id where b.principal_id = ",
            $id,
            ")"
        )
    };
}

macro_rules! token_where {
    ($condition:literal) => {
        concat!(
            "select t.id as token, t.rules, t.expires_at, t.last_used_at, p.id, p.kind, p.name, p.disabled, ",
            grants_of!("p.id"),
            " as grants from api_tokens t join principals p on p.id = t.principal_id where ",
            $condition
        )
    };
}

impl Store {
    /// `unauthenticated` for what is no credential (any more), `token_expired` for one that was.
    pub async fn authenticate(&self, credential: Credential, meta: RequestMeta) -> Result<Caller, Error> {
        let outcome = self.identify(credential, meta).await;
        if let Err(e) = &outcome
            && e.code == Code::Unauthenticated
        {
            // An expired token is every client's daily bread; one that was never valid, or is no more, is not.
            self.record_denial(super::login::anonymous(meta, "authenticate", None, &e.public)).await?;
        }
        outcome
    }

    async fn identify(&self, credential: Credential, meta: RequestMeta) -> Result<Caller, Error> {
        let token = match &credential {
            Credential::Bearer(token) => token,
            Credential::Basic { password, .. }
                if password.expose_str().is_some_and(|p| p.starts_with(tokens::PREFIX)) =>
            {
                password
            }
            Credential::Basic { username, password } => {
                return self.by_password(username, password, meta).await;
            }
        };
        let text = token.expose_str().ok_or_else(|| unauthenticated("the token is not text"))?;
        if text.starts_with(tokens::PREFIX) {
            self.by_api_token(text, meta).await
        } else {
            let claims = self.verify(text).await?;
            self.by_claims(claims, meta).await
        }
    }

    /// The same guard as at a login, without beginning one.
    async fn by_password(
        &self,
        username: &str,
        password: &Plain,
        meta: RequestMeta,
    ) -> Result<Caller, Error> {
        if let Some(caller) = self.remembered(username, password, meta).await? {
            return Ok(caller);
        }
        let _turn = self.0.remembered.turn.lock().await;
        if let Some(caller) = self.remembered(username, password, meta).await? {
            return Ok(caller);
        }
        let Some((_, stored)) = self.right_password(username, password, meta).await? else {
            return Err(unauthenticated("the user name or the password is wrong"));
        };
        self.0.remembered.learn(username, password, &stored, self.now())?;
        let caller = self.remembered(username, password, meta).await?;
        caller.ok_or_else(|| unauthenticated("the password was changed in this moment"))
    }

    /// The caller, if the password was right a moment ago and still is the account's.
    async fn remembered(
        &self,
        username: &str,
        password: &Plain,
        meta: RequestMeta,
    ) -> Result<Option<Caller>, Error> {
        let row = sqlx::query(concat!(
            "select p.id, p.kind, p.name, p.disabled, p.password_hash, ",
            grants_of!("p.id"),
            " as grants from principals p where p.kind = 'user' and p.name = $1"
        ))
        .bind(username)
        .fetch_optional(self.pool())
        .await
        .or_domain()?;
        let Some(row) = row else { return Ok(None) };
        let Some(stored) = row.try_get::<Option<String>, _>("password_hash").or_domain()? else {
            return Ok(None);
        };
        if !self.0.remembered.knows(username, password, &stored, self.now())? {
            return Ok(None);
        }
        let identity = identity(&row, "id", "kind", "name", "disabled")?;
        let rights = Rights { grants: grants(row.try_get("grants").or_domain()?)?, subset: None };
        let credential = CredentialKind::Password;
        Ok(Some(Caller { identity, impersonator: None, rights: Arc::new(rights), meta, credential }))
    }

    pub(super) async fn by_claims(&self, claims: Claims, meta: RequestMeta) -> Result<Caller, Error> {
        let row = sqlx::query(concat!(
            "select p.id, p.kind, p.name, p.disabled, ",
            grants_of!("p.id"),
            " as grants,
                exists (select from login_families f where f.id = $2 and f.revoked_at is null) as family_live,
                i.id as by_id, i.kind as by_kind, i.name as by_name, i.disabled as by_disabled,
                case when i.id is not null then ",
            grants_of!("i.id"),
            " end as by_grants
             from principals p left join principals i on i.id = $3 where p.id = $1"
        ))
        .bind(claims.sub)
        .bind(claims.fam)
        .bind(claims.act)
        .fetch_optional(self.pool())
        .await
        .or_domain()?
        .ok_or_else(|| unauthenticated("whom the token stands for is no longer there"))?;
        if !row.try_get::<bool, _>("family_live").or_domain()? {
            return Err(unauthenticated("the login this token came from has ended"));
        }
        let identity = identity(&row, "id", "kind", "name", "disabled")?;
        let rights = Rights { grants: grants(row.try_get("grants").or_domain()?)?, subset: None };
        let Some(by) = claims.act else {
            let credential = CredentialKind::Access { family: claims.fam };
            return Ok(Caller { identity, impersonator: None, rights: Arc::new(rights), meta, credential });
        };
        if row.try_get::<Option<Uuid>, _>("by_id").or_domain()? != Some(by) {
            return Err(unauthenticated("who made this impersonation token is no longer there"));
        }
        let impersonator = self::identity(&row, "by_id", "by_kind", "by_name", "by_disabled")?;
        let own = Rights { grants: grants(row.try_get("by_grants").or_domain()?)?, subset: None };
        // Looked at again with every call: a right lost since then ends the impersonation.
        cover::may_impersonate(&own, &identity, &rights)?;
        let credential = CredentialKind::Impersonation;
        Ok(Caller { identity, impersonator: Some(impersonator), rights: Arc::new(rights), meta, credential })
    }

    /// As whom a push was made, for what is done in its name when it is over. What they may is what they may now: a login
    /// that has ended since takes nothing back, an account that is disabled and an API token that is gone do.
    pub async fn on_behalf(&self, of: &Pusher) -> Result<Caller, Error> {
        let meta = RequestMeta { request_id: RequestId::new(), address: None };
        if let Some(token) = of.token {
            return self.by_token_id(token, meta).await;
        }
        let row = sqlx::query(concat!(
            "select p.id, p.kind, p.name, p.disabled, ",
            grants_of!("p.id"),
            " as grants, i.id as by_id, i.kind as by_kind, i.name as by_name, i.disabled as by_disabled,
                case when i.id is not null then ",
            grants_of!("i.id"),
            " end as by_grants
             from principals p left join principals i on i.id = $2 where p.id = $1"
        ))
        .bind(of.principal.uuid())
        .bind(of.impersonator.map(PrincipalId::uuid))
        .fetch_optional(self.pool())
        .await
        .or_domain()?
        .ok_or_else(|| unauthenticated("who pushed is no longer there"))?;
        let identity = identity(&row, "id", "kind", "name", "disabled")?;
        let rights = Rights { grants: grants(row.try_get("grants").or_domain()?)?, subset: None };
        let rights = Arc::new(rights);
        let Some(by) = of.impersonator else {
            let credential = CredentialKind::Password;
            return Ok(Caller { identity, impersonator: None, rights, meta, credential });
        };
        if row.try_get::<Option<Uuid>, _>("by_id").or_domain()? != Some(by.uuid()) {
            return Err(unauthenticated("who acted as the pusher is no longer there"));
        }
        let impersonator = self::identity(&row, "by_id", "by_kind", "by_name", "by_disabled")?;
        let own = Rights { grants: grants(row.try_get("by_grants").or_domain()?)?, subset: None };
        cover::may_impersonate(&own, &identity, &rights)?;
        let credential = CredentialKind::Impersonation;
        Ok(Caller { identity, impersonator: Some(impersonator), rights, meta, credential })
    }

    async fn by_api_token(&self, text: &str, meta: RequestMeta) -> Result<Caller, Error> {
        let row = sqlx::query(token_where!("t.hash = $1"))
            .bind(tokens::hash(text).as_slice())
            .fetch_optional(self.pool())
            .await
            .or_domain()?
            .ok_or_else(|| unauthenticated("there is no such token"))?;
        self.by_token_row(&row, meta)
    }

    /// As whom the token of this id would call, were it shown.
    pub(super) async fn by_token_id(&self, token: TokenId, meta: RequestMeta) -> Result<Caller, Error> {
        let row = sqlx::query(token_where!("t.id = $1"))
            .bind(token.uuid())
            .fetch_optional(self.pool())
            .await
            .or_domain()?
            .ok_or_else(|| unauthenticated("the token behind it is no longer there"))?;
        self.by_token_row(&row, meta)
    }

    fn by_token_row(&self, row: &PgRow, meta: RequestMeta) -> Result<Caller, Error> {
        if time(row, "expires_at")? <= self.now() {
            return Err(expired("the API token"));
        }
        let identity = identity(row, "id", "kind", "name", "disabled")?;
        let subset = row
            .try_get::<Option<serde_json::Value>, _>("rules")
            .or_domain()?
            .map(from_json::<Vec<Rule>>)
            .transpose()?;
        let rights = Rights { grants: grants(row.try_get("grants").or_domain()?)?, subset };
        let token = TokenId::from_uuid(row.try_get("token").or_domain()?);
        self.touch_token(token, time_opt(row, "last_used_at")?);
        let credential = CredentialKind::ApiToken(token);
        Ok(Caller { identity, impersonator: None, rights: Arc::new(rights), meta, credential })
    }
}

pub(crate) fn expired(what: &str) -> Error {
    Error::new(Code::TokenExpired, format!("{what} has expired; get a new one"))
}

fn identity(row: &PgRow, id: &str, kind: &str, name: &str, disabled: &str) -> Result<Identity, Error> {
    if row.try_get::<bool, _>(disabled).or_domain()? {
        return Err(unauthenticated("the account is disabled"));
    }
    Ok(Identity {
        id: PrincipalId::from_uuid(row.try_get(id).or_domain()?),
        kind: PrincipalKind::read(row.try_get(kind).or_domain()?)?,
        name: row.try_get(name).or_domain()?,
    })
}

/// Reads what the statements above answer.
pub(crate) fn grants(value: serde_json::Value) -> Result<Vec<Grant>, Error> {
    #[derive(serde::Deserialize)]
    struct Row {
        binding: String,
        role: String,
        space: Option<Uuid>,
        rules: Vec<Rule>,
    }
    let rows: Vec<Row> = from_json(value)?;
    Ok(rows
        .into_iter()
        .map(|r| Grant {
            binding: r.binding,
            role: r.role,
            space: r.space.map(SpaceId::from_uuid),
            rules: r.rules,
        })
        .collect())
}
