//! The outbox: what happened in a space, in order, written by the transaction in which it happened.
//!
//! A sequence number alone would lie: two transactions may take 7 and 8 and commit as 8, 7, and a reader at 8
//! would never see 7. Readers therefore see only rows of transactions older than every running one, ordered by
//! (transaction, number); that pair is the cursor.

use serde_json::json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, SpaceId, Time};

use crate::audit::Entry;
use crate::caller::Caller;
use crate::error::OrDomain as _;
use crate::scope::Scope;
use crate::store::Store;

/// Something that happened, on its way into the outbox.
#[derive(Clone, Debug)]
pub struct Event {
    /// `created`, `updated`, `deleted`, or a word of the resource's own.
    pub kind: String,
    pub resource: Resource,
    pub id: Uuid,
    pub name: Option<String>,
    /// The row's `resource_version` after the change.
    pub version: i64,
    /// The row as its API shows it. Never a secret.
    pub data: serde_json::Value,
    /// By default the scope's space.
    pub space: Option<SpaceId>,
}

impl Event {
    pub fn new(
        kind: &str,
        resource: Resource,
        id: Uuid,
        name: Option<&str>,
        version: i64,
        data: serde_json::Value,
    ) -> Self {
        Self {
            kind: kind.to_owned(),
            resource,
            id,
            name: name.map(str::to_owned),
            version,
            data,
            space: None,
        }
    }

    #[must_use]
    pub fn in_space(mut self, space: SpaceId) -> Self {
        self.space = Some(space);
        self
    }
}

/// A place between two events: opaque to clients, `<txid>-<seq>` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    txid: i64,
    seq: i64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.txid, self.seq)
    }
}

impl std::str::FromStr for Position {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let parse = |t: &str| t.parse::<i64>().ok().filter(|n| *n >= 0);
        s.split_once('-').and_then(|(t, n)| Some(Self { txid: parse(t)?, seq: parse(n)? })).ok_or_else(|| {
            Error::new(Code::InvalidField, "that is not a position of this stream; start without one")
                .field("after")
        })
    }
}

/// An event as readers get it.
#[derive(Clone, Debug)]
pub struct EventRecord {
    pub position: Position,
    pub kind: String,
    pub resource: String,
    pub id: Uuid,
    pub name: Option<String>,
    pub version: i64,
    pub data: serde_json::Value,
    pub at: Time,
}

#[derive(Clone, Debug)]
pub struct EventPage {
    pub events: Vec<EventRecord>,
    /// Read on from here.
    pub next: Position,
    /// More can be read at once, or a transaction still running holds some back: look again in a moment, not at
    /// the next wake-up.
    pub more_soon: bool,
}

impl Store {
    /// Events of the scope's space after `from`, of `resource` only where given. Needs watch on what it shows:
    /// events of kinds the caller may not watch are left out.
    pub async fn space_events(
        &self,
        caller: &Caller,
        space: SpaceId,
        from: Position,
        resource: Option<Resource>,
        limit: u32,
    ) -> Result<EventPage, Error> {
        let kinds: Vec<&str> = Resource::ALL
            .iter()
            .filter(|r| resource.is_none_or(|only| only == **r))
            .filter(|r| caller.visible(Some(space), **r, Verb::Watch) != crate::caller::Visible::Nothing)
            .map(|r| r.as_str())
            .collect();
        let rows = sqlx::query(
            "select txid::text::bigint as txid, seq, kind, resource, resource_id, name, resource_version, data, created_at,
                    txid < pg_snapshot_xmin(pg_current_snapshot()) as settled,
                    $2::text::xid8 > '0' and ($2::text::xid8, $3) < (select f.txid, f.seq from events_floor f) as gap
             from events
             where space_id = $1 and (txid, seq) > ($2::text::xid8, $3) and resource = any($4)
             order by txid, seq limit $5",
        )
        .bind(space.uuid())
        .bind(from.txid.to_string())
        .bind(from.seq)
        .bind(&kinds)
        .bind(i64::from(limit) + 1)
        .fetch_all(self.pool())
        .await
        .or_domain()?;
        if rows.first().is_some_and(|r| r.get("gap")) {
            return Err(Error::new(
                Code::InvalidField,
                "events after that position have been removed by age; list again and watch from there",
            )
            .field("after"));
        }
        let mut page = EventPage { events: Vec::new(), next: from, more_soon: rows.len() > limit as usize };
        for row in rows.iter().take(limit as usize) {
            if !row.try_get::<bool, _>("settled").or_domain()? {
                page.more_soon = true;
                break;
            }
            let record = read(row).or_domain()?;
            page.next = record.position;
            let name = record.name.as_deref();
            let shown = record.resource.parse().is_ok_and(|r| caller.may(Some(space), r, Verb::Watch, name));
            if shown {
                page.events.push(record);
            }
        }
        Ok(page)
    }
}

impl Store {
    /// Removes events older than `before`, at most `batch`; answers how many.
    pub(crate) async fn forget_events(&self, before: Time, batch: i64) -> Result<u64, Error> {
        // Ages do not quite follow positions: the floor is the highest position removed, which may make a reader
        // list again that had missed nothing, and never the other way round.
        let gone = sqlx::query_scalar::<_, i64>(
            "with old as (
                delete from events where seq in (
                    select seq from events
                    where created_at < $1 and txid < pg_snapshot_xmin(pg_current_snapshot())
                    order by txid, seq limit $2)
                returning txid, seq
             ), last as (select txid, seq from old order by txid desc, seq desc limit 1),
             moved as (
                update events_floor f set txid = l.txid, seq = l.seq from last l where (l.txid, l.seq) > (f.txid, f.seq)
             )
             select count(*) from old",
        )
        .bind(before.to_utc())
        .bind(batch)
        .fetch_one(self.pool())
        .await
        .or_domain()?;
        Ok(gone as u64)
    }
}

impl Scope {
    /// Allows reading the space's events, or answers 403.
    pub async fn permit_events(&mut self) -> Result<(), Error> {
        self.listing(Resource::Events, Verb::Watch).await.map(drop)
    }

    /// Where a watcher that has just read this scope's lists begins: everything the scope can see is before it.
    pub async fn position(&mut self) -> Result<Position, Error> {
        let xmin: i64 = sqlx::query_scalar("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
            .fetch_one(self.tx()?)
            .await
            .or_domain()?;
        // Rows of transactions at or after xmin are read again: a watcher may see a change twice, never miss one.
        Ok(Position { txid: xmin - 1, seq: i64::MAX })
    }
}

fn read(row: &sqlx::postgres::PgRow) -> Result<EventRecord, sqlx::Error> {
    Ok(EventRecord {
        position: Position { txid: row.try_get("txid")?, seq: row.try_get("seq")? },
        kind: row.try_get("kind")?,
        resource: row.try_get("resource")?,
        id: row.try_get("resource_id")?,
        name: row.try_get("name")?,
        version: row.try_get("resource_version")?,
        data: row.try_get("data")?,
        at: row.try_get::<chrono::DateTime<chrono::Utc>, _>("created_at")?.into(),
    })
}

/// Audit entries and events of one commit, in one statement.
pub(crate) async fn write(
    conn: &mut PgConnection,
    audits: &[Entry],
    events: &[Event],
    now: Time,
) -> Result<(), Error> {
    let audits = serde_json::to_value(audits).map_err(Error::internal)?;
    let events: serde_json::Value = events
        .iter()
        .map(|e| {
            json!({
                "space_id": e.space.map(SpaceId::uuid), "kind": e.kind, "resource": e.resource.as_str(),
                "resource_id": e.id, "name": e.name, "resource_version": e.version, "data": e.data,
            })
        })
        .collect::<Vec<_>>()
        .into();
    sqlx::query(
        "with a as (
            insert into audit_entries (id, at, principal_kind, principal_id, principal_name, impersonator_id,
                impersonator_name, verb, resource, resource_id, resource_name, space_id, space_name, outcome,
                address, request_id, detail)
            select x.id, $3, x.principal_kind, x.principal_id, x.principal_name, x.impersonator_id,
                x.impersonator_name, x.verb, x.resource, x.resource_id, x.resource_name, x.space_id, x.space_name,
                x.outcome, x.address, x.request_id, x.detail
            from jsonb_to_recordset($1) as x(id uuid, principal_kind text, principal_id uuid, principal_name text,
                impersonator_id uuid, impersonator_name text, verb text, resource text, resource_id uuid,
                resource_name text, space_id uuid, space_name text, outcome text, address text, request_id uuid,
                detail jsonb)
         )
         insert into events (space_id, kind, resource, resource_id, name, resource_version, data, created_at)
         select x.space_id, x.kind, x.resource, x.resource_id, x.name, x.resource_version, x.data, $3
         from jsonb_to_recordset($2) as x(space_id uuid, kind text, resource text, resource_id uuid, name text,
            resource_version bigint, data jsonb)",
    )
    .bind(audits)
    .bind(events)
    .bind(now.to_utc())
    .execute(conn)
    .await
    .or_domain()?;
    Ok(())
}
