//! A host as requests name it: a DNS name in its ASCII form or a literal address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::{Code, Error};

/// Bytes of a DNS name (RFC 1035) and of one label of it.
const NAME: usize = 253;
const LABEL: usize = 63;

/// A host: lower case, no dot at its end, addresses in their one canonical form and without brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    Name(String),
    Address(IpAddr),
}

fn refuse(text: &str, why: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::new(Code::InvalidField, format!("{shown:?} is not a host: {why}"))
}

impl Host {
    /// The name, where it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }

    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Address(address) => Some(*address),
        }
    }
}

/// The canonical address: one that stands for an IPv4 address inside IPv6 is that IPv4 address.
fn canonical(address: Ipv6Addr) -> IpAddr {
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or_else(|| refuse(text, "its bracket is not closed"))?;
            let address: Ipv6Addr =
                inner.parse().map_err(|_| refuse(text, "there is no IPv6 address in its brackets"))?;
            return Ok(Self::Address(canonical(address)));
        }
        if text.contains(':') {
            let address: Ipv6Addr =
                text.parse().map_err(|_| refuse(text, "it holds a colon and is no IPv6 address"))?;
            return Ok(Self::Address(canonical(address)));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return Err(refuse(text, "it is empty"));
        }
        if !name.is_ascii() {
            return Err(refuse(text, "write the name in its ASCII form (xn--…)"));
        }
        if name.len() > NAME {
            return Err(refuse(text, "names have up to 253 characters"));
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > LABEL {
                return Err(refuse(text, "parts of a name have 1 to 63 characters"));
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
                return Err(refuse(text, "names are made of letters, digits, - and _"));
            }
        }
        // Resolvers take names that end in a number for an address, and do not agree which: only the one form is taken.
        let last = name.rsplit('.').next().unwrap_or_default();
        let hex = last.strip_prefix("0x").is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        if hex || last.bytes().all(|b| b.is_ascii_digit()) {
            let address: Ipv4Addr = name
                .parse()
                .map_err(|_| refuse(text, "it ends in a number and is not an address like 192.0.2.1"))?;
            return Ok(Self::Address(address.into()));
        }
        Ok(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Host and port: where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub host: Host,
    pub port: u16,
}

impl Target {
    pub fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }

    /// `host:port`, or `host` where `port` says what is meant without one.
    pub fn parse(text: &str, default: Option<u16>) -> Result<Self, Error> {
        if text.contains('@') {
            return Err(refuse(text, "user names and passwords do not belong there"));
        }
        let (host, port) = split_port(text)?;
        let port = match port {
            Some(digits) => {
                port_of(digits).ok_or_else(|| refuse(text, "its port is not one of 1 to 65535"))?
            }
            None => default.ok_or_else(|| refuse(text, "it needs a port, as in example.org:443"))?,
        };
        Ok(Self { host: host.parse()?, port })
    }

    /// The pattern that would allow it.
    pub(super) fn suggestion(&self) -> String {
        if matches!(self.port, 80 | 443) { self.host.to_string() } else { self.to_string() }
    }
}

/// Digits only: `+80`, ` 80` and `0` are no ports.
pub(super) fn port_of(digits: &str) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|p| *p != 0)
}

/// Host and what follows its colon. An IPv6 address is in brackets where a port may follow.
pub(super) fn split_port(text: &str) -> Result<(&str, Option<&str>), Error> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or_else(|| refuse(text, "its bracket is not closed"))?;
        let (host, rest) = text.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(refuse(text, "something other than a port follows its bracket")),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Err(refuse(text, "IPv6 addresses stand in brackets")),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
