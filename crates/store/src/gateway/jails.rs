//! Which session a jail belongs to, and what that session may reach.

use sqlx::Row as _;
use uuid::Uuid;
use wharf_domain::egress::Policy;
use wharf_domain::{Error, JailId, Name, SessionId, SpaceId, TurnId};

use crate::error::OrDomain as _;
use crate::system::System;

/// The session behind a socket.
#[derive(Clone, Debug)]
pub struct JailOwner {
    pub session: SessionId,
    pub name: Name,
    pub space: SpaceId,
    pub space_name: Name,
    pub policy: Policy,
    /// The turn that runs, if one does.
    pub turn: Option<TurnId>,
}

impl System {
    /// The session whose computer the jail is; `None` for a warm one and for one that is no more.
    pub async fn jail_owner(&self, jail: JailId) -> Result<Option<JailOwner>, Error> {
        let row = sqlx::query(
            "select s.id, s.name, s.space_id, p.name as space_name, s.network, t.id as turn_id
             from sessions s join spaces p on p.id = s.space_id
                  left join turns t on t.session_id = s.id and t.state = 'running'
             where s.jail_id = $1 and s.deleted_at is null",
        )
        .bind(jail.uuid())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        let Some(row) = row else { return Ok(None) };
        let network: serde_json::Value = row.try_get("network").or_domain()?;
        Ok(Some(JailOwner {
            session: SessionId::from_uuid(row.try_get("id").or_domain()?),
            name: crate::spaces::name(&row, "name")?,
            space: SpaceId::from_uuid(row.try_get("space_id").or_domain()?),
            space_name: crate::spaces::name(&row, "space_name")?,
            policy: serde_json::from_value(network).map_err(Error::internal)?,
            turn: row.try_get::<Option<Uuid>, _>("turn_id").or_domain()?.map(TurnId::from_uuid),
        }))
    }
}
