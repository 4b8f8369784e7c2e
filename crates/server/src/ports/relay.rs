//! Bytes both ways after an upgrade, ended when nothing is said for too long.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use wharf_chassis::Stop;

/// Bytes carried at once, each way.
const PIECE: usize = 64 * 1024;

/// A side whose use is seen.
pub(crate) struct Watched<T> {
    inner: T,
    said: Said,
}

/// When something was said last.
#[derive(Clone)]
pub(crate) struct Said(Arc<(Instant, AtomicU64)>);

impl Said {
    fn now() -> Self {
        Self(Arc::new((Instant::now(), AtomicU64::new(0))))
    }

    fn note(&self) {
        self.0.1.store(self.0.0.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn ago(&self) -> Duration {
        self.0.0.elapsed().saturating_sub(Duration::from_millis(self.0.1.load(Ordering::Relaxed)))
    }
}

impl<T> Watched<T> {
    pub(crate) fn new(inner: T) -> (Self, Said) {
        let said = Said::now();
        (Self { inner, said: said.clone() }, said)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        self.said.note();
        Poll::Ready(done)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        self.said.note();
        Poll::Ready(done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Returns once nothing was said for `limit`.
pub(crate) async fn idle(said: Said, limit: Duration) {
    loop {
        let left = limit.saturating_sub(said.ago());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// Carries bytes until both sides have ended, one breaks, nothing is said for too long, or the process drains.
pub(super) async fn relay(
    mut caller: impl AsyncRead + AsyncWrite + Unpin,
    program: impl AsyncRead + AsyncWrite + Unpin,
    limit: Duration,
    stop: Stop,
) {
    let (mut program, said) = Watched::new(program);
    tokio::select! {
        // The one or the other side going away is an ordinary end.
        _ = tokio::io::copy_bidirectional_with_sizes(&mut caller, &mut program, PIECE, PIECE) => {}
        () = idle(said, limit) => {}
        () = stop.draining() => {}
    }
}

#[cfg(test)]
mod tests;
