//! The egress log: one row for each tunnel or request, written in batches by the gateway, read by users.
//!
//! A batch is one transaction: rows, the day's sums, and audit entries for what was denied and for secrets that were used.
//! What is still open has a row too, with the reason [`OPEN`], and is written again until its end; the sums take what came
//! since the last time, which the row itself remembers.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::json;
use sqlx::Row as _;
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{EgressId, Error, Name, SessionId, SpaceId, Time, TurnId, limits};
use wharf_ports::Topic;

use crate::audit::{Entry, Outcome};
use crate::error::OrDomain as _;
use crate::page::{Page, PageRequest};
use crate::permit::Permit;
use crate::scope::Scope;
use crate::sessions::SessionRow;
use crate::spaces::time;
use crate::system::System;

/// Audit entries of one batch: a session that knocks at a thousand doors is one fact, not a thousand.
const AUDITED: usize = 100;

/// The reason of a line whose tunnel or request goes on.
pub const OPEN: &str = "open";

/// What came to the gateway and what became of it. Field names are columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EgressEntry {
    pub id: EgressId,
    pub space_id: SpaceId,
    pub session_id: SessionId,
    pub turn_id: Option<TurnId>,
    /// `tunnel`, `request` or `model`.
    pub kind: &'static str,
    pub host: String,
    pub port: u16,
    pub method: Option<String>,
    pub status: Option<u16>,
    /// `allowed`, `denied` or `failed`.
    pub decision: &'static str,
    /// Why it was not allowed, or how it ended; a word.
    pub reason: Option<String>,
    /// The connection whose credential was added.
    pub connection: Option<Name>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Milliseconds since 1970.
    pub started_ms: i64,
    pub duration_ms: u64,
    /// Not kept: the audit log speaks of names.
    #[serde(skip)]
    pub session_name: Name,
    #[serde(skip)]
    pub space_name: Name,
}

/// A row as it was read.
#[derive(Clone, Debug)]
pub struct EgressRow {
    pub id: EgressId,
    pub turn: Option<TurnId>,
    pub kind: String,
    pub host: String,
    pub port: u16,
    pub method: Option<String>,
    pub status: Option<u16>,
    pub decision: String,
    pub reason: Option<String>,
    pub connection: Option<String>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub started_at: Time,
    pub duration_ms: u64,
}

#[derive(Clone, Debug, Default)]
pub struct EgressFilter {
    pub decision: Option<String>,
    pub host: Option<String>,
    /// Oldest first.
    pub ascending: bool,
}

macro_rules! select {
    ($compare:literal, $order:literal) => {
        concat!(
            "select id, turn_id, kind, host, port, method, status, decision, reason, connection, bytes_sent, bytes_received,
                    started_at, duration_ms
             from egress_log
             where session_id = $1 and ($2::uuid is null or id ",
            $compare,
            " $2) and ($3::text is null or decision = $3) and ($4::text is null or host = $4)
             order by id ",
            $order,
            " limit $5"
        )
    };
}

impl Scope {
    /// What left a session, newest first unless asked otherwise. The permit is one of `permit_egress`.
    pub async fn egress(
        &mut self,
        permit: &Permit<SessionRow>,
        filter: &EgressFilter,
        page: &PageRequest,
    ) -> Result<Page<EgressRow>, Error> {
        permit.demand(Verb::List)?;
        let after = Some(page.after()).filter(|id| !id.is_nil());
        let sql = if filter.ascending { select!(">", "asc") } else { select!("<", "desc") };
        let rows = sqlx::query(sql)
            .bind(permit.id.uuid())
            .bind(after)
            .bind(&filter.decision)
            .bind(&filter.host)
            .bind(page.fetch())
            .fetch_all(self.tx()?)
            .await
            .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(page.page(rows, |r| r.id.uuid()))
    }
}

fn read(row: &sqlx::postgres::PgRow) -> Result<EgressRow, Error> {
    let count = |column: &str| row.try_get::<i64, _>(column).map(|n| n.max(0) as u64).or_domain();
    Ok(EgressRow {
        id: EgressId::from_uuid(row.try_get("id").or_domain()?),
        turn: row.try_get::<Option<Uuid>, _>("turn_id").or_domain()?.map(TurnId::from_uuid),
        kind: row.try_get("kind").or_domain()?,
        host: row.try_get("host").or_domain()?,
        port: row.try_get::<i32, _>("port").or_domain()? as u16,
        method: row.try_get("method").or_domain()?,
        status: row.try_get::<Option<i32>, _>("status").or_domain()?.map(|s| s as u16),
        decision: row.try_get("decision").or_domain()?,
        reason: row.try_get("reason").or_domain()?,
        connection: row.try_get("connection").or_domain()?,
        bytes_sent: count("bytes_sent")?,
        bytes_received: count("bytes_received")?,
        started_at: time(row, "started_at")?,
        duration_ms: count("duration_ms")?,
    })
}

impl System {
    /// Writes a batch, once: a batch that is given again after an answer was lost changes nothing, and nothing changes a line
    /// that has ended. A line stands in a batch once.
    pub async fn write_egress(&self, entries: &[EgressEntry]) -> Result<(), Error> {
        debug_assert!(entries.len() <= limits::PAGE_MAX as usize * 4);
        let mut tx = self.store.begin().await?;
        let rows = serde_json::to_value(entries).map_err(Error::internal)?;
        let ended: Vec<Uuid> = sqlx::query_scalar(
            "with x as (
                select * from jsonb_to_recordset($1) as x(id uuid, space_id uuid, session_id uuid, turn_id uuid, kind text,
                    host text, port integer, method text, status integer, decision text, reason text, connection text,
                    bytes_sent bigint, bytes_received bigint, started_ms bigint, duration_ms bigint)
             ), old as (
                select e.id, e.bytes_sent, e.bytes_received from egress_log e join x on x.id = e.id
             ), l as (
                insert into egress_log (id, space_id, session_id, turn_id, kind, host, port, method, status, decision,
                    reason, connection, bytes_sent, bytes_received, started_at, duration_ms)
                select id, space_id, session_id, turn_id, kind, host, port, method, status, decision, reason, connection,
                    bytes_sent, bytes_received, to_timestamp(started_ms / 1000.0), duration_ms from x
                on conflict (id) do update
                set status = excluded.status, decision = excluded.decision, reason = excluded.reason,
                    connection = excluded.connection, bytes_sent = excluded.bytes_sent,
                    bytes_received = excluded.bytes_received, duration_ms = excluded.duration_ms
                where egress_log.reason = $2
                returning id, space_id, session_id, bytes_sent, bytes_received, reason,
                    ((started_at + duration_ms * interval '1 millisecond') at time zone 'utc')::date as day
             ), u as (
                insert into egress_usage (space_id, session_id, day, requests, bytes_sent, bytes_received)
                select l.space_id, l.session_id, l.day, count(*) filter (where old.id is null),
                    sum(l.bytes_sent - coalesce(old.bytes_sent, 0)), sum(l.bytes_received - coalesce(old.bytes_received, 0))
                from l join spaces p on p.id = l.space_id left join old on old.id = l.id
                group by 1, 2, 3 order by 1, 3, 2
                on conflict (space_id, day, session_id) do update
                set requests = egress_usage.requests + excluded.requests,
                    bytes_sent = egress_usage.bytes_sent + excluded.bytes_sent,
                    bytes_received = egress_usage.bytes_received + excluded.bytes_received
             ) select coalesce(array_agg(id) filter (where reason is distinct from $2), '{}') from l",
        )
        .bind(rows)
        .bind(OPEN)
        .fetch_one(&mut *tx)
        .await
        .or_domain()?;
        let ended: HashSet<Uuid> = ended.into_iter().collect();
        let audits = self.audits(entries.iter().filter(|e| ended.contains(&e.id.uuid())));
        if !audits.is_empty() {
            crate::events::write(&mut tx, &audits, &[], self.store.now()).await?;
        }
        tx.commit().await.or_domain()?;
        if !audits.is_empty() {
            self.store.wake(Topic::Audit);
        }
        Ok(())
    }

    /// Denials, and secrets that were used: equal ones of a batch are one entry with their number.
    fn audits<'e>(&self, entries: impl Iterator<Item = &'e EgressEntry>) -> Vec<Entry> {
        let mut counted: BTreeMap<_, (u64, &EgressEntry)> = BTreeMap::new();
        for e in entries.filter(|e| e.decision == "denied" || e.connection.is_some()) {
            let key =
                (e.session_id, e.host.as_str(), e.port, e.decision, e.connection.as_ref().map(Name::as_str));
            counted.entry(key).or_insert((0, e)).0 += 1;
        }
        let left_out = counted.len().saturating_sub(AUDITED);
        let mut all: Vec<Entry> =
            counted.into_values().take(AUDITED).map(|(n, e)| self.audit(n, e)).collect();
        if left_out > 0
            && let Some(last) = all.last_mut()
        {
            last.note("left_out", left_out.into());
        }
        all
    }

    fn audit(&self, count: u64, e: &EgressEntry) -> Entry {
        let space = Some((e.space_id, e.space_name.as_str()));
        let mut detail = json!({
            "session": e.session_name, "host": e.host, "port": e.port, "count": count, "reason": e.reason,
        });
        let outcome = match e.decision {
            "allowed" => Outcome::Allowed,
            "denied" => Outcome::Denied,
            _ => Outcome::Failed,
        };
        match &e.connection {
            Some(connection) => {
                detail["method"] = json!(e.method);
                let resource = Resource::Connections.as_str();
                Entry::of(
                    &self.caller,
                    space,
                    "use",
                    resource,
                    None,
                    Some(connection.as_str()),
                    outcome,
                    detail,
                )
            }
            None => {
                let (resource, id) = (Resource::Egress.as_str(), Some(e.session_id.uuid()));
                let name = Some(e.session_name.as_str());
                Entry::of(&self.caller, space, "create", resource, id, name, outcome, detail)
            }
        }
    }

    /// Removes what is older than the time given, in one bounded statement; answers how many.
    pub async fn forget_egress(&self, before: Time, batch: i64) -> Result<u64, Error> {
        let done = sqlx::query(
            "delete from egress_log where id in (
                select id from egress_log
                where started_at < $1
                  and (reason is distinct from $3 or started_at + duration_ms * interval '1 millisecond' < $1)
                limit $2)",
        )
        .bind(before.to_utc())
        .bind(batch)
        .bind(OPEN)
        .execute(self.store.pool())
        .await
        .or_domain()?;
        Ok(done.rows_affected())
    }
}
