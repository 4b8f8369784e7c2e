//! The one body type of answers, and bodies whose bytes are counted and slowed down.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Frame, SizeHint};
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::line::Line;
use crate::meter::Meter;

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
}

impl<B> Metered<B> {
    pub fn new(inner: B, line: Arc<Line>, meter: Arc<Meter>, way: Way) -> Self {
        let cut = Some(Box::pin(line.ends()));
        Self { inner, line, meter: Some(meter), way, wait: None, cut }
    }

    /// An answer that is counted and costs no time.
    pub fn counted(inner: B, line: Arc<Line>) -> Self {
        Self { inner, line, meter: None, way: Way::Received, wait: None, cut: None }
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
