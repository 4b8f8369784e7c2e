//! Host names of ports: `{port}-{session}.{space}.{domain}`, so that what runs in one session is an origin of its own.
//!
//! The pattern is one setting, `https://*.ports.example.com`: the scheme browsers use, the domain, and a port where it is
//! not the scheme's own. Names of DNS have 63 characters: a session whose name leaves no room for the port goes by its id.

use std::fmt;
use std::str::FromStr;

use crate::error::{Code, Error};
use crate::id::{SessionId, SpaceId};
use crate::name::{Name, NameOrId};

/// Longest label of DNS (RFC 1035).
const LABEL: usize = 63;

/// Where ports have their host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortHosts {
    https: bool,
    domain: String,
    port: Option<u16>,
}

/// What a host name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortHost {
    pub port: u16,
    pub session: NameOrId<SessionId>,
    pub space: NameOrId<SpaceId>,
}

fn refuse(text: &str, why: &str) -> Error {
    let shown: String = text.chars().take(120).collect();
    Error::new(
        Code::InvalidField,
        format!(
            "{shown:?} is not a pattern of host names: {why}; write it as https://*.ports.example.com or http://*.localhost:7878"
        ),
    )
}

impl FromStr for PortHosts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (https, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(refuse(text, "it begins with neither https:// nor http://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let rest = rest
            .strip_prefix("*.")
            .ok_or_else(|| refuse(text, "no `*.` stands where session and space go"))?;
        let (domain, port) = match rest.split_once(':') {
            None => (rest, None),
            Some((domain, port)) => {
                let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
                let port = port.parse::<u16>().ok().filter(|p| digits && *p > 0);
                (domain, Some(port.ok_or_else(|| refuse(text, "what follows the colon is no port"))?))
            }
        };
        let label = |l: &str| l.parse::<Name>().is_ok();
        if domain.len() > 120 || !domain.split('.').all(label) {
            return Err(refuse(text, "the domain is not made of lower-case labels with dots between them"));
        }
        let port = port.filter(|p| *p != if https { 443 } else { 80 });
        Ok(Self { https, domain: domain.to_owned(), port })
    }
}

impl PortHosts {
    /// Browsers come by https.
    pub fn https(&self) -> bool {
        self.https
    }

    /// The pattern as certificates and name servers know it.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Whether a `Host` header is below the domain, whatever stands before it.
    pub fn covers(&self, host: &str) -> bool {
        self.below(host).is_some()
    }

    /// What stands before the domain.
    fn below<'h>(&self, host: &'h str) -> Option<&'h str> {
        let host = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let at = host.len().checked_sub(self.domain.len())?;
        let (below, domain) = (host.get(..at)?, host.get(at..)?);
        let below = below.strip_suffix('.')?;
        (domain.eq_ignore_ascii_case(&self.domain) && !below.is_empty()).then_some(below)
    }

    /// What a `Host` header stands for; `None` when it is none of ours.
    pub fn read(&self, host: &str) -> Option<PortHost> {
        let below = self.below(host)?.to_ascii_lowercase();
        let (first, space) = below.split_once('.')?;
        let (port, session) = first.split_once('-')?;
        let plain = !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|p: &u16| plain && *p > 0)?;
        Some(PortHost { port, session: session.parse().ok()?, space: space.parse().ok()? })
    }

    /// The host name of a port.
    pub fn host(&self, port: u16, session: (&Name, SessionId), space: &Name) -> String {
        let label = format!("{port}-{}", session.0);
        let label = if label.len() <= LABEL { label } else { format!("{port}-{}", session.1) };
        format!("{label}.{space}.{}", self.domain)
    }

    /// The origin of a host name: scheme, host and port, as browsers write it.
    pub fn origin(&self, host: &str) -> String {
        let scheme = if self.https { "https" } else { "http" };
        match self.port {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        }
    }
}

impl fmt::Display for PortHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin(&format!("*.{}", self.domain)))
    }
}

#[cfg(test)]
mod tests;
