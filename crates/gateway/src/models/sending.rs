//! How far a request came on its way to a provider, for the bill of one that its client gives up before there is an answer.
//!
//! A provider that has a request works on it and charges for it, whether anybody waits for the answer or not. So it costs
//! from the moment its body is taken up to be written to a connection; before that, and in the pause after a try that came
//! to nothing, it costs nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

#[derive(Debug, Default)]
pub(super) struct Sending {
    attempt: AtomicU32,
    away: AtomicBool,
}

impl Sending {
    pub fn begins(&self, attempt: u32) {
        self.attempt.store(attempt, Ordering::Relaxed);
        self.away.store(false, Ordering::Relaxed);
    }

    /// The answer is here, or there will be none.
    pub fn is_over(&self) {
        self.away.store(false, Ordering::Relaxed);
    }

    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Which try it is: 1 is the first.
    pub fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed).max(1)
    }
}

/// The body of a request, which tells when it leaves.
pub(super) struct Letter {
    body: Full<Bytes>,
    sending: Arc<Sending>,
}

impl Letter {
    pub fn new(body: Bytes, sending: Arc<Sending>) -> Self {
        Self { body: Full::new(body), sending }
    }
}

impl Body for Letter {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.sending.away.store(true, Ordering::Relaxed);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
