//! Commands, processes and terminals in a session.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wharf_domain::Time;

use super::Encoding;

/// A command to run: exactly one of `argv` and `command`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments, run without a shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 4096)]
    pub argv: Option<Vec<String>>,
    /// A line for the shell (`/bin/sh -c`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 131_071)]
    pub command: Option<String>,
    /// The directory to run in; the user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4095)]
    pub cwd: Option<String>,
    /// Variables beside the session's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What the command reads; nothing when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// How `stdin` is written.
    #[serde(default)]
    pub stdin_encoding: Encoding,
    /// Seconds until the command's process group is killed. 600 when absent; a background process has no limit then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub timeout_seconds: Option<u32>,
    /// `agent` (when absent) or `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 32)]
    pub user: Option<String>,
    /// Answers at once with the process, which goes on running.
    #[serde(default)]
    pub background: bool,
    /// Of a background process: leaves stdin open for `POST …/stdin`.
    #[serde(default)]
    pub stdin_open: bool,
}

/// What a command answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExecResult {
    /// Its exit code; null when a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether its time ran out.
    pub timed_out: bool,
    /// What it wrote to stdout; at most the last 4 MiB.
    pub stdout: String,
    /// How `stdout` is written: base64 when it is not UTF-8.
    pub stdout_encoding: Encoding,
    /// Whether the beginning of stdout is missing.
    pub stdout_truncated: bool,
    /// What it wrote to stderr; at most the last 4 MiB.
    pub stderr: String,
    /// How `stderr` is written: base64 when it is not UTF-8.
    pub stderr_encoding: Encoding,
    /// Whether the beginning of stderr is missing.
    pub stderr_truncated: bool,
    /// How long it ran.
    pub duration_ms: u64,
}

/// One step of a streamed exec or of a process's output. Over SSE `event:` is `type`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecEvent {
    /// The command runs.
    Started {
        /// Its process id inside.
        pid: i32,
    },
    /// It wrote something.
    Output {
        /// Which stream.
        stream: OutputStream,
        /// Where the chunk begins in that stream.
        offset: u64,
        /// The chunk.
        data: String,
        /// How `data` is written.
        encoding: Encoding,
    },
    /// Output between these offsets was dropped before it could be read.
    Gap {
        /// Which stream.
        stream: OutputStream,
        /// The first byte that is missing.
        from: u64,
        /// The first byte that is not.
        to: u64,
    },
    /// It ended.
    Exit {
        /// Its exit code; null when a signal ended it.
        exit_code: Option<i32>,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// Whether its time ran out.
        timed_out: bool,
        /// How long it ran.
        duration_ms: u64,
    },
    /// The stream broke; the problem says why.
    Error {
        /// What went wrong.
        problem: Box<super::Problem>,
    },
}

/// The output streams of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    #[default]
    Stdout,
    Stderr,
    /// Both in the order they were written.
    Output,
}

/// Whether a process still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    Running,
    Exited,
}

/// A process left running by `exec` with `background`. It ends with the session's computer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Process {
    /// Its number in the session; counts anew when the session's computer starts anew.
    pub id: u64,
    /// Its process id inside.
    pub pid: i32,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The directory it was started in.
    pub cwd: String,
    /// Who it runs as.
    pub user: String,
    /// Whether it still runs.
    pub state: ProcessState,
    /// Its exit code, once it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether its time ran out.
    pub timed_out: bool,
    /// Whether its stdin takes more.
    pub stdin_open: bool,
    /// Bytes it wrote to stdout so far.
    pub stdout_bytes: u64,
    /// Bytes it wrote to stderr so far.
    pub stderr_bytes: u64,
    /// When it was started.
    pub started_at: Time,
    /// How long it has run, or ran.
    pub duration_ms: u64,
}

/// A signal to a process's group.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Which one.
    pub signal: SignalName,
}

/// Signals that can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SignalName {
    Hup,
    Int,
    Quit,
    Kill,
    Usr1,
    Usr2,
    Term,
    Stop,
    Cont,
}

impl SignalName {
    /// The number on Linux.
    pub const fn number(self) -> i32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Kill => 9,
            Self::Usr1 => 10,
            Self::Usr2 => 12,
            Self::Term => 15,
            Self::Cont => 18,
            Self::Stop => 19,
        }
    }
}

/// Bytes for a process's stdin.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StdinRequest {
    /// What to write.
    #[serde(default)]
    pub data: String,
    /// How `data` is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// Closes stdin after it.
    #[serde(default)]
    pub close: bool,
}

/// A piece of a process's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProcessOutput {
    /// Which stream.
    pub stream: OutputStream,
    /// Where the piece begins; larger than asked for when older output was dropped.
    pub offset: u64,
    /// Where the next one begins.
    pub next_offset: u64,
    /// The piece.
    pub data: String,
    /// How `data` is written.
    pub encoding: Encoding,
    /// Whether nothing will follow.
    pub end: bool,
}

/// What a terminal's viewer says in a text frame; binary frames are keystrokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum TerminalInput {
    /// The viewer's window has a new size.
    Resize {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
}

/// What a terminal tells its viewer in a text frame; binary frames are output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TerminalOutput {
    /// The first frame: pass the id as `id=` to come back to this terminal.
    Attached {
        /// The terminal's id.
        id: u64,
    },
    /// Somebody resized the terminal.
    Resize {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// The last frame: the terminal's program ended.
    Exit {
        /// Its exit code; null when a signal ended it.
        exit_code: Option<i32>,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
    /// Something went wrong.
    Error {
        /// What.
        problem: Box<super::Problem>,
    },
}
