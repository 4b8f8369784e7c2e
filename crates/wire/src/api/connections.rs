//! Connections of a space, and the egress log of a session.

use serde::{Deserialize, Serialize};
use wharf_domain::egress::Pattern;
use wharf_domain::ssh::HostKey;
use wharf_domain::{ConnectionId, EgressId, Labels, Name, Time, TurnId};

use super::LabelsPatch;

/// Which requests a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionMatch {
    /// Host, as `api.example.org` or `*.example.org`, on ports 80 and 443 or the one named; of `ssh` on port 22 or the one named.
    pub host: Pattern,
    /// Methods it is narrowed to; all when empty. None with `ssh`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub methods: Vec<String>,
    /// Beginning of the path it is narrowed to, at a border of segments. Of `ssh` the repository's, with a slash before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub path_prefix: Option<String>,
}

/// How an ssh server is spoken to with the key: git's fetches, and pushes where they are let out; never a shell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionSsh {
    /// Who logs in; whom the address names when absent, and `git` where it names nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64)]
    pub user: Option<String>,
    /// What the server is known by: fingerprints (`SHA256:…`) or lines of `ssh-keyscan`. Without one nobody logs in, and what git
    /// says then names the fingerprint the server has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub host_keys: Vec<HostKey>,
    /// Whether pushes are let out too; fetches only when absent.
    #[serde(default)]
    pub push: bool,
}

/// The credential and where it is put: exactly one of `header`, `query`, `basic` and `ssh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionInject {
    /// Name of the header it is put in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub header: Option<String>,
    /// What stands before it in the header, as `Bearer ` with its space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub prefix: Option<String>,
    /// Name of the query's parameter it is put in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub query: Option<String>,
    /// User of HTTP's basic authentication, whose password it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub basic: Option<String>,
    /// Log in to an ssh server with it, for git: the secret is a private key without a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<ConnectionSsh>,
    /// The secret of the space that is put in.
    pub secret: Name,
}

/// A rule: requests to this upstream get this credential, outside of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Connection {
    /// The connection's id.
    pub id: ConnectionId,
    /// The connection's name.
    pub name: Name,
    /// Which requests it is for.
    #[serde(rename = "match")]
    pub matches: ConnectionMatch,
    /// The credential and where it is put.
    pub inject: ConnectionInject,
    /// Labels to find it by.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Time,
    /// When it was changed last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// A connection to be made.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateConnection {
    /// The connection's name.
    pub name: Name,
    /// Which requests it is for.
    #[serde(rename = "match")]
    pub matches: ConnectionMatch,
    /// The credential and where it is put.
    pub inject: ConnectionInject,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Changes to a connection; what is absent stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchConnection {
    /// Which requests it is for: the whole new rule.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<ConnectionMatch>,
    /// The credential and where it is put: the whole new rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<ConnectionInject>,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
}

/// What came of a tunnel or request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EgressDecision {
    /// It went through.
    Allowed,
    /// A policy, the address guard or a limit refused it.
    Denied,
    /// The upstream could not be reached or broke its protocol.
    Failed,
}

/// What the gateway saw of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EgressKind {
    /// Bytes only.
    Tunnel,
    /// A request it read.
    Request,
    /// A call of a model.
    Model,
}

/// One line of a session's egress log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EgressLine {
    /// The line's id.
    pub id: EgressId,
    /// What the gateway saw of it.
    pub kind: EgressKind,
    /// Where it went, by the name the session used.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// The request's method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The status it was answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What came of it.
    pub decision: EgressDecision,
    /// Why it was refused, failed or ended: `policy`, `address`, `resolve`, `connect`, `tls`, `limit`, `idle`, …; `open` while
    /// it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The connection whose credential was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Name>,
    /// The turn that ran when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// Bytes the session sent; so far, while it goes on.
    pub bytes_sent: u64,
    /// Bytes it received; so far, while it goes on.
    pub bytes_received: u64,
    /// When it began.
    pub started_at: Time,
    /// How long it took.
    pub duration_ms: u64,
}
