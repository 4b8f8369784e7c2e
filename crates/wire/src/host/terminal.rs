//! Terminals: a pty with a scrollback that any number of viewers attach to, leave and find again.

use serde::{Deserialize, Serialize};

use super::Env;
use super::exec::Exit;

/// The protocol token of `GET /terminals/{id}` with `Connection: upgrade`; then both sides speak `frame`s.
pub const TERMINAL_PROTOCOL: &str = "wharf-terminal";

/// `POST /terminals`. At most one of `argv` and `command`; the user's login shell without either.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalRequest {
    pub cols: u16,
    pub rows: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    pub env: Env,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalInfo {
    pub id: u64,
    pub pid: i32,
    pub cols: u16,
    pub rows: u16,
    pub argv: Vec<String>,
    pub user: String,
    pub running: bool,
    #[serde(flatten)]
    pub exit: Exit,
    pub viewers: u32,
    pub output_bytes: u64,
    pub started_at_ms: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Terminals {
    pub terminals: Vec<TerminalInfo>,
}
