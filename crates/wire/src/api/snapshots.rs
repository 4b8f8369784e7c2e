//! Snapshots: point-in-time copies of a session's files.

use serde::{Deserialize, Serialize};
use wharf_domain::{Labels, Name, SessionId, SnapshotId, Time};

use super::LabelsPatch;

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
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Where the session's log stood.
    pub seq: i64,
    /// Which runtime holds it, and so runs its forks.
    pub runtime: String,
    /// Bytes written beyond the image; null until it is taken.
    pub size_bytes: Option<u64>,
    /// How long a running session stood still; null until it is taken.
    pub stall_micros: Option<u64>,
    /// Labels to find it by.
    pub labels: Labels,
    /// When it was asked for.
    pub created_at: Time,
    /// When it was changed last.
    pub updated_at: Time,
    /// Grows with every change.
    pub resource_version: i64,
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

/// Changes to a snapshot, as JSON merge patch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchSnapshot {
    /// A new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
}
