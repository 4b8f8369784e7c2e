//! Agents of a space: packages with versions, and the builds that make them.

use serde::{Deserialize, Serialize};
use wharf_domain::{AgentId, BuildId, Labels, Name, SessionId, Time};

use super::{LabelsPatch, ResourcesPatch, present};

/// An agent of a space: a package with numbered versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgentPackage {
    /// The agent's id.
    pub id: AgentId,
    /// The agent's name, unique in its space.
    pub name: Name,
    /// What it is good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Labels to find it by.
    pub labels: Labels,
    /// The version that sessions get which name none; null until a build has succeeded.
    pub active_version: Option<i32>,
    /// When it was made.
    pub created_at: Time,
    /// When it was changed last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// An agent to be made. It has no version until one is built.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAgent {
    /// The agent's name.
    pub name: Name,
    /// What it is good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub description: Option<String>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Changes to an agent, as JSON merge patch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchAgent {
    /// What it is good for; null removes it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 1024)]
    pub description: Option<Option<String>>,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
}

/// A version of an agent. It never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgentVersion {
    /// Its number; later ones are larger.
    pub version: i32,
    /// Whether sessions get it which name none.
    pub active: bool,
    /// The build it came from.
    pub build: BuildId,
    /// SHA-256 of the packed package.
    pub digest: String,
    /// Bytes of the packed package.
    pub size_bytes: i64,
    /// What its `wharf.toml` says, or what was recognised.
    pub manifest: serde_json::Value,
    /// Who asked for its build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// When it was built.
    pub created_at: Time,
}

/// Which version sessions get from now on.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivateVersion {
    /// The version's number.
    #[schema(minimum = 1)]
    pub version: i32,
}

/// A build to be made from a repository.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartBuild {
    /// Where the source is.
    pub git: GitSource,
    /// The image it is built in; the one its `wharf.toml` names, else the space's default, else `base`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// Limits of the build's computer; those absent are what its `wharf.toml` asks for, else the space's defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesPatch>,
}

/// A commit of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GitSource {
    /// An `https://`, `http://` or ssh address (`git@example.com:team/agent.git`, `ssh://git@example.com:2222/team/agent.git`), without a
    /// credential in it: connections of the space bring that. `/git/{space}/{repo}.git` is a repository of
    /// Wharf's own: the agent follows the branch it is built from, and every push to that builds it anew.
    #[schema(max_length = 2048)]
    pub url: String,
    /// A branch, tag or commit; the default branch when absent.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub reference: Option<String>,
}

/// States of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BuildState {
    /// Nobody has begun with it.
    Queued,
    /// It is being built.
    Running,
    /// It became a version.
    Succeeded,
    /// It did not; `reason` says why, the log how.
    Failed,
    /// Somebody did not want it any more; `reason` says who.
    Cancelled,
}

/// Turning an agent's source into a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Build {
    /// The build's id.
    pub id: BuildId,
    /// The agent's name.
    pub agent: Name,
    /// How it stands.
    pub state: BuildState,
    /// Why it failed, or who cancelled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `{git: {url, ref, commit}}` or `{upload: digest}`; of a repository of the space also `repo` (its id) and `branch`.
    pub source: serde_json::Value,
    /// The session it is built in. It is deleted when the build ends; deleting it ends the build.
    pub session: SessionId,
    /// The version it became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
    /// Times it was begun: more than once when something around it broke.
    pub attempts: i32,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// When it was asked for.
    pub created_at: Time,
    /// When it was begun first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
}

/// One piece of a build's log. Over SSE `id:` is `n` and `event:` is `log`; the last event is `build`, with the build as it
/// ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BuildLine {
    /// Its number in the log.
    pub n: i64,
    /// `stdout` and `stderr` of the commands, `command` for the commands themselves, `wharf` for what Wharf says.
    pub stream: String,
    /// What was printed.
    pub text: String,
    /// When.
    pub at: Time,
}
