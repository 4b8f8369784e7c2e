//! Rows of this module as the rest of Wharf sees them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::image::ImageRef;
use wharf_domain::plan::held_until;
use wharf_domain::quota::Resources;
use wharf_domain::rbac::Resource;
use wharf_domain::session::{Desired, State, TurnState};
use wharf_domain::{ImageId, JailId, Labels, Name, SessionId, SnapshotId, SpaceId, Time, TurnId, VolumeId};

use crate::scope::Row;

/// Environment variables of a session. Their values are never shown by `Debug`: people put keys there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env(pub BTreeMap<String, String>);

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A session as it was read.
#[derive(Clone, Debug)]
pub struct SessionRow {
    pub id: SessionId,
    pub space: SpaceId,
    pub name: Name,
    pub state: State,
    pub state_reason: Option<String>,
    pub desired: Desired,
    /// A close was asked for and is not done, whatever is wanted by now: its computer is about to end.
    pub closing: bool,
    pub resource_version: i64,
    pub image: ImageRef,
    pub runtime: String,
    pub volume: VolumeId,
    pub volume_made: bool,
    /// Its computer, while one is recorded. Whether it may be used is for [`SessionRow::endpoint`] to say.
    pub computer: Option<Computer>,
    /// Of the last start.
    pub incarnation: u64,
    pub started_at: Option<Time>,
    pub suspect: bool,
    pub resources: Resources,
    /// What answers its messages, as the API speaks of it.
    pub agent: Value,
    /// All of them where there are several, the default one first; else empty.
    pub agents: Vec<Value>,
    pub env: Env,
    pub network: Value,
    pub instructions: Option<String>,
    pub setup: Option<String>,
    pub setup_done: bool,
    pub allow_root: bool,
    /// 0 means never.
    pub idle_timeout_seconds: u32,
    pub turn_timeout_seconds: u32,
    pub last_used_at: Time,
    pub in_use_until: Option<Time>,
    pub hold_until: Option<Time>,
    pub labels: Labels,
    pub metadata: Map<String, Value>,
    pub parent: Option<Parent>,
    /// The last number given out in its log.
    pub last_seq: i64,
    /// What its model requests used, as JSON; none before the first.
    pub model_usage: Option<Value>,
    pub failures: u32,
    pub retry_at: Option<Time>,
    pub created_at: Time,
    pub updated_at: Time,
    pub deleted_at: Option<Time>,
}

/// A computer that is up, and where its host listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Computer {
    pub jail: JailId,
    pub incarnation: u64,
    pub host_socket: PathBuf,
    /// Whether it came from the warm pool.
    pub warm: bool,
}

/// Where a session came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub session: SessionId,
    /// None when it was forked without files.
    pub snapshot: Option<SnapshotId>,
    /// The last number of the parent's log at that moment.
    pub seq: i64,
}

impl SessionRow {
    /// Its computer, when it may be used: the session runs and shall run, or is closed and held for its files.
    pub fn endpoint(&self, now: Time) -> Option<&Computer> {
        let usable = match (self.state, self.desired) {
            (State::Idle | State::Busy, Desired::Running) => !self.closing,
            (State::Closed, Desired::Closed) => {
                held_until(self.hold_until, self.in_use_until).is_some_and(|t| t > now)
            }
            _ => false,
        };
        self.computer.as_ref().filter(|_| usable && !self.suspect)
    }

    /// Whether it runs and its computer may be used by everything.
    pub fn ready(&self) -> bool {
        matches!(self.state, State::Idle | State::Busy)
            && self.desired == Desired::Running
            && !self.closing
            && self.computer.is_some()
    }
}

impl Row for SessionRow {
    const KIND: &'static str = "session";
    const RESOURCE: Resource = Resource::Sessions;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

/// A message with the state of its turn.
#[derive(Clone, Debug)]
pub struct MessageRow {
    pub session: SessionId,
    pub seq: i64,
    pub role: Role,
    /// Of an agent: which one speaks. Of a user: which one is addressed.
    pub agent: Option<String>,
    /// List of blocks.
    pub content: Value,
    /// The turn it started (of a user) or belongs to (of an agent).
    pub turn: TurnId,
    pub state: TurnState,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub usage: Option<Value>,
    pub author: Option<String>,
    pub created_at: Time,
    pub started_at: Option<Time>,
    pub ended_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    User,
    Agent,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Agent => "agent",
        }
    }
}

/// One entry of a session's log.
#[derive(Clone, Debug)]
pub struct LogRow {
    pub seq: i64,
    /// `session.state`, `message.created`, `turn.started`, `turn.output`, …
    pub kind: String,
    pub turn: Option<TurnId>,
    /// Of `message.created`: `{role, agent, content}`.
    pub data: Value,
    pub at: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// Asked for, not taken yet.
    Pending,
    Ready,
    Failed,
}

/// A point-in-time copy of a session's volume.
#[derive(Clone, Debug)]
pub struct SnapshotRow {
    pub id: SnapshotId,
    pub space: SpaceId,
    pub session: SessionId,
    pub name: Name,
    pub state: SnapshotState,
    pub state_reason: Option<String>,
    pub image: ImageRef,
    /// Which runtime holds it.
    pub runtime: String,
    pub disk_mib: u32,
    /// The last number of the session's log when it was asked for.
    pub seq: i64,
    pub bytes: Option<u64>,
    pub stall_micros: Option<u64>,
    pub labels: Labels,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Row for SnapshotRow {
    const KIND: &'static str = "snapshot";
    const RESOURCE: Resource = Resource::Snapshots;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

/// One version of an image that a runtime holds.
#[derive(Clone, Debug)]
pub struct ImageRow {
    pub id: ImageId,
    pub image: ImageRef,
    pub runtime: String,
    pub size_bytes: u64,
    pub created_at: Time,
}

impl Row for ImageRow {
    const KIND: &'static str = "image";
    const RESOURCE: Resource = Resource::Images;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.image.name.as_str())
    }
}

/// Columns of [`SessionRow`] of a table or alias `s`.
macro_rules! session_columns {
    () => {
        "s.id, s.space_id, s.name, s.state, s.state_reason, s.desired, s.closing, s.resource_version, s.image_name, s.image_digest, \
         s.runtime, s.volume_id, s.volume_made, s.jail_id, s.host_socket, s.warm, s.incarnation, s.started_at, \
         s.suspect, s.cpu_millis, s.memory_mib, s.disk_mib, s.pids, s.agent, s.agents, s.env, s.network, s.instructions, \
         s.setup, s.setup_done, s.allow_root, s.idle_timeout_seconds, s.turn_timeout_seconds, s.last_used_at, \
         s.in_use_until, s.hold_until, s.labels, s.metadata, s.parent_session, s.parent_snapshot, s.parent_seq, \
         s.last_seq, s.model_usage, s.failures, s.retry_at, s.created_at, s.updated_at, s.deleted_at"
    };
}

/// Columns of [`MessageRow`] of `messages m` joined with `turns t`.
macro_rules! message_columns {
    () => {
        "m.session_id, m.seq, m.role, m.agent, m.content, m.turn_id, t.state, t.reason, t.detail, t.usage, \
         m.author, m.created_at, t.started_at, t.ended_at"
    };
}

macro_rules! snapshot_columns {
    () => {
        "p.id, p.space_id, p.session_id, p.name, p.state, p.state_reason, p.image_name, p.image_digest, p.runtime, \
         p.disk_mib, p.message_seq, p.bytes, p.stall_micros, p.labels, p.resource_version, p.created_at, p.updated_at"
    };
}

pub(crate) use {message_columns, session_columns, snapshot_columns};

type Read<T> = Result<T, sqlx::Error>;

fn decode<T, E: std::error::Error + Send + Sync + 'static>(r: Result<T, E>) -> Read<T> {
    r.map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

fn word<T: std::str::FromStr<Err = wharf_domain::Error>>(row: &PgRow, column: &str) -> Read<T> {
    decode(row.try_get::<&str, _>(column)?.parse())
}

pub(super) fn time(row: &PgRow, column: &str) -> Read<Time> {
    Ok(row.try_get::<DateTime<Utc>, _>(column)?.into())
}

pub(crate) fn maybe_time(row: &PgRow, column: &str) -> Read<Option<Time>> {
    Ok(row.try_get::<Option<DateTime<Utc>>, _>(column)?.map(Time::from))
}

fn small(row: &PgRow, column: &str) -> Read<u32> {
    Ok(row.try_get::<i32, _>(column)?.max(0) as u32)
}

fn image(row: &PgRow) -> Read<ImageRef> {
    Ok(ImageRef { name: word(row, "image_name")?, digest: row.try_get("image_digest")? })
}

fn json<T: serde::de::DeserializeOwned>(row: &PgRow, column: &str) -> Read<T> {
    Ok(row.try_get::<sqlx::types::Json<T>, _>(column)?.0)
}

pub(super) fn session(row: &PgRow) -> Read<SessionRow> {
    let incarnation = row.try_get::<i64, _>("incarnation")?.max(0) as u64;
    let computer = match (
        row.try_get::<Option<Uuid>, _>("jail_id")?,
        row.try_get::<Option<String>, _>("host_socket")?,
    ) {
        (Some(jail), Some(socket)) => Some(Computer {
            jail: JailId::from_uuid(jail),
            incarnation,
            host_socket: PathBuf::from(socket),
            warm: row.try_get("warm")?,
        }),
        _ => None,
    };
    let parent = match row.try_get::<Option<Uuid>, _>("parent_session")? {
        Some(p) => Some(Parent {
            session: SessionId::from_uuid(p),
            snapshot: row.try_get::<Option<Uuid>, _>("parent_snapshot")?.map(SnapshotId::from_uuid),
            seq: row.try_get::<Option<i64>, _>("parent_seq")?.unwrap_or_default(),
        }),
        None => None,
    };
    Ok(SessionRow {
        id: SessionId::from_uuid(row.try_get("id")?),
        space: SpaceId::from_uuid(row.try_get("space_id")?),
        name: word(row, "name")?,
        state: word(row, "state")?,
        state_reason: row.try_get("state_reason")?,
        desired: word(row, "desired")?,
        closing: row.try_get("closing")?,
        resource_version: row.try_get("resource_version")?,
        image: image(row)?,
        runtime: row.try_get("runtime")?,
        volume: VolumeId::from_uuid(row.try_get("volume_id")?),
        volume_made: row.try_get("volume_made")?,
        computer,
        incarnation,
        started_at: maybe_time(row, "started_at")?,
        suspect: row.try_get("suspect")?,
        resources: Resources {
            cpu_millis: small(row, "cpu_millis")?,
            memory_mib: small(row, "memory_mib")?,
            disk_mib: small(row, "disk_mib")?,
            pids: small(row, "pids")?,
        },
        agent: row.try_get("agent")?,
        agents: json(row, "agents")?,
        env: Env(json(row, "env")?),
        network: row.try_get("network")?,
        instructions: row.try_get("instructions")?,
        setup: row.try_get("setup")?,
        setup_done: row.try_get("setup_done")?,
        allow_root: row.try_get("allow_root")?,
        idle_timeout_seconds: small(row, "idle_timeout_seconds")?,
        turn_timeout_seconds: small(row, "turn_timeout_seconds")?,
        last_used_at: time(row, "last_used_at")?,
        in_use_until: maybe_time(row, "in_use_until")?,
        hold_until: maybe_time(row, "hold_until")?,
        labels: json(row, "labels")?,
        metadata: json(row, "metadata")?,
        parent,
        last_seq: row.try_get("last_seq")?,
        model_usage: row.try_get("model_usage")?,
        failures: small(row, "failures")?,
        retry_at: maybe_time(row, "retry_at")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        deleted_at: maybe_time(row, "deleted_at")?,
    })
}

pub(super) fn message(row: &PgRow) -> Read<MessageRow> {
    Ok(MessageRow {
        session: SessionId::from_uuid(row.try_get("session_id")?),
        seq: row.try_get("seq")?,
        role: if row.try_get::<&str, _>("role")? == "user" { Role::User } else { Role::Agent },
        agent: row.try_get("agent")?,
        content: row.try_get("content")?,
        turn: TurnId::from_uuid(row.try_get("turn_id")?),
        state: word(row, "state")?,
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        usage: row.try_get("usage")?,
        author: row.try_get("author")?,
        created_at: time(row, "created_at")?,
        started_at: maybe_time(row, "started_at")?,
        ended_at: maybe_time(row, "ended_at")?,
    })
}

pub(super) fn log(row: &PgRow) -> Read<LogRow> {
    Ok(LogRow {
        seq: row.try_get("seq")?,
        kind: row.try_get("kind")?,
        turn: row.try_get::<Option<Uuid>, _>("turn_id")?.map(TurnId::from_uuid),
        data: row.try_get("data")?,
        at: time(row, "created_at")?,
    })
}

pub(super) fn snapshot(row: &PgRow) -> Read<SnapshotRow> {
    Ok(SnapshotRow {
        id: SnapshotId::from_uuid(row.try_get("id")?),
        space: SpaceId::from_uuid(row.try_get("space_id")?),
        session: SessionId::from_uuid(row.try_get("session_id")?),
        name: word(row, "name")?,
        state: match row.try_get("state")? {
            "pending" => SnapshotState::Pending,
            "ready" => SnapshotState::Ready,
            _ => SnapshotState::Failed,
        },
        state_reason: row.try_get("state_reason")?,
        image: image(row)?,
        runtime: row.try_get("runtime")?,
        disk_mib: small(row, "disk_mib")?,
        seq: row.try_get("message_seq")?,
        bytes: row.try_get::<Option<i64>, _>("bytes")?.map(|b| b.max(0) as u64),
        stall_micros: row.try_get::<Option<i64>, _>("stall_micros")?.map(|b| b.max(0) as u64),
        labels: json(row, "labels")?,
        resource_version: row.try_get("resource_version")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}

pub(super) fn image_row(row: &PgRow) -> Read<ImageRow> {
    Ok(ImageRow {
        id: ImageId::from_uuid(row.try_get("id")?),
        image: ImageRef { name: word(row, "name")?, digest: row.try_get("digest")? },
        runtime: row.try_get("runtime")?,
        size_bytes: row.try_get::<i64, _>("size_bytes")?.max(0) as u64,
        created_at: time(row, "created_at")?,
    })
}
