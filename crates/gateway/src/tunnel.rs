//! Tunnels: bytes both ways, until both sides have said their last.
//!
//! The end of one direction is passed on and the other goes on (half-close); an error in one ends both. A tunnel on which
//! nothing was said for the idle time ends too.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;
use wharf_domain::egress::Target;

use crate::body::{Body, empty};
use crate::door::{Call, http1};
use crate::problem::Refusal;

/// Bytes on their way in one direction.
const BUFFER: usize = 32 * 1024;

/// Answers `CONNECT`: only after the upstream took the connection, so a client learns at once when it did not.
pub(crate) async fn open(call: Call, target: Target, mut request: Request<Incoming>) -> Response<Body> {
    if let Err(why) = call.session.policy.judge(&target) {
        return Refusal::denied("policy", why).response();
    }
    let stream = match call.gateway.dialer.connect(&target).await {
        Ok(stream) => stream,
        Err(refusal) => return refusal.response(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = call.gateway.tasks.clone();
    tasks.spawn(async move {
        if let Ok(client) = upgrade.await {
            carry(&call, TokioIo::new(client), stream).await;
        }
    });
    Response::new(empty())
}

/// A tunnel to the gateway itself: the same answers as without one.
pub(crate) fn own(call: Call, mut request: Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = call.gateway.tasks.clone();
    tasks.spawn(async move {
        let Ok(client) = upgrade.await else { return };
        let service = service_fn(|request| {
            let call = call.clone();
            async move {
                // The tunnel may be older than what is known of its session.
                Ok::<_, Infallible>(crate::own::serve(&call.gateway, &call.session, request).await)
            }
        });
        let serving = http1().header_read_timeout(call.gateway.idle()).serve_connection(client, service);
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            _ = serving.as_mut() => return,
            () = call.closed.cancelled() => return,
            () = call.stop.draining() => {}
        }
        serving.as_mut().graceful_shutdown();
        let _ = serving.await;
    });
    Response::new(empty())
}

/// Joins two connections that have both changed their protocol.
pub(crate) fn join(call: &Call, client: OnUpgrade, upstream: OnUpgrade) {
    let call = call.clone();
    let tasks = call.gateway.tasks.clone();
    tasks.spawn(async move {
        let both: Result<(Upgraded, Upgraded), hyper::Error> = tokio::try_join!(client, upstream);
        if let Ok((client, upstream)) = both {
            carry(&call, TokioIo::new(client), TokioIo::new(upstream)).await;
        }
    });
}

/// Carries bytes until both directions have ended, the jail is gone or the role drains.
async fn carry(
    call: &Call,
    client: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
) {
    let traffic = Arc::new(Traffic::default());
    tokio::select! {
        _ = both(client, upstream, &traffic) => {}
        () = traffic.idle(call.gateway.idle()) => {}
        () = call.closed.cancelled() => {}
        () = call.stop.draining() => {}
    }
}

/// Bytes carried so far.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// From the session.
    pub sent: AtomicU64,
    /// To the session.
    pub received: AtomicU64,
}

impl Traffic {
    /// Returns when nothing has moved for the time given.
    async fn idle(&self, limit: Duration) {
        let total = || self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed);
        let (mut seen, mut since) = (total(), Instant::now());
        loop {
            tokio::time::sleep_until(since + limit).await;
            let now = total();
            if now == seen {
                return;
            }
            (seen, since) = (now, Instant::now());
        }
    }
}

/// Both directions at once. Returns when both have ended, or at the first error.
async fn both(
    client: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
    traffic: &Traffic,
) -> io::Result<()> {
    let (client_reads, client_writes) = tokio::io::split(client);
    let (upstream_reads, upstream_writes) = tokio::io::split(upstream);
    tokio::try_join!(
        pump(client_reads, upstream_writes, &traffic.sent),
        pump(upstream_reads, client_writes, &traffic.received)
    )
    .map(drop)
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0u8; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..n]).await?;
        count.fetch_add(n as u64, Ordering::Relaxed);
    }
}
