//! Where a session's computer runs. Implemented by the native jail, and by Docker Engine and Kubernetes later.
//!
//! Every call is idempotent: the reconciler repeats what it cannot be sure of. A promise that cannot be kept is
//! [`Fault::Refused`] with the reason, never a warning.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::{JailId, Name, SessionId, SnapshotId, VolumeId};

/// What a runtime can and cannot promise on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub runtime: String,
    /// `v1`, `v2`, `hybrid`.
    pub cgroups: String,
    /// `btrfs` or `directory`.
    pub volumes: String,
    pub cpu_limit: bool,
    pub memory_limit: bool,
    pub pids_limit: bool,
    pub disk_limit: bool,
    /// The disk limit of a running computer can be changed.
    pub resizes_running: bool,
    /// Takes sessions although it cannot limit their disk, because the settings say so.
    pub waives_disk_limit: bool,
    /// Root inside a computer is nobody outside.
    pub root_is_nobody: bool,
    /// Takes sessions that may become root although root inside is root outside, because the settings say so.
    pub waives_user_namespaces: bool,
    /// Snapshots cost the same whatever the size.
    pub cheap_snapshots: bool,
    pub freeze: bool,
}

/// Where a volume's first content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Nothing beyond the image.
    Empty,
    Snapshot(SnapshotId),
    /// The volume was made before and must be there ([`Fault::Missing`]): a new empty one would hide that files were
    /// lost.
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

/// One computer to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailSpec {
    pub session: SessionId,
    /// Grows with every start of the session; the runtime refuses one older than it has seen (fencing).
    pub incarnation: u64,
    /// Made by `launch` when it does not exist yet (then `source` must be `Empty`; of one that was made before it is `Existing`), so that a create is one call.
    pub volume: VolumeSpec,
    pub resources: Resources,
    pub hostname: Name,
    /// False forbids becoming root inside: no_new_privs and no capabilities.
    pub allow_root: bool,
}

/// A computer that is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub jail: JailId,
    pub session: SessionId,
    pub incarnation: u64,
    pub volume: VolumeId,
    /// Unix socket on which this session's `wharf-host` serves HTTP.
    pub host_socket: PathBuf,
    /// Whether it came from the warm pool.
    pub warm: bool,
}

/// Figures of one computer, as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// What is on the machine beyond the running: for the reconciler's leftovers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    pub running: Vec<Running>,
    pub volumes: Vec<VolumeId>,
    pub snapshots: Vec<SnapshotId>,
    pub images: Vec<ImageInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    pub image: ImageRef,
    pub size_bytes: u64,
    pub created_ms: i64,
    /// Volumes (and snapshots) that stand on it.
    pub used_by: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    pub snapshot: SnapshotId,
    pub bytes: u64,
    /// How long a running session stood still.
    pub stall_micros: u64,
}

/// Why a runtime did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It will not work however often it is tried: a limit that cannot be applied, an image that is not there.
    #[error("{0}")]
    Refused(String),
    /// A newer incarnation or owner has been here.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The thing named is not there.
    #[error("no such {0}")]
    Missing(String),
    /// Still in use, so not deleted.
    #[error("in use: {0}")]
    InUse(String),
    /// The runtime itself is away; try again.
    #[error("the runtime is away: {0}")]
    Away(String),
    /// Anything else, with the step that failed.
    #[error("{step}: {cause}")]
    Failed { step: String, cause: String },
}

pub type Result<T> = std::result::Result<T, Fault>;

#[async_trait]
pub trait SandboxRuntime: Send + Sync + 'static {
    /// `native`, `docker`, `kubernetes`: shown with every session.
    fn name(&self) -> &'static str;

    async fn capabilities(&self) -> Result<Capabilities>;

    async fn inventory(&self) -> Result<Inventory>;

    /// Makes the volume if it does not exist; the same spec twice is one volume.
    async fn prepare_volume(&self, spec: &VolumeSpec) -> Result<()>;

    /// Starts the session's computer, from the warm pool where one fits. Already up with this incarnation: answers
    /// that one. Up with an older incarnation: that one is stopped first.
    async fn launch(&self, spec: &JailSpec) -> Result<Running>;

    async fn observe(&self, session: SessionId) -> Result<Option<Running>>;

    /// Ends the session's computer: SIGTERM to its init, then SIGKILL after `grace`. Nothing to end is success.
    async fn stop(&self, session: SessionId, grace: Duration) -> Result<()>;

    /// Changes the limits of a running computer and the disk limit of its volume.
    async fn set_limits(&self, session: SessionId, volume: VolumeId, resources: &Resources) -> Result<()>;

    async fn stats(&self, session: SessionId, volume: VolumeId) -> Result<Stats>;

    /// Point-in-time copy of a volume, running or not. The same snapshot id twice is one snapshot.
    async fn snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<SnapshotInfo>;

    async fn delete_snapshot(&self, snapshot: SnapshotId) -> Result<()>;

    /// Frees the volume. Refused while a computer runs on it.
    async fn delete_volume(&self, volume: VolumeId) -> Result<()>;

    /// How many computers of this image stand ready. A runtime that has no pool refuses any but none.
    async fn keep_warm(&self, image: &Name, count: u32) -> Result<()>;

    /// Takes a root filesystem from a tar archive readable by this process.
    async fn import_image(&self, name: &Name, archive: std::fs::File) -> Result<ImageInfo>;

    async fn delete_image(&self, image: &ImageRef) -> Result<()>;
}
