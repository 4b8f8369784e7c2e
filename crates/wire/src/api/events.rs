//! What happened, in order: events of a session, events of a space, changes of a watched list.

use serde::{Deserialize, Serialize};
use wharf_domain::{SessionId, Time, TurnId};

/// One event of a session's log. Over SSE `id:` is `seq` and `event:` is `type`.
///
/// Types: `session.state`, `message.created`, `turn.started`, `turn.delta`, `turn.thinking`, `turn.tool_use`,
/// `turn.tool_result`, `turn.output`, `turn.handover`, `turn.done`, `turn.failed`, `turn.cancelled`, `turn.log`,
/// `approval.requested`, `approval.decided`. More may come; ignore those not known.
/// In a session with several agents `data.agent` names the one that spoke.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SessionEvent {
    /// Its number in the session's log, shared with messages: larger is later.
    pub seq: i64,
    /// What kind of event it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened.
    pub at: Time,
    /// The turn it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// What happened.
    pub data: serde_json::Value,
}

/// One event of a space. Over SSE `id:` is `cursor` and `event:` is `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SpaceEvent {
    /// Where it stands among the space's events; pass it as `after` to go on from here.
    pub cursor: String,
    /// What kind of event it is: `session.created`, `session.updated`, `session.deleted`, `secret.updated`, ….
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened.
    pub at: Time,
    /// The kind of thing it happened to.
    pub resource: String,
    /// That thing's id.
    pub id: String,
    /// That thing's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The session it happened in, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// More about it; never a secret.
    pub data: serde_json::Value,
}

/// How a thing in a watched list changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was made, or matches the filter since now.
    Added,
    /// It changed.
    Modified,
    /// It was deleted, or does not match the filter any more.
    Deleted,
}

/// One change of a watched list. Over SSE `id:` is `resource_version` and `event:` is `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct WatchEvent<T> {
    /// What happened to it.
    #[serde(rename = "type")]
    pub change: Change,
    /// Where the list stands with this change.
    pub resource_version: String,
    /// The id of the thing.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The thing as it is now; absent when it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<T>,
}
