//! The one body type of answers, and bodies whose bytes are counted and slowed down.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Frame, SizeHint};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wharf_domain::limits;

use crate::asking::Held;
use crate::gateway::AbortOnDrop;
use crate::line::Line;
use crate::meter::Meter;
use crate::problem::Refusal;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Any body as ours, as it streams.
pub fn stream<B>(body: B) -> Body
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// How long a body may pause while it is read for those who decide: one that goes on only after an answer never ends.
const PAUSES: Duration = Duration::from_secs(5);

/// A body of which a part may have been read already.
pub(crate) struct Resumed<B> {
    read: VecDeque<Frame<Bytes>>,
    bytes: usize,
    rest: Option<B>,
    /// Somebody has tried to read it.
    tried: bool,
    /// Room for what was read, among all that waits.
    held: Option<Held>,
}

impl<B> Resumed<B> {
    pub fn none() -> Self {
        Self { read: VecDeque::new(), bytes: 0, rest: None, tried: true, held: None }
    }
}

impl<B> Resumed<B>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub fn new(body: B) -> Self {
        let rest = Some(body).filter(|b| !b.is_end_stream());
        Self { tried: rest.is_none(), rest, ..Self::none() }
    }

    /// Whether nothing more comes than was read.
    pub fn is_over(&self) -> bool {
        self.rest.is_none()
    }

    pub fn is_read(&self) -> bool {
        self.tried
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was read.
    pub fn so_far(&self) -> Vec<u8> {
        self.read.iter().filter_map(Frame::data_ref).flatten().copied().collect()
    }

    /// Reads it, unless that is too much (`GUARD_BYTES`, or more than there is room for) or takes too long; once.
    pub async fn read(&mut self, held: Option<Held>) -> Result<(), Refusal> {
        self.tried = true;
        self.held = held;
        let Some(held) = &mut self.held else { return Ok(()) };
        let Some(body) = &mut self.rest else { return Ok(()) };
        let most = limits::GUARD_BYTES;
        if body.size_hint().lower() > most as u64 {
            return Ok(());
        }
        loop {
            let Ok(frame) = tokio::time::timeout(PAUSES, body.frame()).await else { return Ok(()) };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|e| Refusal::bad_request(format!("the request broke off: {e}")))?;
            let n = frame.data_ref().map_or(0, Bytes::len);
            self.bytes += n;
            self.read.push_back(frame);
            if self.bytes > most || held.grow(n).is_err() {
                return Ok(());
            }
            if body.is_end_stream() {
                break;
            }
        }
        self.rest = None;
        Ok(())
    }
}

impl<B> hyper::body::Body for Resumed<B>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.read.pop_front() {
            self.bytes -= frame.data_ref().map_or(0, Bytes::len);
            return Poll::Ready(Some(Ok(frame)));
        }
        self.held = None;
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx).map(|f| f.map(|f| f.map_err(Into::into))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint =
            self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), hyper::body::Body::size_hint);
        let read = self.bytes as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint.set_lower(hint.lower().saturating_add(read));
        hint
    }
}

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Sent,
    Received,
}

/// A body whose bytes are counted on a line and cost time by a meter. It streams; nothing is gathered.
pub(crate) struct Metered<B> {
    inner: B,
    line: Arc<Line>,
    meter: Option<Arc<Meter>>,
    way: Way,
    wait: Option<Pin<Box<Sleep>>>,
    /// Where it may be cut off: when.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    patience: Option<Patience>,
}

/// How long nothing may pass either way, what had passed when that was last looked at, and when it is again.
struct Patience {
    limit: Duration,
    seen: u64,
    look: Pin<Box<Sleep>>,
    /// Ends with the body.
    _unread: AbortOnDrop,
}

/// Ends a client's connection that does not take the rest of an answer: the body is not even looked at then.
async fn unread(line: Weak<Line>, limit: Duration, connection: CancellationToken) {
    let (mut seen, mut same) = (None, 0);
    while let Some(line) = line.upgrade() {
        let now = line.traffic.total();
        // An upstream that says nothing has ended its answer by then.
        same = if seen == Some(now) { same + 1 } else { 0 };
        if same == 2 {
            line.ended("idle");
            return connection.cancel();
        }
        seen = Some(now);
        drop(line);
        tokio::time::sleep(limit).await;
    }
}

impl<B> Metered<B> {
    pub fn new(inner: B, line: Arc<Line>, meter: Arc<Meter>, way: Way) -> Self {
        let cut = Some(Box::pin(line.ends()));
        Self { inner, line, meter: Some(meter), way, wait: None, cut, patience: None }
    }

    /// An answer that ends when nothing has passed either way for that time; with its client's connection, where the client
    /// is why.
    pub fn patient(self, limit: Duration, connection: CancellationToken) -> Self {
        let look = Box::pin(tokio::time::sleep(limit));
        let seen = self.line.traffic.total();
        let unread = tokio::spawn(unread(Arc::downgrade(&self.line), limit, connection));
        let unread = AbortOnDrop(unread.abort_handle());
        Self { patience: Some(Patience { limit, seen, look, _unread: unread }), ..self }
    }

    /// An answer that is counted and costs no time.
    pub fn counted(inner: B, line: Arc<Line>) -> Self {
        Self { inner, line, meter: None, way: Way::Received, wait: None, cut: None, patience: None }
    }
}

impl<B> Metered<B> {
    /// Whether the patience is over.
    fn silent(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Patience { limit, seen, look, .. }) = &mut self.patience else { return false };
        while look.as_mut().poll(cx).is_ready() {
            let now = self.line.traffic.total();
            if now == *seen {
                return true;
            }
            *seen = now;
            look.as_mut().reset(tokio::time::Instant::now() + *limit);
        }
        false
    }
}

impl<B> hyper::body::Body for Metered<B>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(cx).is_ready()
        {
            // Half a body must not look like a whole one.
            return Poll::Ready(Some(Err(Box::new(self.line.end()))));
        }
        if let Some(wait) = &mut self.wait {
            if wait.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.wait = None;
        }
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if polled.is_pending() && self.silent(cx) {
            self.line.ended("idle");
            let why = "nothing was said for too long (gateway.idle_timeout_seconds)";
            return Poll::Ready(Some(Err(Box::new(Refusal::timeout(why)))));
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.line.passed(self.way, data.len());
            let wait = self.meter.as_ref().map_or(Duration::ZERO, |m| m.bytes(data.len()));
            if !wait.is_zero() {
                self.wait = Some(Box::pin(tokio::time::sleep(wait)));
            }
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
