//! Addresses of git repositories as people write them, and what a build's computer must reach for them.
//!
//! A build fetches over HTTP or ssh, and the gateway adds the credential of a connection on the way: nothing in the build's
//! computer is worth stealing then. Refuses credentials in an address, since addresses are shown and kept, and addresses that
//! git would take for something else than a repository at a server.

#[cfg(test)]
mod tests;

use std::str::FromStr;

use crate::egress::Pattern;
use crate::{Code, Error, ssh};

/// Bytes of an address.
const BYTES: usize = 2048;

/// A repository somewhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// What is given to git.
    pub fetch: String,
    /// What a session must be allowed to reach for it.
    pub host: Pattern,
}

const EXPECTED: &str = "a repository is named by its https:// or http:// address, or by an ssh one: git@example.com:team/agent.git or \
     ssh://git@example.com:2222/team/agent.git";

const PASSWORD: &str = "the address names a host and no password: connections of the space bring a key";

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
        match text.split_once("://") {
            Some((scheme @ ("https" | "http"), rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                if host.contains('@') {
                    return refuse(
                        "the address names a host and no credential: connections of the space bring that",
                    );
                }
                Self::web(scheme, host, path)
            }
            Some(("ssh", rest)) => {
                let Some((login, path)) = rest.split_once('/') else { return refuse(EXPECTED) };
                Self::ssh(text, login, path)
            }
            Some(_) => refuse(EXPECTED),
            None => Self::scp(text),
        }
    }
}

impl Remote {
    fn web(scheme: &str, host: &str, path: &str) -> Result<Self, Error> {
        if host.is_empty() || host.contains('*') || path.trim_matches('/').is_empty() {
            return refuse(EXPECTED);
        }
        let host_pattern = one(host, if scheme == "http" { 80 } else { 443 })?;
        Ok(Self { fetch: format!("{scheme}://{host}/{path}"), host: host_pattern })
    }

    /// `user@host:path`, as scp has it; with a slash before the colon it is a path of some machine.
    fn scp(text: &str) -> Result<Self, Error> {
        // Behind the brackets of an address of version 6 its own colons are over.
        let from = text.find(']').unwrap_or(0);
        let Some(colon) = text[from..].find(':').map(|at| from + at) else { return refuse(EXPECTED) };
        let (login, path) = (&text[..colon], &text[colon + 1..]);
        if login.contains('/') {
            return refuse(EXPECTED);
        }
        // `helper::address` is run by git, not dialled.
        if path.starts_with(':') {
            return refuse(EXPECTED);
        }
        if !login.contains('@') && path.split('/').next().is_some_and(|first| first.contains('@')) {
            return refuse(PASSWORD);
        }
        let inside = login.rsplit('@').next().and_then(|h| h.strip_prefix('[')?.strip_suffix(']'));
        if inside.is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_err()) {
            return refuse(
                "a port stands in an address of the form ssh://git@example.com:2222/team/agent.git",
            );
        }
        Self::ssh(text, login, path)
    }

    /// What git is given stays as it was written: whether a path begins at a home or at the root is the server's to say.
    fn ssh(text: &str, login: &str, path: &str) -> Result<Self, Error> {
        let (user, host) = match login.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, login),
        };
        if let Some(user) = user {
            if user.contains(':') {
                return refuse(PASSWORD);
            }
            ssh::check_user(user)?;
        }
        if host.is_empty() || host.starts_with('-') || host.contains('*') || path.trim_matches('/').is_empty()
        {
            return refuse(EXPECTED);
        }
        ssh::check_path(path)?;
        Ok(Self { fetch: text.to_owned(), host: one(host, ssh::PORT)? })
    }
}

/// The pattern of one host on one port: without a port it would mean both of the web.
fn one(host: &str, usual: u16) -> Result<Pattern, Error> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.to_owned()),
        _ => (host, usual.to_string()),
    };
    format!("{name}:{port}").parse()
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
