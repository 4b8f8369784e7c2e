//! Answers that go on: numbered records, read again from the store whenever something woke their topic.
//!
//! The wake-up carries nothing; the cursor decides what comes next. So a reader that resumes misses nothing and sees
//! nothing twice, whichever server it talks to. A stream ends when the process drains or its caller's credential does;
//! the reader resumes behind the last record it has.

mod sse;
mod standing;
mod ws;

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt as _};
use serde::Serialize;
use wharf_domain::{Code, Error};
use wharf_ports::bus::Subscription;
use wharf_ports::{Topic, Wake};

use crate::app::App;
use crate::context::RequestContext;
use crate::extract::Upgrade;

pub(crate) use standing::Standing;

/// Lost wake-ups cost this much time and nothing else.
const SLOW_POLL: Duration = Duration::from_secs(5);
/// While a transaction holds records back: from the first to the last pause.
const SOON: Duration = Duration::from_millis(4);
const SOON_AT_MOST: Duration = Duration::from_millis(256);

/// One event of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Where a reader resumes behind it.
    pub id: Option<String>,
    /// Empty in a record that says nothing but where the stream stands.
    pub event: String,
    /// JSON on one line.
    pub data: String,
}

impl Record {
    pub(crate) fn of(
        id: Option<String>,
        event: impl Into<String>,
        data: &impl Serialize,
    ) -> Result<Self, Error> {
        let data = serde_json::to_string(data).map_err(Error::internal)?;
        Ok(Self { id, event: event.into(), data })
    }
}

pub(crate) type Records = Pin<Box<dyn Stream<Item = Result<Record, Error>> + Send>>;

/// What one look into the store brought.
pub(crate) struct Batch<C> {
    pub records: Vec<Record>,
    pub next: C,
    /// More is there, or held back by a transaction that still runs.
    pub more_soon: bool,
    /// Nothing will follow.
    pub end: bool,
}

/// Reads from a cursor on, whenever a topic wakes.
pub(crate) trait Reader: Send + 'static {
    type Cursor: Clone + std::fmt::Display + Send + 'static;
    fn read(&mut self, from: Self::Cursor)
    -> impl Future<Output = Result<Batch<Self::Cursor>, Error>> + Send;
}

struct Follow<R: Reader> {
    reader: R,
    wakes: Subscription,
    topic: Topic,
    cursor: R::Cursor,
    ready: VecDeque<Record>,
    pause: Duration,
    ended: bool,
}

/// The records behind `from`, and all that follow. `wakes` must have been subscribed before `from` was decided.
pub(crate) fn follow<R: Reader>(reader: R, wakes: Subscription, topic: Topic, from: R::Cursor) -> Records {
    // Told first, so that a reader who is cut off before anything happens resumes here and not later.
    let here = Record { id: Some(from.to_string()), event: String::new(), data: String::new() };
    let state =
        Follow { reader, wakes, topic, cursor: from, ready: VecDeque::new(), pause: SOON, ended: false };
    let records = stream::unfold(state, |mut state| async move {
        let next = state.next().await?;
        Some((next, state))
    });
    stream::once(std::future::ready(Ok(here))).chain(records).boxed()
}

impl<R: Reader> Follow<R> {
    async fn next(&mut self) -> Option<Result<Record, Error>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(Ok(record));
            }
            if self.ended {
                return None;
            }
            let batch = match self.reader.read(self.cursor.clone()).await {
                Ok(batch) => batch,
                Err(error) => {
                    self.ended = true;
                    // The reader resumes behind what it has, with another credential or another server.
                    if matches!(error.code, Code::Unauthenticated | Code::TokenExpired | Code::Unavailable) {
                        tracing::debug!(code = %error.code, "a stream ends; its reader may resume it");
                        return None;
                    }
                    return Some(Err(error));
                }
            };
            self.cursor = batch.next;
            self.ended = batch.end;
            if !batch.records.is_empty() {
                self.pause = SOON;
                self.ready.extend(batch.records);
                continue;
            }
            if self.ended {
                return None;
            }
            if batch.more_soon {
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).min(SOON_AT_MOST);
            } else {
                self.pause = SOON;
                woken(&mut self.wakes, self.topic, SLOW_POLL).await;
            }
        }
    }
}

/// Returns when the topic woke, when wake-ups were missed, or after `at_most`.
pub(crate) async fn woken(wakes: &mut Subscription, topic: Topic, at_most: Duration) {
    let heard = async {
        loop {
            match wakes.next().await {
                Some(Wake::Topic(t)) if t != topic => {}
                Some(_) => return,
                // The bus is gone: what is left is the slow poll.
                None => std::future::pending().await,
            }
        }
    };
    let _ = tokio::time::timeout(at_most, heard).await;
}

/// The stream as the caller wants it: WebSocket where one was asked for, else server-sent events.
pub(crate) fn answer(app: &App, context: RequestContext, upgrade: Upgrade, records: Records) -> Response {
    let stop = app.stop.clone();
    let records = records.take_until(async move { stop.draining().await }).boxed();
    match upgrade.0 {
        Some(upgrade) => ws::answer(app, context, upgrade, records),
        None => sse::answer(app, context, records).into_response(),
    }
}

/// The last record of a stream that broke.
fn broken(error: &Error, context: RequestContext) -> Record {
    if let Some(cause) = &error.internal {
        tracing::warn!(request_id = %context.id, code = %error.code, %cause, "a stream broke");
    }
    let body = crate::problem::body(error, &context.id.to_string());
    Record { id: None, event: "error".to_owned(), data: serde_json::to_string(&body).unwrap_or_default() }
}
