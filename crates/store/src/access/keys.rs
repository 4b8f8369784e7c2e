//! Signing keys of access tokens: Ed25519, sealed at rest, rotated with overlap.
//!
//! One key signs. A retired one still verifies until the last token made with it has expired, then it is gone from
//! the key set too. Each has a `kid`; a token naming an unknown one makes the cache look again.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use ed25519_dalek::SigningKey;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;
use wharf_chassis::seal::Sealed;
use wharf_domain::{Error, Plain, Time};

use crate::access::authenticate::expired;
use crate::caller::unauthenticated;
use crate::error::OrDomain as _;
use crate::spaces::time_opt;
use crate::store::Store;
use crate::system::System;

/// How long an access token is valid.
pub(crate) const ACCESS_TTL: Duration = Duration::from_secs(15 * 60);
const ISSUER: &str = "wharf";
/// DER of an Ed25519 private key up to the 32 bytes of the key itself (RFC 8410, PKCS #8 version 1).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What an access token says (RFC 7519; `act` after RFC 8693).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    pub(crate) sub: Uuid,
    /// The login it came from.
    pub(crate) fam: Uuid,
    /// Who acts as `sub`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) act: Option<Uuid>,
    jti: Uuid,
    iat: i64,
    exp: i64,
}

impl Claims {
    /// Of nobody's token: for looking a login up again.
    pub(crate) fn of(sub: Uuid, fam: Uuid) -> Self {
        Self { iss: ISSUER.to_owned(), sub, fam, act: None, jti: Uuid::nil(), iat: 0, exp: 0 }
    }
}

/// The public keys (RFC 7517).
#[derive(Clone, Debug, Serialize)]
pub struct Jwks {
    pub keys: Vec<Jwk>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Jwk {
    pub kty: &'static str,
    pub crv: &'static str,
    pub alg: &'static str,
    #[serde(rename = "use")]
    pub usage: &'static str,
    pub kid: String,
    pub x: String,
}

struct Held {
    decode: DecodingKey,
    /// After this nothing it signed is valid.
    expires_at: Option<Time>,
}

#[derive(Default)]
struct Keys {
    signer: Option<(String, Arc<EncodingKey>)>,
    verifiers: HashMap<String, Arc<Held>>,
    looked_at: Option<Time>,
}

/// Keys of this process; the table decides, this is its copy.
#[derive(Default)]
pub(crate) struct KeyCache(RwLock<Keys>);

/// At most one look at the table per this for unknown `kid`s: a flood of forged tokens costs no queries.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A signer retired by another process is noticed after this at the latest.
const SIGNER_FRESH: Duration = Duration::from_secs(60);

impl Store {
    /// Makes the first key. Concurrent starters: the index lets one win.
    pub(crate) async fn ensure_signing_key(&self) -> Result<(), Error> {
        let mut conn = self.pool().acquire().await.or_domain()?;
        let some: bool =
            sqlx::query_scalar("select exists (select from signing_keys where retired_at is null)")
                .fetch_one(&mut *conn)
                .await
                .or_domain()?;
        if !some {
            self.insert_key(&mut conn).await?;
        }
        drop(conn);
        self.load_keys().await
    }

    async fn insert_key(&self, conn: &mut PgConnection) -> Result<String, Error> {
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(|e| Error::internal(e.to_string()))?;
        let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
        let kid = Uuid::now_v7().simple().to_string();
        let plain = Plain::new(seed.as_slice());
        zeroize::Zeroize::zeroize(&mut seed);
        let sealed = self.0.keyring.seal(&plain, &context(&kid)).map_err(Error::internal)?;
        sqlx::query(
            "insert into signing_keys (kid, public, key_id, wrapped, payload, created_at)
             values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        )
        .bind(&kid)
        .bind(public.as_slice())
        .bind(&sealed.key_id)
        .bind(&sealed.wrapped)
        .bind(&sealed.payload)
        .bind(self.now().to_utc())
        .execute(conn)
        .await
        .or_domain()?;
        Ok(kid)
    }

    pub(crate) async fn load_keys(&self) -> Result<(), Error> {
        let now = self.now();
        let rows = sqlx::query(
            "select kid, public, key_id, wrapped, payload, retired_at, expires_at from signing_keys
             where expires_at is null or expires_at > $1",
        )
        .bind(now.to_utc())
        .fetch_all(self.pool())
        .await
        .or_domain()?;
        let mut keys = Keys { looked_at: Some(now), ..Keys::default() };
        for row in &rows {
            let kid: String = row.try_get("kid").or_domain()?;
            let public: Vec<u8> = row.try_get("public").or_domain()?;
            let decode = DecodingKey::from_ed_components(&B64.encode(&public)).map_err(Error::internal)?;
            keys.verifiers
                .insert(kid.clone(), Arc::new(Held { decode, expires_at: time_opt(row, "expires_at")? }));
            if time_opt(row, "retired_at")?.is_none() {
                let sealed = Sealed {
                    key_id: row.try_get("key_id").or_domain()?,
                    wrapped: row.try_get("wrapped").or_domain()?,
                    payload: row.try_get("payload").or_domain()?,
                };
                let seed = self.0.keyring.open(&sealed, &context(&kid)).map_err(Error::internal)?;
                let der = zeroize::Zeroizing::new([&PKCS8_PREFIX, seed.expose()].concat());
                keys.signer = Some((kid, Arc::new(EncodingKey::from_ed_der(&der))));
            }
        }
        *self.0.keys.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = keys;
        Ok(())
    }

    /// An access token for `sub`; `act` is who acts as it.
    pub(crate) async fn sign(
        &self,
        sub: Uuid,
        fam: Uuid,
        act: Option<Uuid>,
        ttl: Duration,
    ) -> Result<(Plain, Time), Error> {
        let claims =
            |iat, exp| Claims { iss: ISSUER.to_owned(), sub, fam, act, jti: Uuid::now_v7(), iat, exp };
        self.sign_claims(ttl, claims).await
    }

    /// Signs what `claims` makes of the times of issue and expiry.
    pub(crate) async fn sign_claims<C: Serialize>(
        &self,
        ttl: Duration,
        claims: impl FnOnce(i64, i64) -> C,
    ) -> Result<(Plain, Time), Error> {
        let now = self.now();
        let stale = {
            let keys = self.0.keys.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            keys.looked_at.is_none_or(|t| now.since(t) >= SIGNER_FRESH)
        };
        if stale {
            self.load_keys().await?;
        }
        let signer = {
            let keys = self.0.keys.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            keys.signer.clone()
        };
        let (kid, key) = signer.ok_or_else(|| Error::internal("there is no signing key"))?;
        let header = Header { kid: Some(kid), ..Header::new(Algorithm::EdDSA) };
        let (iat, exp) = (now.millis() / 1000, now.plus(ttl).millis() / 1000);
        let token = jsonwebtoken::encode(&header, &claims(iat, exp), &key).map_err(Error::internal)?;
        Ok((Plain::new(token), Time::from_millis(exp * 1000)))
    }

    /// Checks signature and times. Says nothing about whether the login still stands.
    pub(crate) async fn verify(&self, token: &str) -> Result<Claims, Error> {
        self.verify_claims(token, ISSUER, |claims: &Claims| claims.exp).await
    }

    /// The same for what `issuer` stands for; no kind of token is taken for another.
    pub(crate) async fn verify_claims<C: serde::de::DeserializeOwned>(
        &self,
        token: &str,
        issuer: &str,
        exp: impl FnOnce(&C) -> i64,
    ) -> Result<C, Error> {
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| unauthenticated("the token is not one of ours"))?;
        let kid = header.kid.ok_or_else(|| unauthenticated("the token names no key"))?;
        let now = self.now();
        let held = match self.held(&kid) {
            (Some(held), _) => held,
            (None, looked_at) => {
                if looked_at.is_none_or(|t| now.since(t) >= LOOK_AGAIN) {
                    self.load_keys().await?;
                }
                self.held(&kid).0.ok_or_else(|| unauthenticated("the token's key is not known (any more)"))?
            }
        };
        let mut rules = Validation::new(Algorithm::EdDSA);
        // The times are checked below, against the clock that came through the door.
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.set_issuer(&[issuer]);
        rules.set_required_spec_claims(&["exp", "iss", "sub"]);
        let claims = jsonwebtoken::decode::<C>(token, &held.decode, &rules)
            .map_err(|_| unauthenticated("the token is not one of ours"))?
            .claims;
        if Time::from_millis(exp(&claims).saturating_mul(1000)) <= now
            || held.expires_at.is_some_and(|t| t <= now)
        {
            return Err(expired("the token"));
        }
        Ok(claims)
    }

    fn held(&self, kid: &str) -> (Option<Arc<Held>>, Option<Time>) {
        let keys = self.0.keys.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        (keys.verifiers.get(kid).cloned(), keys.looked_at)
    }

    /// The public keys that verify tokens now: the signing one and those retired whose tokens may still live.
    pub async fn jwks(&self) -> Result<Jwks, Error> {
        let rows = sqlx::query(
            "select kid, public from signing_keys where expires_at is null or expires_at > $1 order by created_at desc",
        )
        .bind(self.now().to_utc())
        .fetch_all(self.pool())
        .await
        .or_domain()?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            keys.push(Jwk {
                kty: "OKP",
                crv: "Ed25519",
                alg: "EdDSA",
                usage: "sig",
                kid: row.try_get("kid").or_domain()?,
                x: B64.encode(row.try_get::<Vec<u8>, _>("public").or_domain()?),
            });
        }
        Ok(Jwks { keys })
    }
}

impl System {
    /// Retires the signing key and makes another. Tokens already out stay valid until they expire.
    pub async fn rotate_signing_key(&self) -> Result<String, Error> {
        let store = &self.store;
        let mut scope = self.global().await?;
        let now = scope.now();
        // Another process may sign with the old key until it notices.
        let gone = now.plus(ACCESS_TTL + SIGNER_FRESH);
        sqlx::query("update signing_keys set retired_at = $1, expires_at = $2 where retired_at is null")
            .bind(now.to_utc())
            .bind(gone.to_utc())
            .execute(scope.tx()?)
            .await
            .or_domain()?;
        let kid = store.insert_key(scope.tx()?).await?;
        scope.audit_as(
            "rotate",
            "signing-keys",
            None,
            Some(&kid),
            crate::audit::Outcome::Allowed,
            serde_json::json!({}),
        );
        scope.commit().await?;
        store.load_keys().await?;
        Ok(kid)
    }
}

pub(crate) fn context(kid: &str) -> String {
    format!("signing-key/{kid}")
}
