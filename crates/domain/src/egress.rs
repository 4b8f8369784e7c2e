//! What a session may reach: hosts, patterns of hosts, the policy made of them, and the addresses nobody may reach.
//!
//! Names are judged here before they are resolved, addresses (in [`address`]) after. Refuses what two readers could
//! understand differently: numbers that only some programs take for an address, names that are not in their ASCII form.

pub mod address;
mod host;
mod pattern;
pub mod rule;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use host::{Host, Target};
pub use pattern::Pattern;

use crate::{Code, Error, limits};

/// Ways out of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// None: there is only loopback, and Wharf's own gateway.
    #[default]
    None,
    /// The hosts listed in `allow`.
    Allowlist,
    /// Every host whose address is public.
    Open,
}

impl Egress {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Allowlist => "allowlist",
            Self::Open => "open",
        }
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The egress policy of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    #[serde(default)]
    pub egress: Egress,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Pattern>,
}

impl Policy {
    /// Refuses a list that would not be looked at, and one that is too long.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |text: String| Err(Error::new(Code::InvalidField, text).field("network.allow"));
        if self.egress != Egress::Allowlist && !self.allow.is_empty() {
            return refuse(format!(
                "a list of hosts counts only with egress allowlist, and egress is {}; set it to allowlist or leave the list out",
                self.egress
            ));
        }
        if self.allow.len() > limits::EGRESS_PATTERNS {
            return refuse(format!(
                "{} patterns are too many; up to {} are allowed (EGRESS_PATTERNS)",
                self.allow.len(),
                limits::EGRESS_PATTERNS
            ));
        }
        Ok(())
    }

    /// Whether the name may be looked up and its address dialled; what to change where not.
    pub fn judge(&self, target: &Target) -> Result<(), String> {
        match self.egress {
            Egress::Open => Ok(()),
            Egress::None => Err(format!(
                "{target} is refused: the session's egress is none; set its network.egress to allowlist with {} in network.allow, \
                 or to open",
                target.suggestion()
            )),
            Egress::Allowlist if self.allow.iter().any(|p| p.matches(target)) => Ok(()),
            Egress::Allowlist => Err(format!(
                "{target} is refused: the session's egress is allowlist and no pattern of it matches; add {} to its network.allow",
                target.suggestion()
            )),
        }
    }
}
