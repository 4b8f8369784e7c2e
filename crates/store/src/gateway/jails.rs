//! Which session a jail belongs to, and what that session may reach.

use serde_json::Value;
use sqlx::Row as _;
use sqlx::types::Json;
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
    /// Where the space has a quota on it: bytes that left and came today, and how many may.
    pub egress: Option<(u64, u64)>,
    /// Kinds and names of the agents whose doing it may be: those of the turn that runs, or all of the session's.
    pub agents: Vec<String>,
    /// Before it was read: what is known of the space must not be older.
    pub read: std::time::Instant,
}

impl JailOwner {
    /// Refuses when the space's quota on bytes is used up.
    pub fn room(&self) -> Result<(), String> {
        match self.egress {
            Some((used, most)) if used >= most => Err(format!(
                "the quota egress_bytes_per_day of space {0} is used up: {used} of {most} bytes today; a new day begins at \
                 0:00 UTC, or raise it (wharf space update {0} --quota egress_bytes_per_day=…)",
                self.space_name
            )),
            _ => Ok(()),
        }
    }
}

impl System {
    /// The session whose computer the jail is; `None` for a warm one and for one that is no more.
    pub async fn jail_owner(&self, jail: JailId) -> Result<Option<JailOwner>, Error> {
        let read = std::time::Instant::now();
        let row = sqlx::query(
            "select s.id, s.name, s.space_id, p.name as space_name, s.network, t.id as turn_id,
                    s.agent, s.agents, t.agent as addressed,
                    case when t.id is not null and json_array_length(s.agents) > 0 then array(
                        select l.data::text from session_log l
                        where l.turn_id = t.id and l.kind = 'turn.handover') end as handovers,
                    (p.quotas ->> 'egress_bytes_per_day')::bigint as egress_most,
                    case when p.quotas ->> 'egress_bytes_per_day' is not null then (
                        select coalesce(sum(u.bytes_sent + u.bytes_received), 0)::bigint from egress_usage u
                        where u.space_id = p.id and u.day = ($2 at time zone 'UTC')::date) end as egress_used
             from sessions s join spaces p on p.id = s.space_id
                  left join turns t on t.session_id = s.id and t.state = 'running'
             where s.jail_id = $1 and s.deleted_at is null",
        )
        .bind(jail.uuid())
        .bind(self.store.now().to_utc())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        let Some(row) = row else { return Ok(None) };
        let network: Value = row.try_get("network").or_domain()?;
        let bytes = |column: &str| {
            row.try_get::<Option<i64>, _>(column).or_domain().map(|n| n.map(|n| n.max(0) as u64))
        };
        let egress = bytes("egress_used")?.zip(bytes("egress_most")?);
        Ok(Some(JailOwner {
            read,
            egress,
            agents: agents(&row)?,
            session: SessionId::from_uuid(row.try_get("id").or_domain()?),
            name: crate::spaces::name(&row, "name")?,
            space: SpaceId::from_uuid(row.try_get("space_id").or_domain()?),
            space_name: crate::spaces::name(&row, "space_name")?,
            policy: serde_json::from_value(network).map_err(Error::internal)?,
            turn: row.try_get::<Option<Uuid>, _>("turn_id").or_domain()?.map(TurnId::from_uuid),
        }))
    }
}

/// In a turn it is the agent that was addressed, and those it was handed over to; outside of one nobody knows.
fn agents(row: &sqlx::postgres::PgRow) -> Result<Vec<String>, Error> {
    let default: Json<Value> = row.try_get("agent").or_domain()?;
    let all: Json<Vec<Value>> = row.try_get("agents").or_domain()?;
    let running: Option<Uuid> = row.try_get("turn_id").or_domain()?;
    let addressed: Option<String> = row.try_get("addressed").or_domain()?;
    let handovers: Option<Vec<String>> = row.try_get("handovers").or_domain()?;
    let handovers = handovers.unwrap_or_default().into_iter();
    let handed: Vec<String> = handovers
        .filter_map(|data| serde_json::from_str::<Value>(&data).ok()?.get("to")?.as_str().map(str::to_owned))
        .collect();
    Ok(who(default.0, all.0, running.is_some(), addressed.as_deref(), &handed))
}

/// `all` is empty where `default` is the only one.
fn who(
    default: Value,
    all: Vec<Value>,
    running: bool,
    addressed: Option<&str>,
    handed: &[String],
) -> Vec<String> {
    let word = |agent: &Value, key: &str| agent.get(key).and_then(Value::as_str).map(str::to_owned);
    let called = |agent: &Value| word(agent, "name").or_else(|| word(agent, "kind")).unwrap_or_default();
    let acts = |agent: &&Value| {
        let name = called(agent);
        let first = addressed.filter(|to| all.iter().any(|a| called(a) == *to));
        let first = first.map_or_else(|| called(&default), str::to_owned);
        !running || name == first || handed.contains(&name)
    };
    let acting: Vec<&Value> = all.iter().filter(acts).collect();
    let acting = if acting.is_empty() { vec![&default] } else { acting };
    let mut names: Vec<String> =
        acting.into_iter().flat_map(|agent| [word(agent, "kind"), word(agent, "name")]).flatten().collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests;
