//! Login with a password, refresh with rotation, logout.
//!
//! A refresh token works once. One that comes back a second time was copied by someone, and nobody can tell by
//! whom: its whole family is revoked. That is strict on purpose; a client that refreshes twice at once logs in
//! again.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;
use wharf_domain::{Error, Plain, PrincipalId, Time};

use crate::access::authenticate::expired;
use crate::access::keys::ACCESS_TTL;
use crate::access::password;
use crate::audit::{Entry, Outcome};
use crate::caller::{Caller, CredentialKind, Identity, PrincipalKind, RequestMeta, unauthenticated};
use crate::error::OrDomain as _;
use crate::spaces::{time, time_opt};
use crate::store::Store;

/// How long a refresh token waits to be used.
const REFRESH_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Beginning of every refresh token, so that a scanner recognises a leaked one.
const PREFIX: &str = "wharfr_";

/// What a login answers. The tokens are shown once.
pub struct Tokens {
    pub access_token: Plain,
    pub access_expires_at: Time,
    pub refresh_token: Plain,
    pub refresh_expires_at: Time,
    pub identity: Identity,
}

impl Store {
    /// `unauthenticated` for a wrong password, an unknown or a disabled account alike; `rate_limited` when locked.
    pub async fn login(&self, username: &str, password: &Plain, meta: RequestMeta) -> Result<Tokens, Error> {
        match self.right_password(username, password, meta).await? {
            Some((identity, _)) => self.begin_family(identity, meta).await,
            None => {
                self.login_refused(username, meta, "refused").await?;
                Err(unauthenticated("the user name or the password is wrong"))
            }
        }
    }

    /// The account and the hash its password has, if this is it. Guesses are counted.
    pub(crate) async fn right_password(
        &self,
        username: &str,
        password: &Plain,
        meta: RequestMeta,
    ) -> Result<Option<(Identity, String)>, Error> {
        let attempt = match self.attempt(username, meta.address).await {
            Ok(attempt) => attempt,
            Err(e) => {
                self.login_refused(username, meta, "locked").await?;
                return Err(e);
            }
        };
        let row = sqlx::query(
            "select id, name, disabled, password_hash from principals where kind = 'user' and name = $1",
        )
        .bind(username)
        .fetch_optional(self.pool())
        .await
        .or_domain()?;
        let (mut stored, mut found) = (None, None);
        if let Some(row) = &row {
            stored = row.try_get::<Option<String>, _>("password_hash").or_domain()?;
            let id = PrincipalId::from_uuid(row.try_get("id").or_domain()?);
            let name = row.try_get("name").or_domain()?;
            let identity = Identity { id, kind: PrincipalKind::User, name };
            found = Some((identity, row.try_get::<bool, _>("disabled").or_domain()?));
        }
        let right = password::verify(password, stored.as_deref()).await?;
        let (Some((identity, false)), Some(stored)) = (found.filter(|_| right), stored) else {
            return Ok(None);
        };
        self.attempt_succeeded(attempt).await?;
        Ok(Some((identity, stored)))
    }

    async fn begin_family(&self, identity: Identity, meta: RequestMeta) -> Result<Tokens, Error> {
        let (now, family) = (self.now(), Uuid::now_v7());
        let mut tx = self.begin().await?;
        sqlx::query(
            "insert into login_families (id, principal_id, address, created_at) values ($1, $2, $3, $4)",
        )
        .bind(family)
        .bind(identity.id.uuid())
        .bind(meta.address.map(|a| a.to_string()))
        .bind(now.to_utc())
        .execute(&mut *tx)
        .await
        .or_domain()?;
        let (refresh_token, refresh_expires_at) = issue_refresh(&mut tx, family, now).await?;
        let entry = login_entry(&identity, meta, "login", Outcome::Allowed, json!({"login": family}));
        crate::events::write(&mut tx, &[entry], &[], now).await?;
        tx.commit().await.or_domain()?;
        self.wake(wharf_ports::Topic::Audit);
        let (access_token, access_expires_at) =
            self.sign(identity.id.uuid(), family, None, ACCESS_TTL).await?;
        Ok(Tokens { access_token, access_expires_at, refresh_token, refresh_expires_at, identity })
    }

    /// A new pair for a refresh token. The token works once; a second use revokes the family.
    pub async fn refresh(&self, token: &Plain, meta: RequestMeta) -> Result<Tokens, Error> {
        let text = token.expose_str().filter(|t| t.starts_with(PREFIX));
        let text = text.ok_or_else(|| unauthenticated("that is not a refresh token"))?;
        let now = self.now();
        let mut tx = self.begin().await?;
        // The row lock makes two uses of one token take turns; the second sees `used_at`.
        let row = sqlx::query(
            "select t.family_id, t.used_at, t.expires_at, f.revoked_at, p.id, p.kind, p.name, p.disabled
             from refresh_tokens t join login_families f on f.id = t.family_id join principals p on p.id = f.principal_id
             where t.hash = $1 for update of t, f",
        )
        .bind(hash(text).as_slice())
        .fetch_optional(&mut *tx)
        .await
        .or_domain()?
        .ok_or_else(|| unauthenticated("there is no such refresh token"))?;
        let family: Uuid = row.try_get("family_id").or_domain()?;
        let identity = Identity {
            id: PrincipalId::from_uuid(row.try_get("id").or_domain()?),
            kind: PrincipalKind::read(row.try_get("kind").or_domain()?)?,
            name: row.try_get("name").or_domain()?,
        };
        if time_opt(&row, "revoked_at")?.is_some() || row.try_get::<bool, _>("disabled").or_domain()? {
            return Err(unauthenticated("the login this token came from has ended"));
        }
        if time_opt(&row, "used_at")?.is_some() {
            revoke_family(&mut tx, family, "reuse", now).await?;
            let detail =
                json!({"login": family, "reason": "a refresh token was used twice; the login is revoked"});
            let entry = login_entry(&identity, meta, "refresh", Outcome::Denied, detail);
            crate::events::write(&mut tx, &[entry], &[], now).await?;
            tx.commit().await.or_domain()?;
            self.wake(wharf_ports::Topic::Audit);
            return Err(unauthenticated(
                "this refresh token was used before, so the whole login was revoked",
            ));
        }
        if time(&row, "expires_at")? <= now {
            return Err(expired("the refresh token"));
        }
        sqlx::query("update refresh_tokens set used_at = $2 where hash = $1")
            .bind(hash(text).as_slice())
            .bind(now.to_utc())
            .execute(&mut *tx)
            .await
            .or_domain()?;
        let (refresh_token, refresh_expires_at) = issue_refresh(&mut tx, family, now).await?;
        let entry = login_entry(&identity, meta, "refresh", Outcome::Allowed, json!({"login": family}));
        crate::events::write(&mut tx, &[entry], &[], now).await?;
        tx.commit().await.or_domain()?;
        self.wake(wharf_ports::Topic::Audit);
        let (access_token, access_expires_at) =
            self.sign(identity.id.uuid(), family, None, ACCESS_TTL).await?;
        Ok(Tokens { access_token, access_expires_at, refresh_token, refresh_expires_at, identity })
    }

    /// Ends the login the caller's access token came from: its refresh tokens and access tokens stop at once.
    /// A caller with an API token has no login to end, and that is no error.
    pub async fn logout(&self, caller: &Caller) -> Result<(), Error> {
        let CredentialKind::Access { family } = caller.credential else { return Ok(()) };
        let mut scope = self.global(caller).await?;
        let now = scope.now();
        revoke_family(scope.tx()?, family, "logout", now).await?;
        scope.audit_as("logout", "logins", Some(family), None, Outcome::Allowed, json!({}));
        scope.commit().await
    }

    async fn login_refused(&self, username: &str, meta: RequestMeta, why: &str) -> Result<(), Error> {
        let shown: String = username.chars().take(63).collect();
        self.record_denial(anonymous(meta, "login", Some(&shown), why)).await
    }
}

/// An entry about someone who showed nothing that is known.
pub(crate) fn anonymous(meta: RequestMeta, verb: &str, name: Option<&str>, why: &str) -> Entry {
    let id = PrincipalId::from_uuid(Uuid::nil());
    let caller = stand_in(Identity { id, kind: PrincipalKind::Anonymous, name: "anonymous".into() }, meta);
    Entry::of(&caller, None, verb, "logins", None, name, Outcome::Denied, json!({"reason": why}))
}

fn login_entry(
    identity: &Identity,
    meta: RequestMeta,
    verb: &str,
    outcome: Outcome,
    detail: serde_json::Value,
) -> Entry {
    let caller = stand_in(identity.clone(), meta);
    let (id, name) = (identity.id.uuid(), identity.name.as_str());
    Entry::of(&caller, None, verb, "logins", Some(id).filter(|i| !i.is_nil()), Some(name), outcome, detail)
}

/// For entries about someone who has no caller yet.
fn stand_in(identity: Identity, meta: RequestMeta) -> Caller {
    let credential = CredentialKind::Access { family: Uuid::nil() };
    Caller { identity, impersonator: None, rights: std::sync::Arc::default(), meta, credential }
}

pub(crate) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// `<prefix><43 characters of base64url>`: 256 random bits.
pub(crate) fn random_token(prefix: &str) -> Result<String, Error> {
    let mut bytes = zeroize::Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *bytes).map_err(|e| Error::internal(e.to_string()))?;
    Ok(format!("{prefix}{}", B64.encode(*bytes)))
}

async fn issue_refresh(tx: &mut PgConnection, family: Uuid, now: Time) -> Result<(Plain, Time), Error> {
    let token = random_token(PREFIX)?;
    let expires = now.plus(REFRESH_TTL);
    sqlx::query(
        "insert into refresh_tokens (hash, family_id, created_at, expires_at) values ($1, $2, $3, $4)",
    )
    .bind(hash(&token).as_slice())
    .bind(family)
    .bind(now.to_utc())
    .bind(expires.to_utc())
    .execute(tx)
    .await
    .or_domain()?;
    Ok((Plain::new(token), expires))
}

async fn revoke_family(tx: &mut PgConnection, family: Uuid, why: &str, now: Time) -> Result<(), Error> {
    sqlx::query(
        "update login_families set revoked_at = $2, revoked_reason = $3 where id = $1 and revoked_at is null",
    )
    .bind(family)
    .bind(now.to_utc())
    .bind(why)
    .execute(tx)
    .await
    .or_domain()?;
    Ok(())
}

/// Every login of a principal: after a password change, when it is disabled.
pub(crate) async fn revoke_all(
    tx: &mut PgConnection,
    principal: Uuid,
    why: &str,
    now: Time,
) -> Result<(), Error> {
    sqlx::query(
        "update login_families set revoked_at = $2, revoked_reason = $3 where principal_id = $1 and revoked_at is null",
    )
    .bind(principal)
    .bind(now.to_utc())
    .bind(why)
    .execute(tx)
    .await
    .or_domain()?;
    Ok(())
}
