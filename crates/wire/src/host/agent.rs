//! What the host and a `command` agent say to each other: one JSON object a line, on the agent's stdin and stdout.
//!
//! The host: `hello` once after the start, `message` for every turn, `history` when asked, to its own runners and `computer-use` `cancel`. The agent:
//! any number of `text`, `message`, `event`, `history` (a request), then `done`, `handover` or `error`. Stderr is log. A line that is not in the protocol
//! fails the turn with the reason: guessing what an agent meant would answer in its name.
//!
//! The built-in agent `computer-use` speaks it too, with a few lines more: it is told its configuration, it is asked to end a
//! turn instead of being killed, and it is told what of a turn was heard of it before it died.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_domain::{SessionId, TurnId};

use super::AgentName;
use super::computer_use::ComputerUse;
use super::turn::{Block, PastMessage, Reason, Usage};

/// Bytes of one line of an agent. A message may take 4 MiB; the rest is room for its JSON clothing.
pub const LINE_BYTES: usize = 6 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    Hello {
        protocol: u32,
        agent: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<SessionId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instructions: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        agents: Vec<AgentName>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        computer_use: Option<Box<ComputerUse>>,
    },
    Message {
        turn: TurnId,
        seq: i64,
        content: Vec<Block>,
        /// The agent died, or its host did, while it answered this message: it goes on where it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resumed: Option<Resumed>,
    },
    History {
        messages: Vec<PastMessage>,
    },
    /// The turn shall end: the agent has a moment to say its last words before it is killed. Only `computer-use`
    /// and the host's own runners get it; a `command` agent is killed at once.
    Cancel {
        turn: TurnId,
    },
}

/// What the host had heard of a turn that goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Messages and events named `tool_use` or `tool_result`, counted together.
    pub said: u64,
}

/// The number in `hello`.
pub const PROTOCOL: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromAgent {
    /// A part of the reply. Without a `message` before `done`, the parts together are the reply.
    Text { text: String },
    /// The reply, or one more of them.
    Message { content: Vec<Block> },
    /// Something to show.
    Event {
        name: String,
        #[serde(default)]
        data: Value,
    },
    /// Asks for the messages before this one.
    History {},
    Done {
        #[serde(default)]
        usage: Option<Usage>,
        #[serde(default)]
        is_error: bool,
    },
    /// The end of this agent's part: another agent of the session goes on with the turn, with `content` or, where that is
    /// absent, with the user's message.
    Handover {
        to: String,
        #[serde(default)]
        content: Option<Vec<Block>>,
        #[serde(default)]
        usage: Option<Usage>,
    },
    Error {
        detail: String,
        #[serde(default)]
        usage: Option<Usage>,
        /// `agent_error` when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
    },
}

/// Reads one line of an agent, without its newline.
pub fn parse_line(line: &[u8]) -> Result<FromAgent, String> {
    if line.len() > LINE_BYTES {
        return Err(format!("a line of {} bytes is over the limit of {LINE_BYTES}", line.len()));
    }
    serde_json::from_slice(line).map_err(|e| {
        let shown: String = String::from_utf8_lossy(&line[..line.len().min(200)]).chars().take(120).collect();
        format!("{e}; the line begins with {shown:?}")
    })
}
