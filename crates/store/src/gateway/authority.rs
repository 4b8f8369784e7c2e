//! The certificate authority of a space, made when it is first asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::Row as _;
use wharf_chassis::authority;
use wharf_chassis::seal::Sealed;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Error, Plain, SpaceId};

use crate::error::OrDomain as _;
use crate::scope::forbidden;
use crate::store::Store;
use crate::system::System;

/// Binds the key to its space.
pub(crate) fn context(space: SpaceId) -> String {
    format!("authority/{space}")
}

/// Certificates by space: they never change. Emptied when there are many.
#[derive(Default)]
pub(crate) struct Certificates(Mutex<HashMap<SpaceId, Arc<str>>>);

const KEPT: usize = 4096;

impl Certificates {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<SpaceId, Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl System {
    /// The certificate (PEM) that sessions of the space trust.
    pub async fn authority_certificate(&self, space: SpaceId) -> Result<Arc<str>, Error> {
        self.store.authority_certificate(space).await
    }

    /// The authority itself. For the gateway.
    pub async fn authority(&self, space: SpaceId) -> Result<authority::Authority, Error> {
        if !self.caller.may(Some(space), Resource::Secrets, Verb::ReadValues, None) {
            return Err(forbidden(Verb::ReadValues, Resource::Secrets, None));
        }
        let (_, sealed) = self.store.authority_row(space).await?;
        let key: Plain = self.store.0.keyring.open(&sealed, &context(space)).map_err(Error::internal)?;
        authority::Authority::open(space, &key).map_err(Error::internal)
    }
}

impl Store {
    pub(crate) async fn authority_certificate(&self, space: SpaceId) -> Result<Arc<str>, Error> {
        if let Some(known) = self.0.certificates.all().get(&space) {
            return Ok(known.clone());
        }
        let (certificate, _) = self.authority_row(space).await?;
        let certificate: Arc<str> = certificate.into();
        let mut all = self.0.certificates.all();
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(space, certificate.clone());
        Ok(certificate)
    }

    /// Two that make it at the same time get the one that was first.
    async fn authority_row(&self, space: SpaceId) -> Result<(String, Sealed), Error> {
        for _ in 0..2 {
            let row = sqlx::query(
                "select certificate, key_id, wrapped, payload from space_authorities where space_id = $1",
            )
            .bind(space.uuid())
            .fetch_optional(self.pool())
            .await
            .or_domain()?;
            if let Some(row) = row {
                let certificate = row.try_get("certificate").or_domain()?;
                return Ok((certificate, crate::secrets::read_sealed(&row)?));
            }
            let now = self.now();
            let made = authority::make(space, now).map_err(Error::internal)?;
            let sealed = self.0.keyring.seal(&made.key, &context(space)).map_err(Error::internal)?;
            sqlx::query(
                "insert into space_authorities (space_id, certificate, key_id, wrapped, payload, created_at)
                 values ($1, $2, $3, $4, $5, $6) on conflict (space_id) do nothing",
            )
            .bind(space.uuid())
            .bind(&made.certificate)
            .bind(&sealed.key_id)
            .bind(&sealed.wrapped)
            .bind(&sealed.payload)
            .bind(now.to_utc())
            .execute(self.pool())
            .await
            .or_domain()?;
        }
        Err(Error::internal("the space's authority was made and is not there"))
    }
}
