//! Commands: run to the end (`POST /exec`) or left running (`POST /processes`) with output that can be read later.

use serde::{Deserialize, Serialize};

use super::{B64, Env, Piece};

/// What to run. Exactly one of `argv` and `command`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments, run as they are; the program is looked for in `$PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// A script for `/bin/bash -lc` (`/bin/sh -lc` where there is no bash).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Absolute, or relative to the user's home; the home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    pub env: Env,
    /// Name or uid; `agent` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Given to the command's standard input, which is then closed (see `stdin_open`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// The same for input that is not text. Not together with `stdin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_b64: Option<B64>,
    /// Processes only: leave standard input open for `POST /processes/{id}/stdin`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin_open: bool,
    /// After this the command and all it started are killed. Processes run without a limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Bytes kept of each output stream: the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<u64>,
}

impl ExecRequest {
    pub fn argv<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: Some(argv.into_iter().map(Into::into).collect()), ..Self::default() }
    }

    pub fn command(script: impl Into<String>) -> Self {
        Self { command: Some(script.into()), ..Self::default() }
    }
}

/// How a process ended: by itself with a code, or by a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

impl Exit {
    pub fn success(self) -> bool {
        self.exit_code == Some(0)
    }
}

/// Answer to `POST /exec`. Of a stream longer than `max_output_bytes` the last bytes are here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    #[serde(flatten)]
    pub exit: Exit,
    /// Bytes that are no UTF-8 are replaced here; then `stdout_b64` has all of them as they were.
    pub stdout: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_b64: Option<B64>,
    pub stdout_truncated: bool,
    /// Bytes written in all.
    pub stdout_bytes: u64,
    pub stderr: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_b64: Option<B64>,
    pub stderr_truncated: bool,
    pub stderr_bytes: u64,
    pub timed_out: bool,
    pub duration_ms: u64,
}

impl ExecResult {
    /// The bytes of standard output that were kept.
    pub fn stdout(&self) -> &[u8] {
        self.stdout_b64.as_ref().map_or(self.stdout.as_bytes(), |b| &b.0)
    }

    pub fn stderr(&self) -> &[u8] {
        self.stderr_b64.as_ref().map_or(self.stderr.as_bytes(), |b| &b.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
    /// Both in the order they were written.
    Output,
}

/// One line of an exec or process stream. Offsets count bytes of one stream from the process's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecEvent {
    Started {
        pid: i32,
    },
    Output {
        stream: Stream,
        offset: u64,
        #[serde(flatten)]
        piece: Piece,
    },
    /// `bytes` from `offset` on were overwritten before they were read.
    Lost {
        stream: Stream,
        offset: u64,
        bytes: u64,
    },
    Exit {
        #[serde(flatten)]
        exit: Exit,
        timed_out: bool,
        duration_ms: u64,
        stdout_bytes: u64,
        stderr_bytes: u64,
    },
}

/// A process started by `POST /processes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Counts up within one incarnation of the host; never reused there.
    pub id: u64,
    pub pid: i32,
    pub argv: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub running: bool,
    #[serde(flatten)]
    pub exit: Exit,
    pub timed_out: bool,
    /// Milliseconds since 1970 (UTC).
    pub started_at_ms: u64,
    pub duration_ms: u64,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub stdin_open: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Processes {
    pub processes: Vec<ProcessInfo>,
}

/// `GET /processes/{id}/output` without `follow`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    pub stream: Stream,
    /// Of the first byte here. Larger than asked for by `lost`.
    pub offset: u64,
    pub lost: u64,
    #[serde(flatten)]
    pub piece: Piece,
    /// Where to read on.
    pub next: u64,
    /// Nothing will come after `next`.
    pub end: bool,
}

/// `POST /processes/{id}/signal`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// `TERM`, `SIGTERM` or a number.
    pub signal: SignalName,
    /// The process alone instead of its whole group.
    #[serde(default)]
    pub only_leader: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SignalName {
    Number(i32),
    Name(String),
}

/// `POST /processes/{id}/stdin`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b64: Option<B64>,
    /// Close standard input after what is given here.
    #[serde(default)]
    pub close: bool,
}
