//! git over ssh, as far as it is let out of a session: which services, of which path, at a server that is known by its key.
//!
//! A shell stands at the other end of every command, so a command is built from parts here and never passed through. Refuses
//! what is none of git's services, and paths that a shell or git could take for something else.

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{Code, Error};

/// The port of ssh servers.
pub const PORT: u16 = 22;
/// Bytes of a repository's path, of a user's name, and of a word that names a version of git's protocol.
const PATH: usize = 2048;
const USER: usize = 64;
const PROTOCOL: usize = 64;
/// Bytes of a line that names a server's key: RSA keys of 16384 bits have less.
const LINE: usize = 4096;

fn refuse<T>(detail: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(Code::InvalidField, detail))
}

/// What git asks a server for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Service {
    /// Fetch and clone.
    #[serde(rename = "git-upload-pack")]
    UploadPack,
    /// Push.
    #[serde(rename = "git-receive-pack")]
    ReceivePack,
    /// `git archive --remote`.
    #[serde(rename = "git-upload-archive")]
    UploadArchive,
}

impl Service {
    pub const ALL: [Self; 3] = [Self::UploadPack, Self::ReceivePack, Self::UploadArchive];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
            Self::UploadArchive => "git-upload-archive",
        }
    }

    /// Whether it changes the repository.
    pub const fn writes(self) -> bool {
        matches!(self, Self::ReceivePack)
    }
}

/// Refuses what is no path of a repository.
pub fn check_path(path: &str) -> Result<(), Error> {
    if path.is_empty() || path.len() > PATH {
        return refuse(format!("the path of a repository has 1 to {PATH} bytes"));
    }
    if path.chars().any(char::is_control) {
        return refuse("the path of a repository has no control characters");
    }
    if path.starts_with('-') {
        return refuse("the path of a repository does not begin with -, which is how options begin");
    }
    Ok(())
}

/// Refuses what no ssh server has for a user of git's.
pub fn check_user(user: &str) -> Result<(), Error> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-+@".contains(&b);
    if user.is_empty() || user.len() > USER || user.starts_with('-') || !user.bytes().all(fits) {
        return refuse(format!(
            "a user of an ssh server has 1 to {USER} letters, digits, `.`, `_`, `-`, `+` and `@`, and does not begin with `-`"
        ));
    }
    Ok(())
}

/// Refuses what is no wish for a version of git's protocol (`version=2`).
pub fn check_protocol(text: &str) -> Result<(), Error> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"=:.-".contains(&b);
    if text.is_empty() || text.len() > PROTOCOL || !text.bytes().all(fits) {
        return refuse("GIT_PROTOCOL is words like version=2, with colons between them");
    }
    Ok(())
}

/// What is run at the server: the service and its path, in quotes that every shell reads the same way.
pub fn command(service: Service, path: &str) -> Result<String, Error> {
    check_path(path)?;
    let mut quoted = String::with_capacity(path.len() + 32);
    quoted.push_str(service.as_str());
    quoted.push_str(" '");
    for c in path.chars() {
        // `!` is history to some shells, even in quotes.
        if matches!(c, '\'' | '!') {
            quoted.push_str("'\\");
            quoted.push(c);
            quoted.push('\'');
        } else {
            quoted.push(c);
        }
    }
    quoted.push('\'');
    Ok(quoted)
}

/// Reads the command that git gives its ssh program.
pub fn read_command(text: &str) -> Result<(Service, String), Error> {
    let named = |s: &Service| text.strip_prefix(s.as_str()).and_then(|rest| rest.strip_prefix(' '));
    let found = Service::ALL.into_iter().find_map(|s| named(&s).map(|rest| (s, rest)));
    let Some((service, rest)) = found else {
        let first: String = text.split(' ').next().unwrap_or_default().chars().take(60).collect();
        return refuse(format!(
            "{first:?} is not let out: over ssh a session reaches git-upload-pack, git-receive-pack and git-upload-archive, and no \
             shell or other program"
        ));
    };
    let path = unquoted(rest).map_or_else(
        || refuse(format!("behind {} stands one path in single quotes, and nothing else", service.as_str())),
        Ok,
    )?;
    check_path(&path)?;
    Ok((service, path))
}

/// One word in single quotes, as git and [`command`] write it.
fn unquoted(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.strip_prefix('\'')?;
    loop {
        let (inside, behind) = rest.split_once('\'')?;
        out.push_str(inside);
        if behind.is_empty() {
            return Some(out);
        }
        let mut escaped = behind.strip_prefix('\\')?.chars();
        out.push(escaped.next().filter(|c| matches!(c, '\'' | '!'))?);
        rest = escaped.as_str().strip_prefix('\'')?;
    }
}

/// Keys a server may have. DSA is broken, and security keys are for people.
const KINDS: [&str; 5] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

/// A key a server is known by: the key itself (`ssh-ed25519 AAAA…`) or its fingerprint (`SHA256:…`).
///
/// Read from a line of `known_hosts` or `ssh-keyscan` too; the host and the comment there are left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, max_length = 4096, example = "SHA256:uNiVztksCsDhcc0u9e8BrYVkQRUbP44JJkIRT8v0GdQ")]
pub struct HostKey(String);

impl HostKey {
    /// Whether it is this key. `key` is its kind and itself, `fingerprint` begins with `SHA256:`.
    pub fn is(&self, key: &str, fingerprint: &str) -> bool {
        self.0 == key || self.0 == fingerprint
    }

    /// The kind of key, where more than a fingerprint is known.
    pub fn kind(&self) -> Option<&str> {
        self.0.split_once(' ').map(|(kind, _)| kind)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const HOW: &str =
            "write SHA256:… as `ssh-keygen -l` shows it, or a line of `ssh-keyscan HOST` (ssh-ed25519 AAAA…)";
        let text = text.trim();
        if text.is_empty() || text.len() > LINE || text.chars().any(char::is_control) {
            return refuse(format!("a key of a server is one line of up to {LINE} bytes; {HOW}"));
        }
        if let Some(digest) = text.strip_prefix("SHA256:") {
            let digest = digest.trim_end_matches('=');
            return match STANDARD_NO_PAD.decode(digest) {
                Ok(bytes) if bytes.len() == 32 => Ok(Self(format!("SHA256:{digest}"))),
                _ => refuse(format!(
                    "that is not a SHA-256 fingerprint: it has 43 characters behind SHA256:; {HOW}"
                )),
            };
        }
        if text.starts_with("MD5:") {
            return refuse(format!("fingerprints of MD5 prove nothing any more; {HOW}"));
        }
        if text.starts_with('@') {
            return refuse(format!(
                "certificates of hosts (@cert-authority) and revoked keys are not read; {HOW}"
            ));
        }
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        // In `known_hosts` the hosts stand first.
        let Some(at) = words.iter().take(2).position(|w| KINDS.contains(w)) else {
            return refuse(format!("that is no key of a server; it is one of {}; {HOW}", KINDS.join(", ")));
        };
        let (kind, blob) = (words[at], words.get(at + 1).copied().unwrap_or_default());
        match STANDARD.decode(blob).ok().filter(|blob| whole(blob, kind)) {
            Some(_) => Ok(Self(format!("{kind} {blob}"))),
            None => refuse(format!("the key behind {kind} is not whole; {HOW}")),
        }
    }
}

/// Whether a key's bytes say its kind and end where they should: a key that lost something on its way is nobody's.
fn whole(blob: &[u8], kind: &str) -> bool {
    let mut rest = blob;
    let mut parts = 0;
    while !rest.is_empty() {
        let Some((length, behind)) = rest.split_first_chunk::<4>() else { return false };
        let Some((part, behind)) = behind.split_at_checked(u32::from_be_bytes(*length) as usize) else {
            return false;
        };
        if parts == 0 && part != kind.as_bytes() {
            return false;
        }
        parts += 1;
        rest = behind;
    }
    parts >= 2
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HostKey {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<HostKey> for String {
    fn from(key: HostKey) -> Self {
        key.0
    }
}
