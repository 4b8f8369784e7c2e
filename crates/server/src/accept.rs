//! Accepts connections and serves a router on them, within bounds.
//!
//! Whoever connects and sends nothing, or a head byte by byte, holds a connection and no more: a head has
//! `HEAD_SECONDS`, there are `LISTENER_CONNECTIONS` at a time, and beyond them callers wait in the kernel's queue until one
//! ends. Bodies and streams have limits of their own where they are read.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;
use wharf_domain::limits;

/// After a failed accept (no descriptors left, mostly): time for some to come back.
const BREATH: Duration = Duration::from_millis(50);

/// What is allowed of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub head: Duration,
    pub connections: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { head: Duration::from_secs(limits::HEAD_SECONDS), connections: limits::LISTENER_CONNECTIONS }
    }
}

/// Serves until `drain` resolves, then finishes the requests in hand.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    drain: impl Future<Output = ()>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.head);
    builder.http2().timer(TokioTimer::new());
    let builder = Arc::new(builder);
    let (places, graceful) = (Arc::new(Semaphore::new(bounds.connections)), GracefulShutdown::new());
    tokio::pin!(drain);
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = &mut drain => break,
            accepted = accepted => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // One connection's own end, or a machine short of descriptors; the listener itself is well.
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let watcher = graceful.watcher();
        let (router, builder) = (router.clone(), builder.clone());
        tokio::spawn(async move {
            let _place = place;
            let connection = builder.serve_connection_with_upgrades(
                TokioIo::new(quick(stream)),
                hyper::service::service_fn(move |request| answer(router.clone(), peer, request)),
            );
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Answers are small and wanted now.
fn quick(stream: TcpStream) -> TcpStream {
    let _ = stream.set_nodelay(true);
    stream
}

async fn answer(
    router: Router,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<axum::response::Response, Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    router.oneshot(request.map(axum::body::Body::new)).await
}

#[cfg(test)]
mod tests;
