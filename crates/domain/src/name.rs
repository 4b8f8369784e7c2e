//! Names people give to things: DNS labels, so that every name can be a host name and a path segment.
//!
//! Refuses everything else (upper case, dots, slashes, `..`, unicode) with what is allowed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};

/// A DNS label (RFC 1123): 1–63 of `a-z`, `0-9`, `-`, not at either end a `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63, example = "lab")]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let ok = !s.is_empty()
            && s.len() <= 63
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !s.starts_with('-')
            && !s.ends_with('-');
        if ok { Ok(Self(s.to_owned())) } else { Err(refuse(s)) }
    }
}

fn refuse(s: &str) -> Error {
    let shown: String = s.chars().take(80).collect();
    Error::new(
        Code::InvalidName,
        format!(
            "{shown:?} is not a name: use 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"
        ),
    )
}

impl TryFrom<String> for Name {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl From<Name> for String {
    fn from(n: Name) -> Self {
        n.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What a path segment such as `{session}` holds. A UUID is never read as a name, although it would be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameOrId<I> {
    Name(Name),
    Id(I),
}

impl<I: FromStr> FromStr for NameOrId<I> {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s.parse::<I>() {
            Ok(id) if s.len() == 36 => Ok(Self::Id(id)),
            _ => s.parse().map(Self::Name),
        }
    }
}

impl<I: fmt::Display> fmt::Display for NameOrId<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(n) => n.fmt(f),
            Self::Id(i) => i.fmt(f),
        }
    }
}
