//! Lists, a page at a time or all of them as a stream.

use std::collections::VecDeque;

use futures_util::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::call::Call;
use crate::error::Result;

/// One page. `next_cursor` is absent on the last.
#[derive(Clone, Debug, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    #[serde(default)]
    pub next_cursor: Option<String>,
    /// Where a watch of this list begins.
    #[serde(default)]
    pub resource_version: Option<String>,
}

/// A list call that can be asked for its pages.
pub struct List {
    make: Box<dyn Fn() -> Call + Send + Sync>,
    limit: Option<u32>,
}

impl List {
    pub(crate) fn new(make: impl Fn() -> Call + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), limit: None }
    }

    /// Entries of a page; the server's default when not said.
    #[must_use]
    pub fn page_size(mut self, limit: Option<u32>) -> Self {
        self.limit = limit;
        self
    }

    /// One page, beginning behind `cursor`.
    pub async fn page<T: DeserializeOwned>(&self, cursor: Option<&str>) -> Result<Page<T>> {
        (self.make)().query_opt("limit", self.limit).query_opt("cursor", cursor).send_json().await
    }

    /// At most `most` entries (all, when `None`), and whether there are more.
    pub async fn take<T: DeserializeOwned>(self, most: Option<usize>) -> Result<(Vec<T>, bool)> {
        let mut items = Vec::new();
        let mut cursor = None;
        loop {
            let want = most.map(|m| (m - items.len()).min(wharf_domain::limits::PAGE_MAX as usize) as u32);
            let page: Page<T> = (self.make)()
                .query_opt("limit", want.or(self.limit))
                .query_opt("cursor", cursor)
                .send_json()
                .await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            let full = most.is_some_and(|m| items.len() >= m);
            if cursor.is_none() || full {
                let more = cursor.is_some() || most.is_some_and(|m| items.len() > m);
                if let Some(m) = most {
                    items.truncate(m);
                }
                return Ok((items, more));
            }
        }
    }

    /// Every entry; the next page is asked for when the last one is used up.
    pub fn all<T: DeserializeOwned + Send>(self) -> impl Stream<Item = Result<T>> + Send {
        enum At {
            Start,
            Behind(String),
            End,
        }
        let state = (self, VecDeque::<T>::new(), At::Start);
        futures_util::stream::try_unfold(state, |(list, mut held, mut at)| async move {
            loop {
                if let Some(item) = held.pop_front() {
                    return Ok(Some((item, (list, held, at))));
                }
                let call = (list.make)().query_opt("limit", list.limit);
                let page: Page<T> = match &at {
                    At::Start => call.send_json().await?,
                    At::Behind(cursor) => call.query("cursor", cursor).send_json().await?,
                    At::End => return Ok(None),
                };
                held.extend(page.items);
                at = page.next_cursor.map_or(At::End, At::Behind);
            }
        })
    }
}
