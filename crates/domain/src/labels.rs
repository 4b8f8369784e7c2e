//! Labels a user puts on things and the selector that finds them (`labels=a=b,c`).

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};
use crate::limits;

/// Up to [`limits::LABELS`] pairs; keys and values of 1–63 and 0–63 characters of `A-Za-z0-9._/-`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
#[schema(value_type = std::collections::BTreeMap<String, String>)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn word(s: &str) -> bool {
    s.len() <= 63 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b))
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = Error;
    fn try_from(map: BTreeMap<String, String>) -> Result<Self, Error> {
        if map.len() > limits::LABELS {
            return Err(
                Error::new(Code::InvalidField, format!("at most {} labels", limits::LABELS)).field("labels")
            );
        }
        for (k, v) in &map {
            if k.is_empty() || !word(k) || !word(v) {
                return Err(Error::new(
                    Code::InvalidField,
                    "label keys have 1 to 63 and values up to 63 characters of A-Z a-z 0-9 . _ / -",
                )
                .field("labels"));
            }
        }
        Ok(Self(map))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(l: Labels) -> Self {
        l.0
    }
}

/// `a=b,c`: key `a` has value `b`, and key `c` is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<(String, Option<String>)>);

impl Selector {
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(k, want)| match (labels.get(k), want) {
            (Some(have), Some(want)) => have == want,
            (Some(_), None) => true,
            (None, _) => false,
        })
    }
}

impl FromStr for Selector {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let mut terms = Vec::new();
        for term in s.split(',').filter(|t| !t.is_empty()) {
            let (k, v) = match term.split_once('=') {
                Some((k, v)) => (k, Some(v)),
                None => (term, None),
            };
            if k.is_empty() || !word(k) || v.is_some_and(|v| !word(v)) {
                return Err(Error::new(
                    Code::InvalidField,
                    format!(
                        "{:?} is not a label term: write key=value or key, separated by commas",
                        truncated(term)
                    ),
                )
                .field("labels"));
            }
            terms.push((k.to_owned(), v.map(str::to_owned)));
        }
        Ok(Self(terms))
    }
}

fn truncated(s: &str) -> String {
    s.chars().take(80).collect()
}
