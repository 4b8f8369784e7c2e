//! Turns: one user message, answered once.
//!
//! `POST /turns` starts a turn or, when the host knows its id already, hands back what it said: the id is what makes
//! "answered once" hold through crashes of either side. Events are numbered from 1; `after` resumes behind one.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use wharf_domain::TurnId;

use super::computer_use::ComputerUse;
use super::exec::Stream;
use super::{Env, Piece};

/// One block of a message: an object with a `type`. Blocks the host does not interpret pass through it unchanged.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Block(Map<String, Value>);

impl Block {
    pub fn text(text: impl Into<String>) -> Self {
        let mut map = Map::new();
        map.insert("type".into(), "text".into());
        map.insert("text".into(), Value::String(text.into()));
        Self(map)
    }

    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The text of a text block.
    pub fn as_text(&self) -> Option<&str> {
        if self.kind() == "text" { self.0.get("text").and_then(Value::as_str) } else { None }
    }

    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl TryFrom<Map<String, Value>> for Block {
    type Error = String;

    fn try_from(map: Map<String, Value>) -> Result<Self, String> {
        match map.get("type") {
            Some(Value::String(kind)) if !kind.is_empty() => {
                if kind == "text" && !map.get("text").is_some_and(Value::is_string) {
                    return Err("a text block needs a string `text`".into());
                }
                Ok(Self(map))
            }
            _ => Err("a content block needs a string `type`".into()),
        }
    }
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Self::try_from(Map::deserialize(input)?).map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentKind {
    /// The text of the message is a script.
    Shell,
    /// A program that speaks [`super::agent`] on its standard streams; kept alive between turns.
    Command,
    /// `module:function`, called by a runner of the host's that speaks [`super::agent`].
    Python,
    /// `file#export`, called the same way.
    Node,
    /// A program that speaks the Agent Client Protocol on its standard streams; kept alive between turns.
    Acp,
    /// The built-in model loop: a program of the same kind that comes with the host.
    ComputerUse,
}

impl AgentKind {
    /// Whether a turn cut short by the death of its host goes on at the next one, by a journal of the agent's own.
    pub fn resumes(self) -> bool {
        self == Self::ComputerUse
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    pub name: String,
    pub kind: AgentKind,
    /// Program and arguments of a `command` or `acp` agent, the one thing that is called of a `python` or `node` agent;
    /// empty for those that are part of Wharf.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entry: Vec<String>,
    /// Absolute, or relative to the home of `agent`, which it is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The directory its package lies in: what `entry` names is looked for there. The working directory when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    pub env: Env,
    /// Of a `computer_use` agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computer_use: Option<Box<ComputerUse>>,
}

impl AgentSpec {
    pub fn shell() -> Self {
        Self {
            name: "shell".into(),
            kind: AgentKind::Shell,
            entry: Vec::new(),
            cwd: None,
            package: None,
            env: Env::default(),
            computer_use: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnMessage {
    /// Of the message in the session's log.
    pub seq: i64,
    pub content: Vec<Block>,
}

/// An earlier message, for agents that ask for history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastMessage {
    pub seq: i64,
    /// `user` or `agent`.
    pub role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    pub content: Vec<Block>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnRequest {
    pub turn: TurnId,
    /// Who answers.
    pub agent: AgentSpec,
    /// All agents of the session when it has several: those the turn may be handed over to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentSpec>,
    pub message: TurnMessage,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<PastMessage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

/// `POST /setup`: a script run once in the life of a volume. Streams the events of a turn. One that ended, well or
/// not, is not run again but handed back; one cut short by the host's death runs anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetupRequest {
    pub script: String,
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    pub env: Env,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    Failed,
    Cancelled,
}

/// Why a turn did not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It took longer than its limit.
    Timeout,
    /// Somebody cancelled it.
    Cancelled,
    /// The host died while it ran.
    Interrupted,
    /// The agent could not be started.
    AgentStart,
    /// The agent ended before it was done.
    AgentExited,
    /// The agent said something that is not in the protocol.
    AgentProtocol,
    /// The agent said that it failed, or cannot do what the message asks.
    AgentError,
    /// It used up the rounds or tokens it may use.
    Budget,
    /// The model could not be reached, or refused.
    Model,
    /// A defect of the host.
    Internal,
}

/// What a turn cost, as the agent tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    #[serde(default)]
    pub input_tokens: u64,
    #[serde(default)]
    pub output_tokens: u64,
    #[serde(default)]
    pub cached_tokens: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

impl Usage {
    /// Both together. The model is the last one that was named.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let cost_usd = match (self.cost_usd, other.cost_usd) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or_default() + b.unwrap_or_default()),
        };
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cached_tokens: self.cached_tokens.saturating_add(other.cached_tokens),
            model: other.model.or(self.model),
            cost_usd,
        }
    }
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of a `shell` turn's script. A turn whose script ended with another code than 0 is done, with `is_error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One event of a turn. `done` is the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnEvent {
    /// Counts from 1 within the turn.
    pub n: u64,
    /// Milliseconds since 1970 (UTC).
    pub at_ms: u64,
    /// Who spoke, in a session with several agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(flatten)]
    pub said: Said,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Said {
    #[serde(rename = "turn.started")]
    Started { agent: String },
    /// What the script or the agent's log wrote.
    #[serde(rename = "output")]
    Output {
        stream: Stream,
        offset: u64,
        #[serde(flatten)]
        piece: Piece,
    },
    /// The stream went on past its limit; from `offset` it is no longer in events.
    #[serde(rename = "output.cut")]
    OutputCut { stream: Stream, offset: u64 },
    /// A part of the reply while it is being written.
    #[serde(rename = "text")]
    Text { text: String },
    /// The reply.
    #[serde(rename = "message")]
    Message { content: Vec<Block> },
    /// The turn goes on with another agent of the session.
    #[serde(rename = "handover")]
    Handover { from: String, to: String },
    /// Anything else the agent wants to show: a tool call, progress.
    #[serde(rename = "event")]
    Event { name: String, data: Value },
    #[serde(rename = "done")]
    Done(Done),
}

/// `GET /turns` and `GET /turns/{turn}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnInfo {
    /// A turn's id, or `setup`.
    pub turn: String,
    pub seq: i64,
    pub agent: String,
    pub running: bool,
    /// Number of the last event.
    pub events: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Done>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Turns {
    /// Keys of the turns the host can hand back, oldest first.
    pub turns: Vec<String>,
    pub running: Option<String>,
}

/// Answer to a cancel. A turn that had ended before stays as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cancelled {
    /// False when the turn had ended already.
    pub was_running: bool,
}
