//! Where a provider is and which header opens it, checked once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::egress::Target;
use crate::error::{Code, Error};

/// `http` or `https`, a host, perhaps a port and a path: no user, no query, no trailing slash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^https?://[^ /?#@]+(/[^ ?#]*)?$", max_length = 2048, example = "https://api.anthropic.com")]
pub struct BaseUrl(String);

impl BaseUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn tls(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// Host and, where one is given, port.
    pub fn authority(&self) -> &str {
        self.split().0
    }

    /// Begins with `/`, or is empty.
    pub fn path(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        rest.split_at(rest.find('/').unwrap_or(rest.len()))
    }
}

impl FromStr for BaseUrl {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let trimmed = s.trim_end_matches('/');
        let rest = trimmed.strip_prefix("https://").or_else(|| trimmed.strip_prefix("http://"));
        let fits = rest.is_some_and(|rest| {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            s.len() <= 2048
                && Target::parse(authority, Some(443)).is_ok()
                && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&b))
                && !path.split('/').any(|part| part == ".." || part == ".")
        });
        if fits { Ok(Self(trimmed.to_owned())) } else { Err(refuse(s)) }
    }
}

fn refuse(s: &str) -> Error {
    let shown: String = s.chars().take(80).collect();
    let detail = format!(
        "{shown:?} is no base URL: write https://HOST[:PORT][/PATH] (or http://), without user, query or fragment"
    );
    Error::new(Code::InvalidField, detail).field("base_url")
}

impl TryFrom<String> for BaseUrl {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl From<BaseUrl> for String {
    fn from(u: BaseUrl) -> Self {
        u.0
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A header's name in lower case (a token of RFC 9110).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$", example = "x-api-key")]
pub struct HeaderName(String);

/// Headers that the connection or the gateway decides.
const OWNED: [&str; 14] = [
    "connection",
    "content-length",
    "content-encoding",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "accept-encoding",
];

/// Headers that carry keys: values of extra headers are shown to whoever may look at the provider.
const KEYS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

impl HeaderName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Refuses a name that no extra header may have.
    pub(super) fn extra(&self) -> Result<(), Error> {
        if KEYS.contains(&self.as_str()) {
            let detail = format!(
                "{self} carries a key: keep it in a secret, name that as `secret`, and set `key_header`"
            );
            return Err(Error::new(Code::InvalidField, detail).field("headers"));
        }
        if OWNED.contains(&self.as_str()) {
            let detail = format!("{self} is for the connection to decide; leave it out");
            return Err(Error::new(Code::InvalidField, detail).field("headers"));
        }
        Ok(())
    }
}

impl FromStr for HeaderName {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let fits = (1..=64).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if fits {
            return Ok(Self(s.to_ascii_lowercase()));
        }
        let shown: String = s.chars().take(80).collect();
        let detail = format!("{shown:?} is no header name: use 1 to 64 letters, digits and '-'");
        Err(Error::new(Code::InvalidField, detail))
    }
}

impl TryFrom<String> for HeaderName {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl From<HeaderName> for String {
    fn from(h: HeaderName) -> Self {
        h.0
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
