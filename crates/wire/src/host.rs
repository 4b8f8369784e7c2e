//! The protocol of `wharf-host`: what the server and the operator say to PID 1 of a session.
//!
//! HTTP/1.1 over the one unix socket the jailer made. There is no authentication in it: whoever holds the socket is
//! Wharf. Requests refuse fields they do not know; answers may grow fields, so readers ignore what they do not know.
//! Bytes that need not be text travel twice where that is cheap: as text when they are UTF-8, as base64 otherwise.

pub mod agent;
pub mod computer_use;
pub mod desktop;
pub mod exec;
pub mod files;
pub mod frame;
pub mod guard;
pub mod path;
pub mod terminal;
pub mod turn;

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wharf_domain::{Code, SessionId};

/// Why a request was refused. `field` names the part of the request at fault, where one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub code: Code,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// Environment variables. Their values may be secrets of the session, so they are never shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Env(pub BTreeMap<String, String>);

impl Env {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names must be non-empty and free of `=` and NUL, values free of NUL; both together bounded.
    pub fn check(&self) -> Result<(), String> {
        let mut bytes = 0;
        for (name, value) in &self.0 {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(format!("{name:?} is not a name of an environment variable"));
            }
            if value.contains('\0') {
                return Err(format!("the value of {name} holds a NUL byte"));
            }
            bytes += name.len() + value.len();
        }
        if bytes > ENV_BYTES {
            return Err(format!("the environment takes {bytes} bytes; at most {ENV_BYTES} are allowed"));
        }
        Ok(())
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> From<[(K, V); N]> for Env {
    fn from(pairs: [(K, V); N]) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// Bytes of one environment: the session's own limit and room for what a request adds.
pub const ENV_BYTES: usize = 2 * wharf_domain::limits::ENV_BYTES;

/// Bytes as base64 (RFC 4648, with padding).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct B64(pub Vec<u8>);

impl fmt::Debug for B64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "B64({} bytes)", self.0.len())
    }
}

impl Serialize for B64 {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for B64 {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(input)?;
        STANDARD
            .decode(text.as_bytes())
            .map(Self)
            .map_err(|e| serde::de::Error::custom(format!("not base64: {e}")))
    }
}

/// A piece of output: `text` when the bytes are UTF-8, else `b64`. Exactly one is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b64: Option<B64>,
}

impl Piece {
    pub fn into_bytes(self) -> Vec<u8> {
        match (self.b64, self.text) {
            (Some(b64), _) => b64.0,
            (None, text) => text.unwrap_or_default().into_bytes(),
        }
    }
}

impl From<Vec<u8>> for Piece {
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self { text: Some(text), b64: None },
            Err(e) => Self { text: None, b64: Some(B64(e.into_bytes())) },
        }
    }
}

/// `GET /health`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// Drawn at random when the host started: another value means another host.
    pub incarnation: String,
    /// None in a jail that nobody has claimed yet.
    pub session: Option<SessionId>,
    pub uptime_ms: u64,
    /// The turn that is running, by its key.
    pub turn: Option<String>,
    pub version: String,
}

/// `POST /identity`: who this jail is from now on. Once per jail; the same again is accepted, another refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub session: SessionId,
    /// What `$HOSTNAME` says, and the kernel where the jail may set it.
    pub hostname: String,
    /// Given to everything that runs in the session; a request's own variables win.
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    pub env: Env,
    /// Agents of the session, told to every agent when it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentName>,
    /// Told to every agent when it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    #[serde(default)]
    pub limits: SessionLimits,
    /// Certificate (PEM) of the space's own authority, for the session's trust store. May be handed over again, changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentName {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What the host itself holds a session to. Absent: the built-in limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec_timeout_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_timeout_seconds: Option<u32>,
}

/// Answer to `POST /identity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// False when the same identity had been handed over before.
    pub first: bool,
    /// False when the jail may not set its own host name; processes still see it in `$HOSTNAME`.
    pub hostname_set: bool,
}

/// `GET /stats`: the host and everything below it, as seen inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub processes: u64,
    pub threads: u64,
    /// Resident bytes summed over processes; shared pages count once per process.
    pub rss_bytes: u64,
    pub host_rss_bytes: u64,
    /// User and system time of living processes.
    pub cpu_ms: u64,
    /// Descriptors the host holds open.
    pub host_fds: u64,
    pub uptime_ms: u64,
}

/// `GET /ports`: one listening TCP socket of the session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    pub port: u16,
    pub address: std::net::IpAddr,
    pub uid: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ports {
    pub ports: Vec<Port>,
}

/// The protocol token that turns `GET /ports/{port}` into a byte tunnel to that port on loopback.
pub const TUNNEL_PROTOCOL: &str = "wharf-tunnel";
/// Media type of a stream of JSON events, one a line.
pub const NDJSON: &str = "application/x-ndjson";

#[cfg(test)]
mod tests;
