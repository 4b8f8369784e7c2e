//! The shapes of the public HTTP API, shared by the server, the client and the CLI.
//!
//! Requests refuse fields they do not know; answers may grow fields, so a client ignores what it does not know.
//! A comment here is a line of the API reference.

pub mod access;
pub mod agents;
pub mod audit;
pub mod auth;
pub mod connections;
mod events;
pub mod exec;
pub mod files;
pub mod guard;
pub mod images;
pub mod messages;
pub mod packages;
pub mod ports;
pub mod principals;
pub mod providers;
pub mod published;
pub mod repos;
pub mod runtimes;
pub mod secrets;
pub mod sessions;
pub mod snapshots;
pub mod spaces;
pub mod text;

pub use access::*;
pub use agents::*;
pub use audit::*;
pub use auth::*;
pub use connections::*;
pub use events::*;
pub use exec::*;
pub use files::*;
pub use guard::*;
pub use images::*;
pub use messages::*;
pub use packages::*;
pub use ports::*;
pub use principals::*;
pub use providers::*;
pub use published::*;
pub use repos::*;
pub use runtimes::*;
pub use secrets::*;
pub use sessions::*;
pub use snapshots::*;
pub use spaces::*;
pub use text::*;

use serde::{Deserialize, Deserializer, Serialize};
use wharf_domain::Code;

/// What went wrong, as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// Always `about:blank`; `code` tells problems apart.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub kind: String,
    /// What the code stands for.
    pub title: String,
    /// The HTTP status of this answer.
    pub status: u16,
    /// Machine-readable reason, of a closed set.
    pub code: Code,
    /// What is wrong and what to do next.
    pub detail: String,
    /// The field or parameter at fault, where one is (`resources.cpu_millis`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Whether the same request may succeed later without a change.
    pub retryable: bool,
    /// Finds this request in the server's log; the same as the `x-request-id` header.
    pub request_id: String,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The things themselves, in a stable order.
    pub items: Vec<T>,
    /// Pass it as `cursor` to get the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// One page of a list that can be watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WatchPage<T> {
    /// The things themselves, in a stable order.
    pub items: Vec<T>,
    /// Pass it as `cursor` to get the next page; null on the last one.
    pub next_cursor: Option<String>,
    /// Where the list stood when it was read. `watch=true&resource_version=` of it sends what changed since.
    pub resource_version: String,
}

/// For actions that need no word: an empty object, or no body at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// What the server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Version {
    /// Always `wharf`.
    pub name: String,
    /// The release, as semantic version.
    pub version: String,
    /// The API's version: the first segment of its paths.
    pub api: String,
}

/// Whether the server can do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok`; an unhealthy server answers 503 with a problem.
    pub status: String,
}

/// For merge patches: tells a field that is absent (`None`) from one that is null (`Some(None)`).
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(d).map(Some)
}
