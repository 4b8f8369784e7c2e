//! Sessions: an agent's computer each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wharf_domain::egress::{Egress, Pattern, Policy};
use wharf_domain::quota::Resources;
use wharf_domain::session::{Desired, State};
use wharf_domain::{Labels, Name, SessionId, SnapshotId, Time};

use super::{AgentTool, Effort, McpServer, ModelProtocol};
use super::{Content, ImageView, LabelsPatch, ModelUsage, present};

/// An agent's computer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// The session's name, unique among the living of its space.
    pub name: Name,
    /// The space it lives in.
    pub space: Name,
    /// What was seen of it last.
    pub state: State,
    /// Why it is in this state, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// What is wanted of it.
    pub desired: Desired,
    /// What answers its messages; of several agents the default one.
    pub agent: Agent,
    /// All its agents, the default one first; empty where there is only that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<Agent>,
    /// The root filesystem it started from.
    pub image: ImageView,
    /// Its limits.
    pub resources: Resources,
    /// What it may reach.
    pub network: Network,
    /// Environment of everything that runs in it.
    pub env: BTreeMap<String, String>,
    /// Standing instructions to its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The script that ran before its first use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<String>,
    /// Whether root can be had inside; false also forbids `sudo`.
    pub allow_root: bool,
    /// Seconds after the last use until it closes; 0 means never.
    pub idle_timeout_seconds: u32,
    /// Seconds a turn may take.
    pub turn_timeout_seconds: u32,
    /// Labels to find it by.
    pub labels: Labels,
    /// Whatever its maker wants to remember.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// What it was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// What its model requests used so far.
    #[serde(default)]
    pub usage: ModelUsage,
    /// Which runtime holds it.
    pub runtime: String,
    /// The end of the last turn, exec, terminal or file use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Time>,
    /// When it was made.
    pub created_at: Time,
    /// When it was changed last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// Kinds of agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AgentKind {
    /// Each message is a shell script; the reply is its output and exit code.
    #[default]
    Shell,
    /// A program: one JSON object per line on stdin, JSON events per line on stdout.
    Command,
    /// The built-in agent: a model with tools for shell, files and desktop.
    ComputerUse,
    /// `module:function`, called with `(message, context)`.
    Python,
    /// `file#export`, called with `(message, context)`.
    Node,
    /// A program speaking the Agent Client Protocol on its standard streams.
    Acp,
}

/// What answers a session's messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// How messages are addressed to it and how it signs; its kind when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The kind of agent.
    #[serde(default)]
    pub kind: AgentKind,
    /// Program and arguments of a `command` or `acp` agent; empty for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub argv: Vec<String>,
    /// `computer-use`: a provider of the space; `anthropic` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 63)]
    pub provider: Option<String>,
    /// `computer-use`: the model, as the provider names it. Required there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub model: Option<String>,
    /// `computer-use`: how the provider is spoken to. When absent a provider named `openai` speaks `openai-responses`, any
    /// other `anthropic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ModelProtocol>,
    /// `computer-use`: model calls of one turn; 200 when absent. A turn that needs more fails with `budget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub max_rounds: Option<u32>,
    /// `computer-use`: tokens of one answer of the model; 16384 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 256, maximum = 1_000_000)]
    pub max_tokens: Option<u32>,
    /// `computer-use`: tokens of one turn, read (those from a cache do not count) and written; no limit when absent. A turn
    /// that used more fails with `budget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1000, maximum = 1_000_000_000)]
    pub token_budget: Option<u64>,
    /// `computer-use`: tokens the model reads at once; 200000 when absent. What is older is summarised before it overflows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 8000, maximum = 10_000_000)]
    pub context_tokens: Option<u32>,
    /// `computer-use`: tokens the model may think before it answers, less than `max_tokens`; 0 turns thinking off. Models that
    /// choose for themselves take any other number as yes. As the model does by itself when absent. For protocol `anthropic`
    /// only: the others are told with `effort`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub thinking_tokens: Option<u32>,
    /// `computer-use`: how hard the model shall think, where it can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
    /// `computer-use`: seconds one call of the shell may take; 600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub tool_timeout_seconds: Option<u32>,
    /// `computer-use`: its tools. All when absent, `computer` only where the image has a desktop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 4)]
    pub tools: Option<Vec<AgentTool>>,
    /// `computer-use`: more tools, of servers that speak the Model Context Protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub mcp_servers: Vec<McpServer>,
    /// What is called of a `python` agent (`module:function`) or a `node` agent (`file#export`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub entry: Option<String>,
    /// Where it works, and where its `entry` is looked for: absolute, or relative to the home of `agent`, which it is when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub cwd: Option<String>,
    /// An agent of the space: what it runs is its package, and everything above but `name` and `cwd` is the package's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<Name>,
    /// The version of `package`; the active one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub version: Option<i32>,
    /// What it is good for, in a line: told to the other agents of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub description: Option<String>,
}

/// What a session may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The way out.
    #[serde(default)]
    pub egress: Egress,
    /// With egress `allowlist`: hosts it may reach, as `pypi.org` or `*.debian.org`, on ports 80 and 443 or the one named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub allow: Vec<Pattern>,
}

impl From<Policy> for Network {
    fn from(policy: Policy) -> Self {
        Self { egress: policy.egress, allow: policy.allow }
    }
}

impl From<Network> for Policy {
    fn from(network: Network) -> Self {
        Self { egress: network.egress, allow: network.allow }
    }
}

/// What a session may reach, changed in part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkPatch {
    /// The way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// The whole new list of hosts. An egress other than `allowlist` empties it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256)]
    pub allow: Option<Vec<Pattern>>,
}

impl NetworkPatch {
    /// `base` with what is given here.
    #[must_use]
    pub fn over(self, base: Policy) -> Policy {
        let egress = self.egress.unwrap_or(base.egress);
        let kept = if egress == Egress::Allowlist { base.allow } else { Vec::new() };
        Policy { egress, allow: self.allow.unwrap_or(kept) }
    }
}

/// Limits to set; those absent keep what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesPatch {
    /// CPU time per wall time: 1000 is one core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 1_024_000)]
    pub cpu_millis: Option<u32>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 16, maximum = 16_777_216)]
    pub memory_mib: Option<u32>,
    /// What the session may write beyond its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 16, maximum = 1_073_741_824)]
    pub disk_mib: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 8, maximum = 4_194_304)]
    pub pids: Option<u32>,
}

impl ResourcesPatch {
    /// `base` with what is given here.
    #[must_use]
    pub fn over(self, base: Resources) -> Resources {
        Resources {
            cpu_millis: self.cpu_millis.unwrap_or(base.cpu_millis),
            memory_mib: self.memory_mib.unwrap_or(base.memory_mib),
            disk_mib: self.disk_mib.unwrap_or(base.disk_mib),
            pids: self.pids.unwrap_or(base.pids),
        }
    }
}

/// A session to be made. An empty object is enough.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// The session's name; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// What answers its messages; `shell` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// More agents, for messages that are addressed to them; each has a name. Without `agent` the first is the default one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub agents: Vec<Agent>,
    /// The image's name; the space's default, else `base`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// Its limits; those absent are the space's defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesPatch>,
    /// What it may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Environment of everything that runs in it: up to 64 KiB. Not for secrets: it can be read back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Standing instructions to its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262_144)]
    pub instructions: Option<String>,
    /// A shell script that runs once before the first use. If it fails, so does the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262_144)]
    pub setup: Option<String>,
    /// Whether root can be had inside (it is nobody outside); yes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_root: Option<bool>,
    /// The first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Content>,
    /// Seconds after the last use until it closes; 0 means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub idle_timeout_seconds: Option<u32>,
    /// Seconds a turn may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604_800)]
    pub turn_timeout_seconds: Option<u32>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Whatever its maker wants to remember; up to 256 KiB.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// Makes it a fork of a session or of a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ForkFrom>,
}

/// What to fork: exactly one of `session` and `snapshot`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkFrom {
    /// Name or id of a session of the space, as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 63)]
    pub session: Option<String>,
    /// Id of a snapshot of the space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// What comes along.
    #[serde(default)]
    pub include: Include,
}

/// What of a session a fork gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Include {
    /// Its files.
    pub files: bool,
    /// Its messages up to the point of the fork.
    pub messages: bool,
}

impl Default for Include {
    fn default() -> Self {
        Self { files: true, messages: true }
    }
}

/// A fork to be made; everything absent is as in the parent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkSession {
    /// The fork's name; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Id of a snapshot of this session to fork from; its present state when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// What comes along.
    #[serde(default)]
    pub include: Include,
    /// The fork's limits; those absent are the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesPatch>,
    /// The first new message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Content>,
    /// What the fork may reach; what is absent is as in the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkPatch>,
    /// Labels; the parent's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// Metadata; the parent's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

/// Changes to a session, as JSON merge patch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchSession {
    /// A new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// New limits; applied to a running session at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesPatch>,
    /// What it may reach; counts for the next request it makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkPatch>,
    /// Standing instructions; null removes them. Counts from the next start of its computer on.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 262_144)]
    pub instructions: Option<Option<String>>,
    /// Seconds after the last use until it closes; 0 means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub idle_timeout_seconds: Option<u32>,
    /// Seconds a turn may take. Counts from the next turn on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604_800)]
    pub turn_timeout_seconds: Option<u32>,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
    /// Metadata to merge in; null removes a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

/// Where a session came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Origin {
    /// The session it was forked from.
    pub session: SessionId,
    /// The snapshot its files came from; null when it was forked without files.
    pub snapshot: Option<SnapshotId>,
    /// Where the parent's log stood.
    pub seq: i64,
}

/// A session's ancestors and descendants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Lineage {
    /// The session asked about.
    pub session: LineageNode,
    /// Its ancestors, nearest first.
    pub ancestors: Vec<LineageNode>,
    /// All that came from it, oldest first.
    pub descendants: Vec<LineageNode>,
}

/// One session of a lineage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageNode {
    /// The session's id.
    pub id: SessionId,
    /// The session's name.
    pub name: Name,
    /// The session's state; null once it is deleted.
    pub state: Option<State>,
    /// Where it came from; null for the first of the line.
    pub from: Option<Origin>,
    /// When it was made.
    pub created_at: Time,
}

/// What a session's computer uses, as the kernel counts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SessionStats {
    /// The session's state when it was asked. Of a session that is closed only the disk is counted.
    pub state: State,
    /// CPU time used since its computer came up.
    pub cpu_usage_micros: u64,
    /// Memory in use.
    pub memory_bytes: u64,
    /// The most memory in use since its computer came up.
    pub memory_peak_bytes: u64,
    /// The limit of memory.
    pub memory_limit_bytes: u64,
    /// Processes killed because memory ran out.
    pub oom_kills: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes written beyond the image.
    pub disk_bytes: u64,
    /// The limit of those.
    pub disk_limit_bytes: u64,
}
