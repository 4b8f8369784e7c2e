//! Branches of a repository and what protects them, as git itself would have their names (git-check-ref-format(1)).
//!
//! Refuses names git would refuse later, so that a setting never names a branch that cannot be.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};

/// Where branches lie among the refs.
pub const HEADS: &str = "refs/heads/";
/// Bytes of a branch's name: what a file system has room for, beside git's own additions.
const LONGEST: usize = 200;

/// A branch's name without `refs/heads/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 1, max_length = 200, example = "main")]
pub struct Branch(String);

/// One branch, or with `*` (any characters, `/` too) those that fit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 1, max_length = 200, example = "release/*")]
pub struct BranchPattern(String);

/// Why a text is no name of a branch.
fn wrong(name: &str, starred: bool) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > LONGEST {
        return Some("it is longer than 200 bytes");
    }
    if name.starts_with("refs/") {
        return Some("give the branch without refs/heads/");
    }
    if name.starts_with('-') || name == "@" || name == "HEAD" {
        return Some("git reads that as something else");
    }
    if name.chars().any(|c| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '[' | '\\')) {
        return Some("blanks, control characters and ~ ^ : ? [ \\ are not allowed");
    }
    if !starred && name.contains('*') {
        return Some("a * is only for patterns");
    }
    if name.contains("..") || name.contains("@{") || name.ends_with('.') {
        return Some("..  @{ and a dot at the end are not allowed");
    }
    let part = |p: &str| p.is_empty() || p.starts_with('.') || p.to_ascii_lowercase().ends_with(".lock");
    if name.split('/').any(part) {
        return Some("a part between slashes is empty, begins with a dot or ends with .lock");
    }
    None
}

fn refuse(name: &str, why: &str) -> Error {
    let shown: String = name.chars().take(80).collect();
    Error::new(Code::InvalidField, format!("{shown:?} is not a branch's name: {why}"))
}

impl Branch {
    pub fn main() -> Self {
        Self("main".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The whole ref.
    pub fn full(&self) -> String {
        format!("{HEADS}{}", self.0)
    }
}

impl BranchPattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the branch (without `refs/heads/`) is meant.
    pub fn covers(&self, branch: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = branch.strip_prefix(first) else { return false };
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
        // The earliest fit of each leaves the most to those behind it.
        for part in middle {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl From<Branch> for BranchPattern {
    fn from(branch: Branch) -> Self {
        Self(branch.0)
    }
}

macro_rules! texts {
    ($($name:ident $starred:literal),*) => {$(
        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self, Error> {
                wrong(s, $starred).map_or_else(|| Ok(Self(s.to_owned())), |why| Err(refuse(s, why)))
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(s: String) -> Result<Self, Error> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

texts!(Branch false, BranchPattern true);

/// What a push wants of one ref. All zeros stand for "not there".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefUpdate {
    #[serde(rename = "ref")]
    pub name: String,
    pub old: String,
    pub new: String,
}

fn nothing(object: &str) -> bool {
    object.bytes().all(|b| b == b'0')
}

impl RefUpdate {
    /// The branch's name, where it is one.
    pub fn branch(&self) -> Option<&str> {
        self.name.strip_prefix(HEADS)
    }

    pub fn creates(&self) -> bool {
        nothing(&self.old)
    }

    pub fn deletes(&self) -> bool {
        nothing(&self.new)
    }
}

#[cfg(test)]
mod tests;
