//! Addresses of git repositories as people write them, and what is fetched for them.
//!
//! A build fetches over HTTP, where the gateway can add the credential of a connection: nothing in the build's computer is
//! worth stealing then. An ssh address is fetched from the same host over https, which every forge offers beside it. Refuses
//! credentials in an address: addresses are shown and kept.

#[cfg(test)]
mod tests;

use std::str::FromStr;

use crate::egress::Pattern;
use crate::{Code, Error};

/// Bytes of an address.
const BYTES: usize = 2048;

/// A repository somewhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// What is given to git: an address that begins with `https://` or `http://`.
    pub fetch: String,
    /// What a session must be allowed to reach for it.
    pub host: Pattern,
}

const EXPECTED: &str = "a repository is named by its https:// or http:// address, or by an ssh one such as git@example.com:team/agent.git";

fn refuse<T>(detail: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(Code::InvalidField, detail))
}

impl FromStr for Remote {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > BYTES || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return refuse(format!("an address has up to {BYTES} bytes and no blanks"));
        }
        if text.contains(['?', '#', '\\']) {
            return refuse(
                "an address of a repository has no `?`, `#` or `\\`; a branch, tag or commit is its ref",
            );
        }
        if let Some((scheme @ ("https" | "http"), rest)) = text.split_once("://") {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            if host.contains('@') {
                return refuse(
                    "the address names a host and no credential: connections of the space bring that",
                );
            }
            return Self::at(scheme, host, path);
        }
        let (login, path) = if let Some(rest) = text.strip_prefix("ssh://") {
            rest.split_once('/').unwrap_or((rest, ""))
        } else if text.contains("://") {
            return refuse(EXPECTED);
        } else {
            // `user@host:path`, as scp has it; with a slash before the colon it is a path of some machine.
            match text.split_once(':') {
                Some((login, path)) if !login.contains('/') && !login.is_empty() => (login, path),
                _ => return refuse(EXPECTED),
            }
        };
        let (user, host) = login.split_once('@').unwrap_or(("", login));
        if user.contains(':') {
            return refuse("the address names a host and no password: connections of the space bring that");
        }
        // The port is that of the ssh server.
        let host = if text.starts_with("ssh://") { host.split(':').next().unwrap_or(host) } else { host };
        Self::at("https", host, path.trim_start_matches('/'))
    }
}

impl Remote {
    fn at(scheme: &str, host: &str, path: &str) -> Result<Self, Error> {
        if host.is_empty() || host.contains('*') || path.trim_matches('/').is_empty() {
            return refuse(EXPECTED);
        }
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        // A pattern without a port is one of both usual ports; this is about one.
        let port = port.unwrap_or(if scheme == "http" { "80" } else { "443" });
        let pattern = format!("{name}:{port}").parse()?;
        Ok(Self { fetch: format!("{scheme}://{host}/{path}"), host: pattern })
    }
}

/// Refuses what is no branch, tag or commit, or what git could take for an option.
pub fn check_ref(text: &str) -> Result<(), Error> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
    if text.is_empty()
        || text.len() > 255
        || text.starts_with('-')
        || text.contains(odd)
        || text.contains("..")
    {
        return refuse("a ref is a branch, a tag or a commit");
    }
    Ok(())
}
