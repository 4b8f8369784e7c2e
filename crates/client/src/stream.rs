//! Event streams that survive a broken connection.
//!
//! The server numbers every event of a log; this reader keeps the last number it handed out and, when the connection
//! breaks or ends, asks again from there: no event twice, none left out. A stream of one command's output has no such
//! log behind it; there a break is an error, never a silent end.

use std::time::{Duration, Instant};

use futures_util::Stream;
use reqwest::Response;
use serde::de::DeserializeOwned;

use crate::call::Call;
use crate::error::{Error, Result, shown};
use crate::sse::{Frame, Parser};

/// How long a resumable stream keeps trying after it last heard anything.
pub const OUTAGE: Duration = Duration::from_secs(90);

type Factory = Box<dyn FnMut() -> Call + Send>;

/// A stream of server-sent events.
pub struct EventStream {
    /// Makes the call again; `None` when the stream cannot be resumed.
    again: Option<Factory>,
    address: url::Url,
    silence: Duration,
    response: Option<Response>,
    parser: Parser,
    last_id: Option<String>,
    heard: Instant,
    failures: u32,
    outage: Duration,
    ended: bool,
}

impl EventStream {
    /// Opens a stream of a log, resumed on a break. `after` is the cursor to begin behind.
    pub async fn open(
        mut make: impl FnMut() -> Call + Send + 'static,
        after: Option<String>,
    ) -> Result<Self> {
        let first = make();
        let (address, silence) = (first.url().clone(), first.silence());
        let response = ask(first, after.as_deref()).await?;
        Ok(Self { last_id: after, ..Self::over(Some(Box::new(make)), address, silence, response) })
    }

    /// Reads the answer of a call that streams once (an exec). Its end without a last event is for the caller to judge.
    pub async fn once(call: Call) -> Result<Self> {
        let (address, silence) = (call.url().clone(), call.silence());
        let response = ask(call, None).await?;
        Ok(Self::over(None, address, silence, response))
    }

    fn over(again: Option<Factory>, address: url::Url, silence: Duration, response: Response) -> Self {
        Self {
            again,
            address,
            silence,
            response: Some(response),
            parser: Parser::default(),
            last_id: None,
            heard: Instant::now(),
            failures: 0,
            outage: OUTAGE,
            ended: false,
        }
    }

    /// How long to keep trying after the last sign of life.
    #[must_use]
    pub fn outage(mut self, outage: Duration) -> Self {
        self.outage = outage;
        self
    }

    /// The cursor after which this stream would resume.
    pub fn cursor(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The next event; `None` at the end of a stream that cannot be resumed. After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<Frame>> {
        if self.ended {
            return None;
        }
        match self.read().await {
            Ok(Some(frame)) => Some(Ok(frame)),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(e) => {
                self.ended = true;
                Some(Err(e))
            }
        }
    }

    /// The next event, its data read as JSON.
    pub async fn next_json<T: DeserializeOwned>(&mut self) -> Option<Result<T>> {
        let frame = match self.next().await? {
            Ok(f) => f,
            Err(e) => return Some(Err(e)),
        };
        Some(serde_json::from_str(&frame.data).map_err(|e| Error::Protocol {
            url: shown(&self.address),
            reason: format!("an event of type {} is not as expected: {e}", frame.event),
        }))
    }

    /// The same as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Frame>> + Send {
        futures_util::stream::unfold(self, |mut s| async move { s.next().await.map(|item| (item, s)) })
    }

    async fn read(&mut self) -> Result<Option<Frame>> {
        loop {
            match self.parser.frame() {
                Ok(Some(frame)) => {
                    if frame.id.is_some() {
                        self.last_id.clone_from(&frame.id);
                    }
                    self.failures = 0;
                    return Ok(Some(frame));
                }
                Ok(None) => {
                    if let Some(id) = self.parser.last_id() {
                        self.last_id = Some(id.to_owned());
                    }
                }
                Err(_) => {
                    return Err(Error::Protocol {
                        url: shown(&self.address),
                        reason: "an event has no end".into(),
                    });
                }
            }
            let Some(response) = &mut self.response else {
                self.resume().await?;
                continue;
            };
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    self.heard = Instant::now();
                    self.parser.push(&chunk);
                }
                Ok(None) if self.again.is_none() => return Ok(None),
                Err(e) if self.again.is_none() => {
                    return Err(Error::transport(&self.address, &e, self.silence));
                }
                Ok(None) | Err(_) => self.response = None,
            }
        }
    }

    /// Asks again from the last number on. What was read of an unfinished event is dropped; it comes again whole.
    async fn resume(&mut self) -> Result<()> {
        let asked = self.parser.retry_ms().map(Duration::from_millis);
        self.parser = Parser::default();
        loop {
            self.failures += 1;
            let step = asked
                .unwrap_or(Duration::from_millis(100))
                .saturating_mul(1 << self.failures.min(6).saturating_sub(1));
            tokio::time::sleep(step.min(Duration::from_secs(3))).await;
            let Some(make) = &mut self.again else { return Ok(()) };
            match ask(make(), self.last_id.as_deref()).await {
                Ok(response) => {
                    self.response = Some(response);
                    return Ok(());
                }
                Err(e) if e.passing() && self.heard.elapsed() < self.outage => {}
                Err(e) => return Err(e),
            }
        }
    }
}

async fn ask(call: Call, after: Option<&str>) -> Result<Response> {
    let url = call.url().clone();
    let mut call = call.header("accept", "text/event-stream").limit(None);
    if let Some(after) = after {
        call = call.header("last-event-id", after);
    }
    let response = call.send().await?;
    let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().is_some_and(|k| k.trim() == "text/event-stream") {
        Ok(response)
    } else {
        Err(Error::Protocol {
            url: shown(&url),
            reason: format!("it sent {kind:?} where an event stream was asked for"),
        })
    }
}
