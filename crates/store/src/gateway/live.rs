//! Connections as the gateway uses them: all of a space, with their secrets sealed until the moment one is put in.

use sqlx::Row as _;
use wharf_chassis::seal::Sealed;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Error, Plain, SpaceId};

use super::connections::{Connection, columns, read};
use crate::error::OrDomain as _;
use crate::scope::forbidden;
use crate::system::System;

/// A connection with its sealed secret.
pub struct LiveConnection {
    pub connection: Connection,
    sealed: Sealed,
    /// The place the secret is bound to.
    place: String,
}

impl System {
    /// The space's connections, the narrowest first.
    pub async fn live_connections(&self, space: SpaceId) -> Result<Vec<LiveConnection>, Error> {
        if !self.caller.may(Some(space), Resource::Secrets, Verb::ReadValues, None) {
            return Err(forbidden(Verb::ReadValues, Resource::Secrets, None));
        }
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            ", s.key_id, s.wrapped, s.payload from connections c join secrets s on s.id = c.secret_id
             where c.space_id = $1 order by c.id"
        ))
        .bind(space.uuid())
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            let named: &str = row.try_get("secret_name").or_domain()?;
            let place = crate::secrets::context(space, named);
            all.push(LiveConnection {
                connection: read(row)?,
                sealed: crate::secrets::read_sealed(row)?,
                place,
            });
        }
        // Stable: of two equally narrow ones the older.
        all.sort_by_key(|c| std::cmp::Reverse(c.connection.rule.rank()));
        Ok(all)
    }

    /// The value that is put in. Whoever takes it writes down that it was used.
    pub fn open_connection(&self, live: &LiveConnection) -> Result<Plain, Error> {
        self.store.0.keyring.open(&live.sealed, &live.place).map_err(Error::internal)
    }
}
