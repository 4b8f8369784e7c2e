//! Snapshots: point-in-time copies of a session's files.

use serde::{Deserialize, Serialize};
use wharf_domain::{Labels, Name, SessionId, SnapshotId, Time};

/// Where a snapshot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotState {
    /// Being taken.
    Pending,
    /// Taken; sessions can be forked from it.
    Ready,
    /// It could not be taken.
    Failed,
}

/// A point-in-time copy of a session's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Snapshot {
    /// The snapshot's id.
    pub id: SnapshotId,
    /// The snapshot's name, unique for its session.
    pub name: Name,
    /// The session it is of.
    pub session: SessionId,
    /// Where it stands.
    pub state: SnapshotState,
    /// The last message of the session when it was taken.
    pub message: Option<i64>,
    /// Bytes written beyond the image when it was taken.
    pub size_bytes: u64,
    /// How long a running session stood still.
    pub stall_micros: u64,
    /// Labels to find it by.
    pub labels: Labels,
    /// When it was taken.
    pub created_at: Time,
}

/// A snapshot to be taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// The snapshot's name; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}
