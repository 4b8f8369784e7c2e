//! The body of a program's answer on its way out: passed on frame by frame, trailers too, with the session in use until
//! its end, and broken off when nothing comes for too long.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};
use wharf_domain::limits;

const IDLE: Duration = Duration::from_secs(limits::PORT_IDLE_SECONDS);

/// An answer's body and what it holds.
pub(super) struct Answer<H> {
    inner: Incoming,
    silence: Pin<Box<Sleep>>,
    _held: H,
}

impl<H: Send + Unpin + 'static> Answer<H> {
    pub(super) fn of(inner: Incoming, held: H) -> axum::body::Body {
        let body = Self { inner, silence: Box::pin(tokio::time::sleep(IDLE)), _held: held };
        axum::body::Body::new(UnsyncBoxBody::new(body))
    }
}

impl<H: Unpin> Body for Answer<H> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.silence.as_mut().reset(Instant::now() + IDLE);
                Poll::Ready(frame.map(|f| f.map_err(io::Error::other)))
            }
            Poll::Pending => match self.silence.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
