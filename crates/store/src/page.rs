//! Pages of a list: a limit, an opaque cursor, a stable order by id.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde::Serialize;
use uuid::Uuid;
use wharf_domain::labels::Selector;
use wharf_domain::{Code, Error, limits};

/// What the caller asked for, checked.
#[derive(Clone, Debug)]
pub struct PageRequest {
    limit: u32,
    after: Option<Uuid>,
    pub labels: Selector,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: limits::PAGE_DEFAULT, after: None, labels: Selector::default() }
    }
}

impl PageRequest {
    /// Refuses limits outside 1..=500 and cursors that no list handed out.
    pub fn new(limit: Option<u32>, cursor: Option<&str>, labels: Option<&str>) -> Result<Self, Error> {
        let limit = limit.unwrap_or(limits::PAGE_DEFAULT);
        if !(1..=limits::PAGE_MAX).contains(&limit) {
            return Err(Error::new(
                Code::InvalidField,
                format!("limit is {limit}; it must be between 1 and {}", limits::PAGE_MAX),
            )
            .field("limit"));
        }
        let after = cursor.map(decode).transpose()?;
        let labels = labels.map(Selector::from_str).transpose()?.unwrap_or_default();
        Ok(Self { limit, after, labels })
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Rows after this id; the nil id comes before all.
    pub(crate) fn after(&self) -> Uuid {
        self.after.unwrap_or(Uuid::nil())
    }

    /// For lists ordered by a number: rows beyond this one. Its cursor is made by [`Self::numbered`].
    pub(crate) fn after_number(&self) -> Result<Option<i32>, Error> {
        let number = |id: Uuid| u32::try_from(id.as_u128()).ok().and_then(|n| i32::try_from(n).ok());
        self.after.map(|id| number(id).ok_or_else(wrong_cursor)).transpose()
    }

    pub(crate) fn numbered(n: i32) -> Uuid {
        Uuid::from_u128(n.unsigned_abs().into())
    }

    /// One more than the page, to know whether there is a next one.
    pub(crate) fn fetch(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// `a=b` terms for `labels @> $n`.
    pub(crate) fn label_pairs(&self) -> serde_json::Value {
        self.labels
            .0
            .iter()
            .filter_map(|(k, v)| v.as_ref().map(|v| (k.clone(), serde_json::Value::from(v.as_str()))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// `c` terms for `labels ?& $n`.
    pub(crate) fn label_keys(&self) -> Vec<String> {
        self.labels.0.iter().filter(|(_, v)| v.is_none()).map(|(k, _)| k.clone()).collect()
    }

    /// Cuts `rows` (fetched with [`Self::fetch`]) to the page.
    pub(crate) fn page<T>(&self, mut rows: Vec<T>, id: impl Fn(&T) -> Uuid) -> Page<T> {
        let more = rows.len() > self.limit as usize;
        rows.truncate(self.limit as usize);
        let next_cursor = if more { rows.last().map(|r| B64.encode(id(r).as_bytes())) } else { None };
        Page { items: rows, next_cursor }
    }
}

fn decode(cursor: &str) -> Result<Uuid, Error> {
    B64.decode(cursor).ok().and_then(|b| Uuid::from_slice(&b).ok()).ok_or_else(wrong_cursor)
}

fn wrong_cursor() -> Error {
    Error::new(Code::InvalidField, "that is not a cursor of this list; start again without one")
        .field("cursor")
}

/// One page and where the next one begins.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(f).collect(), next_cursor: self.next_cursor }
    }
}
