//! The jailer's protocol: a closed set of requests over a unix stream socket.
//!
//! A frame is a big-endian `u32` length and that many bytes of JSON. One request is answered before the next one is
//! read on a connection. Decoding is pure: bytes in, a request or a precise refusal out; nothing here does I/O.
//! Refuses unknown requests, unknown fields, frames over the bound and anything after the JSON value.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::{JailId, Name, SessionId, SnapshotId, VolumeId};

/// Raised when a frame changes meaning; the two sides refuse each other otherwise.
pub const PROTOCOL: u32 = 3;
/// The largest request: the biggest one names a launch, well under a kilobyte.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The largest reply: an inventory of some hundred thousand volumes.
pub const MAX_REPLY: usize = 16 * 1024 * 1024;
/// Bytes of the length before each frame.
pub const HEADER: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// First on every connection: what the runtime can promise here.
    Hello {
        protocol: u32,
    },
    Inventory {},
    PrepareVolume {
        spec: VolumeSpec,
    },
    Launch {
        spec: JailSpec,
    },
    Observe {
        session: SessionId,
    },
    Stop {
        session: SessionId,
        grace_ms: u64,
    },
    SetLimits {
        session: SessionId,
        volume: VolumeId,
        resources: Resources,
    },
    Stats {
        session: SessionId,
        volume: VolumeId,
    },
    Snapshot {
        volume: VolumeId,
        snapshot: SnapshotId,
    },
    DeleteSnapshot {
        snapshot: SnapshotId,
    },
    DeleteVolume {
        volume: VolumeId,
    },
    KeepWarm {
        image: Name,
        count: u32,
    },
    /// Carries the archive as its one file descriptor.
    ImportImage {
        name: Name,
    },
    DeleteImage {
        image: ImageRef,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    Capabilities(Capabilities),
    Inventory(Inventory),
    Running(Running),
    /// Nothing is up for that session.
    NotRunning {},
    Stats(Stats),
    Snapshot(SnapshotInfo),
    Image(ImageInfo),
    Done {},
    Fault(Fault),
}

/// Why a request was not done; the runtime port's faults as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    Refused(String),
    Fenced(String),
    Missing(String),
    InUse(String),
    Away(String),
    Failed {
        step: String,
        cause: String,
    },
    /// The frame was not understood; the connection is closed after this.
    Malformed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    pub protocol: u32,
    pub cgroups: String,
    pub volumes: String,
    pub cpu_limit: bool,
    pub memory_limit: bool,
    pub pids_limit: bool,
    pub disk_limit: bool,
    pub resizes_running: bool,
    pub waives_disk_limit: bool,
    pub root_is_nobody: bool,
    pub waives_user_namespaces: bool,
    pub cheap_snapshots: bool,
    pub freeze: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Empty,
    Snapshot(SnapshotId),
    /// The volume must be there.
    Existing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    pub volume: VolumeId,
    pub image: ImageRef,
    pub disk_mib: u32,
    pub source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailSpec {
    pub session: SessionId,
    pub incarnation: u64,
    pub volume: VolumeSpec,
    pub resources: Resources,
    pub hostname: Name,
    pub allow_root: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Running {
    pub jail: JailId,
    pub session: SessionId,
    pub incarnation: u64,
    pub volume: VolumeId,
    pub host_socket: String,
    pub warm: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    pub cpu_usage_micros: u64,
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    pub memory_limit_bytes: u64,
    pub oom_kills: u64,
    pub pids: u64,
    pub disk_bytes: u64,
    pub disk_limit_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    pub running: Vec<Running>,
    pub volumes: Vec<VolumeId>,
    pub snapshots: Vec<SnapshotId>,
    pub images: Vec<ImageInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInfo {
    pub image: ImageRef,
    pub size_bytes: u64,
    pub created_ms: i64,
    pub used_by: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotInfo {
    pub snapshot: SnapshotId,
    pub bytes: u64,
    pub stall_micros: u64,
}

/// Why bytes are not a frame of this protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    TooLong { length: usize, limit: usize },
    Json(String),
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong { length, limit } => write!(f, "a frame of {length} bytes; the limit is {limit}"),
            Self::Json(why) => write!(f, "not a known message: {why}"),
        }
    }
}

impl std::error::Error for Malformed {}

/// One frame from the front of `bytes` and how many of them it took; `None` when more bytes are needed. A length
/// over `limit` is refused as soon as the header is there, so a buffer never grows past `HEADER + limit`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<Option<(T, usize)>, Malformed> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if length > limit {
        return Err(Malformed::TooLong { length, limit });
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let message = serde_json::from_slice(body).map_err(|e| Malformed::Json(e.to_string()))?;
    Ok(Some((message, HEADER + length)))
}

/// The frame of a message; refused when it would be over `limit`, since the other side would hang up on it.
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, Malformed> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message).map_err(|e| Malformed::Json(e.to_string()))?;
    let length = frame.len() - HEADER;
    if length > limit {
        return Err(Malformed::TooLong { length, limit });
    }
    frame[..HEADER].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame)
}

#[cfg(test)]
mod tests;
