//! Patterns of hosts: `pypi.org`, `*.debian.org`, either with a port.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Target;
use super::host::{Host, port_of, split_port};
use crate::{Code, Error};

/// Ports a pattern means when it names none.
const WEB: [u16; 2] = [80, 443];

/// One host, or (`*.`) every name below one, on one port or on 80 and 443.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, max_length = 270, example = "*.debian.org")]
pub struct Pattern(Parts);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Parts {
    host: Host,
    /// Names below the host, and not the host itself.
    below: bool,
    port: Option<u16>,
}

impl Pattern {
    pub fn matches(&self, target: &Target) -> bool {
        self.matches_port(target.port) && self.matches_host(&target.host)
    }

    pub fn matches_host(&self, host: &Host) -> bool {
        if !self.0.below {
            return self.0.host == *host;
        }
        match (&self.0.host, host) {
            (Host::Name(parent), Host::Name(name)) => {
                name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            _ => false,
        }
    }

    pub fn matches_port(&self, port: u16) -> bool {
        self.0.port.map_or_else(|| WEB.contains(&port), |p| p == port)
    }

    /// Where another port than those of the web is meant by a pattern that names none.
    pub fn matches_with(&self, target: &Target, usual: u16) -> bool {
        self.matches_host(&target.host) && self.0.port.unwrap_or(usual) == target.port
    }

    /// For what must not slip through: a pattern that names no port means all of them.
    pub fn matches_any_port(&self, target: &Target) -> bool {
        self.matches_host(&target.host) && self.0.port.is_none_or(|p| p == target.port)
    }

    /// Whether everything it means the other means as well.
    pub fn within(&self, wider: &Self) -> bool {
        let (own, other) = (&self.0, &wider.0);
        let ports = match (own.port, other.port) {
            (_, None) => own.port.is_none_or(|p| WEB.contains(&p)),
            (own, wanted) => own == wanted,
        };
        let hosts = (own.host == other.host && own.below == other.below)
            || (other.below && wider.matches_host(&own.host));
        ports && hosts
    }

    /// How narrow it is: a host before a wildcard, a longer wildcard before a shorter, a port before none.
    pub fn rank(&self) -> (bool, usize, bool) {
        let length = self.0.host.name().map_or(usize::MAX, str::len);
        (!self.0.below, length, self.0.port.is_some())
    }
}

fn refuse(text: &str, why: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::new(
        Code::InvalidField,
        format!(
            "{shown:?} is not a pattern of hosts: {why}; write pypi.org, *.debian.org or example.org:8443"
        ),
    )
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.contains("://") || text.contains('/') {
            return Err(refuse(text, "it is a host alone, without scheme and path"));
        }
        if text.contains('@') {
            return Err(refuse(text, "user names do not belong there"));
        }
        if text == "*" {
            return Err(refuse(text, "a star alone would be every host, which is what egress open says"));
        }
        // An IPv6 address alone needs no brackets here: no port can be meant.
        let bare = text.parse::<std::net::Ipv6Addr>().is_ok();
        let (host, port) = if bare { (text, None) } else { split_port(text)? };
        let port = match port {
            None => None,
            Some(digits) => {
                Some(port_of(digits).ok_or_else(|| refuse(text, "its port is not one of 1 to 65535"))?)
            }
        };
        let (host, below) = host.strip_prefix("*.").map_or((host, false), |rest| (rest, true));
        if host.contains('*') {
            return Err(refuse(text, "a star stands only at its beginning, before a dot"));
        }
        let host: Host = host.parse().map_err(|e: Error| refuse(text, &reason(&e.public)))?;
        if below && host.name().is_none() {
            return Err(refuse(text, "there is nothing below an address"));
        }
        Ok(Self(Parts { host, below, port }))
    }
}

/// What the host's own error says after its colon.
fn reason(text: &str) -> String {
    text.split_once(" is not a host: ").map_or(text, |(_, why)| why).to_owned()
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.below {
            f.write_str("*.")?;
        }
        self.0.host.fmt(f)?;
        self.0.port.map_or(Ok(()), |p| write!(f, ":{p}"))
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}
