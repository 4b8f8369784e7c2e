//! Every bound the host keeps, by name. Those a user chooses within are in `wharf_domain::limits`.

use std::time::Duration;

/// Connections served at once; more wait in the socket's backlog.
pub const CONNECTIONS: usize = 512;
/// Connections the session's own processes have to the desktop at once.
pub const DESKTOP_CONNECTIONS: usize = 32;
/// Bytes of a JSON body where nothing larger is named.
pub const BODY_BYTES: usize = 1024 * 1024;
/// Bytes of an exec body: standard input travels in it, as base64 a third larger.
pub const EXEC_BODY_BYTES: usize = 12 * 1024 * 1024;
/// Bytes of a turn: a message of 4 MiB, and history.
pub const TURN_BODY_BYTES: usize = 24 * 1024 * 1024;
/// Arguments of a command.
pub const ARGS: usize = 4096;
/// Bytes of one argument; the kernel's MAX_ARG_STRLEN is 128 KiB. Longer scripts travel in memory files.
pub const ARG_BYTES: usize = 128 * 1024 - 1;
/// Bytes kept of one output stream when the caller does not say.
pub const RING_BYTES: u64 = 1024 * 1024;
/// Bytes kept of one output stream at the most.
pub const RING_MAX_BYTES: u64 = wharf_domain::limits::EXEC_OUTPUT_BYTES as u64;
/// Bytes of one piece of output in an event or a read.
pub const PIECE_BYTES: usize = 64 * 1024;
/// How long output is awaited after its process ended, when something it started holds the pipe.
pub const DRAIN: Duration = Duration::from_millis(100);
/// How long the end of an agent is awaited when it has closed its output: what it started is ended before.
pub const LAST_BREATH: Duration = Duration::from_secs(1);
/// Foreground commands at once.
pub const EXECS: usize = 256;
/// Background processes running at once.
pub const PROCESSES: usize = 256;
/// Ended background processes kept for their output; the oldest goes first.
pub const PROCESSES_ENDED: usize = 64;
/// Terminals, ended ones included.
pub const TERMINALS: usize = 64;
/// Scrollback of a terminal.
pub const TERMINAL_RING_BYTES: u64 = 1024 * 1024;
/// Columns or rows of a terminal.
pub const TERMINAL_SIDE: u16 = 4096;
/// Entries of a directory page.
pub const LIST_PAGE: usize = 1000;
/// Names read of one directory; one with more is refused rather than half shown.
pub const LIST_NAMES: usize = 1_000_000;
/// Tar streams at once; each holds a thread.
pub const TARS: usize = 8;
/// Symbolic links followed on the way to a file to be written.
pub const LINKS: usize = 40;
/// Directories inside each other in a recursive delete, chown or tar.
pub const DEPTH: usize = 512;
/// Bytes of output a turn puts into events.
pub const TURN_OUTPUT_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes of output in the reply of a `shell` turn: the first and the last half.
pub const REPLY_BYTES: usize = 256 * 1024;
/// Bytes of everything else an agent says in one turn.
pub const TURN_SAID_BYTES: usize = 16 * 1024 * 1024;
/// Events of one turn.
pub const TURN_EVENTS: u64 = 100_000;
/// Ended turns kept in the volume.
pub const TURNS_KEPT: usize = 256;
/// Bytes of ended turns kept in the volume; the newest is always kept.
pub const TURNS_BYTES: u64 = 64 * 1024 * 1024;
/// Output written within this time travels in one event.
pub const COALESCE: Duration = Duration::from_millis(15);
/// Agents kept alive between turns.
pub const AGENTS: usize = 16;
/// Connections to the gateway at once; two descriptors each.
pub const EGRESS: usize = 512;
/// Lines in the host's log about connections that came to nothing.
pub const EGRESS_LOG_LINES: u32 = 2000;
/// How long an agent that was told to end may take over its last words; less than whoever asks the host waits.
pub const LAST_WORDS: Duration = Duration::from_secs(3);
/// Times a turn may be handed over from one agent to another.
pub const HANDOVERS: usize = wharf_domain::limits::HANDOVERS;
/// How long an `acp` agent may take to say who it is and to make or load its session.
pub const ACP_HANDSHAKE: Duration = Duration::from_secs(60);
/// Terminals an `acp` agent may hold at once.
pub const ACP_TERMINALS: usize = 32;
/// Bytes kept of the output of one of them, when the agent does not say and at the most.
pub const ACP_TERMINAL_BYTES: usize = 1024 * 1024;
/// Bytes of a file an `acp` agent reads or writes through the host.
pub const ACP_FILE_BYTES: usize = 4 * 1024 * 1024;
/// Seconds any timeout may name.
pub const TIMEOUT_MAX_SECONDS: u32 = wharf_domain::limits::EXEC_TIMEOUT_MAX_SECONDS;
