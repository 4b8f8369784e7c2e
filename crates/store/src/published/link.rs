//! Links to published copies: `{slug}` for a public one, `{slug}.{expiry}.{signature}` otherwise.
//!
//! Each copy has a key pair of its own (Ed25519). The public half checks links; the private half is sealed and opened only to
//! sign one, so reading the tables makes no link. A new pair ends every link there is. The copy's slug and the time are
//! what is signed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde_json::json;
use sqlx::Row as _;
use wharf_chassis::seal::Sealed;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Error, Plain, Time};
use zeroize::Zeroize as _;

use super::{Published, PublishedCopies};
use crate::error::OrDomain as _;
use crate::events::Event;
use crate::permit::Permit;
use crate::secrets::read_sealed;
use crate::store::Store;

/// Random bytes of a slug.
const SLUG_BYTES: usize = 16;
/// Characters of a link at the most.
const LINK_CHARS: usize = 160;

pub(super) struct Key {
    pub public: [u8; 32],
    pub sealed: Sealed,
}

/// What a link says, before it is believed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Link<'l> {
    pub slug: &'l str,
    /// Seconds since 1970, and the signature over it; absent in a public address.
    pub signed: Option<(i64, Signature)>,
}

pub(crate) fn context(slug: &str) -> String {
    format!("published/{slug}")
}

fn message(slug: &str, expires: i64) -> String {
    format!("wharf published {slug} {expires}")
}

pub(super) fn slug() -> Result<String, Error> {
    let mut bytes = [0_u8; SLUG_BYTES];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal(e.to_string()))?;
    Ok(B64.encode(bytes))
}

pub(super) fn key(store: &Store, slug: &str) -> Result<Key, Error> {
    let mut seed = [0_u8; 32];
    getrandom::fill(&mut seed).map_err(|e| Error::internal(e.to_string()))?;
    let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    let plain = Plain::new(seed.as_slice());
    seed.zeroize();
    let sealed = store.0.keyring.seal(&plain, &context(slug)).map_err(Error::internal)?;
    Ok(Key { public, sealed })
}

/// Reads the text of a link; `None` for what is none.
pub(super) fn read(text: &str) -> Option<Link<'_>> {
    let slug_of =
        |s: &str| s.len() == 22 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if text.len() > LINK_CHARS {
        return None;
    }
    let mut parts = text.split('.');
    let slug = parts.next().filter(|s| slug_of(s))?;
    let Some(expires) = parts.next() else { return Some(Link { slug, signed: None }) };
    let signature = parts.next()?;
    if parts.next().is_some() || !expires.bytes().all(|b| b.is_ascii_digit()) || expires.starts_with('0') {
        return None;
    }
    let signature = Signature::from_slice(&B64.decode(signature).ok()?).ok()?;
    Some(Link { slug, signed: Some((expires.parse().ok()?, signature)) })
}

/// Whether the signature is that of the key for this copy and time.
pub(super) fn signed_by(public: &[u8], slug: &str, expires: i64, signature: &Signature) -> bool {
    let Ok(public) = <[u8; 32]>::try_from(public) else { return false };
    VerifyingKey::from_bytes(&public)
        .is_ok_and(|key| key.verify_strict(message(slug, expires).as_bytes(), signature).is_ok())
}

impl PublishedCopies<'_> {
    /// Signs a link; it ends with the copy at the latest. A public copy's address is its link.
    pub async fn link(
        &mut self,
        permit: &Permit<Published>,
        ttl: Duration,
    ) -> Result<(Plain, Option<Time>), Error> {
        permit.demand(Verb::Publish)?;
        let (id, name, slug) = (permit.id.uuid(), permit.name.to_string(), permit.slug.clone());
        if permit.public {
            self.0.audit(
                Verb::Publish,
                Resource::Published,
                Some(id),
                Some(&name),
                json!({"link": "public"}),
            );
            return Ok((Plain::new(slug), None));
        }
        let wanted = self.0.now().plus(ttl);
        let until = permit.expires_at.map_or(wanted, |end| end.min(wanted));
        let expires = until.millis() / 1000;
        let row = sqlx::query("select key_id, wrapped, payload from published where id = $1")
            .bind(id)
            .fetch_one(self.0.tx()?)
            .await
            .or_domain()?;
        let seed =
            self.0.store.0.keyring.open(&read_sealed(&row)?, &context(&slug)).map_err(Error::internal)?;
        let mut bytes =
            <[u8; 32]>::try_from(seed.expose()).map_err(|_| Error::internal("a key of another size"))?;
        let signature = SigningKey::from_bytes(&bytes).sign(message(&slug, expires).as_bytes());
        bytes.zeroize();
        let until = Time::from_millis(expires * 1000);
        self.0.audit(Verb::Publish, Resource::Published, Some(id), Some(&name), json!({"link_until": until}));
        Ok((Plain::new(format!("{slug}.{expires}.{}", B64.encode(signature.to_bytes()))), Some(until)))
    }

    /// Ends every link there is.
    pub async fn revoke_links(&mut self, permit: &Permit<Published>) -> Result<(), Error> {
        permit.demand(Verb::Publish)?;
        let (id, name) = (permit.id.uuid(), permit.name.to_string());
        let key = key(&self.0.store, &permit.slug)?;
        let row = sqlx::query(
            "update published set link_public = $2, key_id = $3, wrapped = $4, payload = $5,
                resource_version = resource_version + 1 where id = $1 returning resource_version",
        )
        .bind(id)
        .bind(key.public.as_slice())
        .bind(&key.sealed.key_id)
        .bind(&key.sealed.wrapped)
        .bind(&key.sealed.payload)
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let version = row.try_get("resource_version").or_domain()?;
        self.0.audit(Verb::Publish, Resource::Published, Some(id), Some(&name), json!({"links": "revoked"}));
        self.0.emit(Event::new(
            "updated",
            Resource::Published,
            id,
            Some(&name),
            version,
            json!({"links": "revoked"}),
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
