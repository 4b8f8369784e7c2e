//! What of a session's requests gets a credential, and where in the request it is put.
//!
//! Paths are compared as the upstream will understand them: a path that could mean another one to somebody (dots that are
//! written as `%2e`, say) matches nothing.

use super::{Pattern, Target};
use crate::ssh::{self, HostKey};
use crate::{Code, Error};

/// Which requests a connection is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub host: Pattern,
    /// Upper case; none means every method.
    pub methods: Vec<String>,
    /// Begins with a slash, in its normal form.
    pub path_prefix: Option<String>,
}

/// Where the credential is put. It replaces what the client put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A header: `prefix` (as `Bearer `) and the secret.
    Header { name: String, prefix: String },
    /// A parameter of the query.
    Query { name: String },
    /// `Authorization: Basic`, with this user and the secret as its password.
    Basic { user: String },
    /// git over ssh: the secret is a private key, and no part of any request.
    Ssh(Ssh),
}

/// How an ssh server is spoken to with a connection's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    /// Who logs in; whom the address names when absent.
    pub user: Option<String>,
    /// What the server is known by. With none nobody logs in, and the answer says which key the server has.
    pub host_keys: Vec<HostKey>,
    /// Whether pushes are let out too.
    pub push: bool,
}

/// Keys of one server.
const HOST_KEYS: usize = 16;

/// Methods of one connection, and characters of a path prefix, of a name or a prefix in a header.
const METHODS: usize = 16;
const PATH: usize = 1024;
const WORD: usize = 128;

/// Headers that frame a message or belong to one hop.
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn refuse(field: &str, detail: impl Into<String>) -> Error {
    Error::new(Code::InvalidField, detail).field(field)
}

/// A token of RFC 9110: names of methods and headers.
fn token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= WORD
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

impl Match {
    pub fn new(host: Pattern, methods: Vec<String>, path_prefix: Option<String>) -> Result<Self, Error> {
        if methods.len() > METHODS {
            return Err(refuse("match.methods", format!("up to {METHODS} methods can be named")));
        }
        let mut upper: Vec<String> = methods.iter().map(|m| m.to_ascii_uppercase()).collect();
        if let Some(wrong) = upper.iter().find(|m| !token(m) || matches!(m.as_str(), "CONNECT" | "TRACE")) {
            let shown: String = wrong.chars().take(40).collect();
            return Err(refuse("match.methods", format!("{shown:?} is not a method that can be matched")));
        }
        upper.sort_unstable();
        upper.dedup();
        let path_prefix = path_prefix.filter(|p| p != "/");
        if let Some(prefix) = &path_prefix {
            if !prefix.starts_with('/') || prefix.len() > PATH {
                return Err(refuse(
                    "match.path_prefix",
                    format!("a path prefix begins with a slash and has up to {PATH} characters"),
                ));
            }
            if prefix.contains(['?', '#']) || normal(prefix).as_deref() != Some(prefix) {
                return Err(refuse(
                    "match.path_prefix",
                    "write the path without query, without . and .. and without escapes it does not need",
                ));
            }
        }
        Ok(Self { host, methods: upper, path_prefix })
    }

    /// Whether requests to the host may be meant at all: such a host's TLS ends at the gateway.
    pub fn host_matches(&self, target: &Target) -> bool {
        self.host.matches(target)
    }

    /// Whether a request to a host that matches gets the credential. `path` as it is sent, without its query.
    pub fn covers(&self, method: &str, path: &str) -> bool {
        if method == "TRACE" || !(self.methods.is_empty() || self.methods.iter().any(|m| m == method)) {
            return false;
        }
        let Some(prefix) = &self.path_prefix else { return true };
        normal(path).is_some_and(|path| begins(&path, prefix))
    }

    /// Whether an ssh server is meant.
    pub fn matches_ssh(&self, target: &Target) -> bool {
        self.host.matches_with(target, ssh::PORT)
    }

    /// Whether a repository at an ssh server is covered, with and without a slash before its path. A path that steps up
    /// matches no prefix.
    pub fn covers_repository(&self, path: &str) -> bool {
        let Some(prefix) = &self.path_prefix else { return true };
        let path = format!("/{}", path.trim_start_matches('/'));
        !winding(path.as_bytes()) && begins(&path, prefix)
    }

    /// Which of several that cover a request is taken: the narrowest.
    pub fn rank(&self) -> (impl Ord + use<>, usize, bool) {
        (self.host.rank(), self.path_prefix.as_ref().map_or(0, String::len), !self.methods.is_empty())
    }
}

/// At a border of segments: /acme is not the beginning of /acme-evil.
fn begins(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

impl Placement {
    /// Refuses a rule that this placement could not keep.
    pub fn check(&self, rule: &Match) -> Result<(), Error> {
        if matches!(self, Self::Ssh(_)) && !rule.methods.is_empty() {
            return Err(refuse(
                "match.methods",
                "git over ssh has no methods: it fetches, and pushes where inject.ssh.push says so",
            ));
        }
        Ok(())
    }

    pub fn ssh(user: Option<String>, mut host_keys: Vec<HostKey>, push: bool) -> Result<Self, Error> {
        if let Some(user) = &user {
            ssh::check_user(user).map_err(|e| e.field("inject.ssh.user"))?;
        }
        if host_keys.len() > HOST_KEYS {
            let detail = format!("up to {HOST_KEYS} keys of a server can be named");
            return Err(refuse("inject.ssh.host_keys", detail));
        }
        host_keys.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        host_keys.dedup();
        Ok(Self::Ssh(Ssh { user, host_keys, push }))
    }

    /// How its ssh server is spoken to, where it has one.
    pub fn as_ssh(&self) -> Option<&Ssh> {
        match self {
            Self::Ssh(ssh) => Some(ssh),
            _ => None,
        }
    }

    pub fn header(name: &str, prefix: String) -> Result<Self, Error> {
        let name = name.to_ascii_lowercase();
        if !token(&name) {
            return Err(refuse("inject.header", "that is not the name of a header"));
        }
        if FRAMING.contains(&name.as_str()) {
            return Err(refuse(
                "inject.header",
                format!("{name} frames a message or belongs to one hop; a credential cannot stand there"),
            ));
        }
        if prefix.len() > WORD || !prefix.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(refuse(
                "inject.prefix",
                format!("a prefix has up to {WORD} printable ASCII characters, as in \"Bearer \""),
            ));
        }
        Ok(Self::Header { name, prefix })
    }

    pub fn query(name: String) -> Result<Self, Error> {
        if name.is_empty() || name.len() > WORD || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(refuse(
                "inject.query",
                format!("the name of a parameter has 1 to {WORD} printable ASCII characters"),
            ));
        }
        Ok(Self::Query { name })
    }

    pub fn basic(user: String) -> Result<Self, Error> {
        if user.len() > WORD || user.contains(':') || user.chars().any(char::is_control) {
            return Err(refuse(
                "inject.basic",
                format!("a user name has up to {WORD} characters, no colon and no control characters"),
            ));
        }
        Ok(Self::Basic { user })
    }
}

fn upper_hex(digit: u8) -> char {
    char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase()
}

fn hex(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|d| d as u8)
}

/// Takes escapes away once.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut i = 0;
    while i < path.len() {
        let escape = match path[i..] {
            [b'%', a, b, ..] => hex(a).zip(hex(b)).map(|(a, b)| a << 4 | b),
            _ => None,
        };
        out.push(escape.unwrap_or(path[i]));
        i += if escape.is_some() { 3 } else { 1 };
    }
    out
}

/// Whether a reader could take a part of the path for a step up or for nothing.
fn winding(path: &[u8]) -> bool {
    path.split(|b| matches!(b, b'/' | b'\\')).any(|part| {
        let name = part.split(|b| *b == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    }) || path.iter().any(|b| *b < b' ' || *b == 0x7f)
}

/// The path with escapes it does not need taken away; `None` where it could mean another path to somebody.
pub fn normal(path: &str) -> Option<String> {
    let mut seen = path.as_bytes().to_vec();
    // Readers behind readers take escapes away more than once.
    for _ in 0..4 {
        if winding(&seen) {
            return None;
        }
        let next = decoded(&seen);
        if next == seen {
            break;
        }
        seen = next;
    }
    if winding(&seen) {
        return None;
    }
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut i = 0;
    while i < bytes.len() {
        if let [b'%', a, b, ..] = bytes[i..]
            && let Some((a, b)) = hex(a).zip(hex(b))
        {
            let byte = a << 4 | b;
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(byte as char);
            } else {
                out.push('%');
                out.push(upper_hex(byte >> 4));
                out.push(upper_hex(byte & 15));
            }
            i += 3;
        } else if bytes[i].is_ascii() {
            out.push(bytes[i] as char);
            i += 1;
        } else {
            return None;
        }
    }
    Some(out)
}
