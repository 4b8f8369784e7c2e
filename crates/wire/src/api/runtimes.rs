//! Where sessions run, and what that can keep.

use serde::{Deserialize, Serialize};

/// Where sessions run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Runtime {
    /// `native` or `docker`: what sessions, images and snapshots show as their `runtime`.
    pub name: String,
    /// What it can keep; null while it does not say.
    pub promises: Option<Promises>,
    /// Why it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
}

/// What of a session is kept on this machine. What is not is refused when a session is asked for, unless it is waived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Promises {
    /// CPU is limited.
    pub cpu_limit: bool,
    /// Memory is limited, swap included.
    pub memory_limit: bool,
    /// Processes are limited.
    pub pids_limit: bool,
    /// What a session writes is limited.
    pub disk_limit: bool,
    /// Root in a session is nobody outside of it.
    pub root_is_nobody: bool,
    /// Of these, those that the settings do without: sessions are taken all the same.
    pub waived: Vec<String>,
}

/// Where sessions run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Runtimes {
    /// One each.
    pub items: Vec<Runtime>,
}
