//! Ports of a session: what listens in it, and links for browsers.

use serde::{Deserialize, Serialize};
use wharf_domain::{Time, limits};

use super::Sensitive;

/// A port something in the session listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ListeningPort {
    /// The port.
    pub port: u16,
    /// The address it is bound to; requests come by loopback, so an address of no other kind is reached.
    pub address: String,
    /// Who listens: 1000 is the agent, 0 root inside.
    pub uid: u32,
    /// Path of the API that leads there.
    pub path: String,
    /// The port's own origin; null where the installation has no host names for ports.
    pub url: Option<String>,
}

/// What listens in a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ListeningPorts {
    /// One entry an address and port; empty when the session is closed.
    pub items: Vec<ListeningPort>,
}

/// A link to a port, for a browser.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePortLink {
    /// The port.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: u16,
    /// Seconds it is valid; 3600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub expires_in_seconds: Option<u32>,
    /// Where it leads at the port; `/` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2048, pattern = "^/([^/].*)?$")]
    pub path: Option<String>,
}

impl CreatePortLink {
    pub fn seconds(&self) -> u32 {
        self.expires_in_seconds.unwrap_or(limits::PORT_LINK_SECONDS)
    }
}

/// A link to a port. Whoever has it acts at that port, and only there, as the one who made it.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PortLink {
    /// Open it in a browser: it becomes a cookie of the port's own host name.
    pub url: Sensitive,
    /// The credential in it, for `Authorization: Bearer` at that host name.
    pub token: Sensitive,
    /// From then on it is refused.
    pub expires_at: Time,
}
