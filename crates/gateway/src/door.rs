//! The socket of one jail: HTTP/1.1, from a client that may be hostile and is always the same session.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use wharf_chassis::Stop;
use wharf_domain::{Code, JailId};

use crate::body::Body;
use crate::forward::{self, Upstream};
use crate::gateway::Gateway;
use crate::problem::{Decision, Refusal};
use crate::sessions::Session;
use crate::target::{Asked, classify};
use crate::{own, tunnel};

/// Bytes of a request's head, and its headers.
const HEAD: usize = 64 * 1024;
const HEADERS: usize = 200;

/// One request or tunnel and whom it is from.
#[derive(Clone)]
pub(crate) struct Call {
    pub gateway: Gateway,
    pub session: Arc<Session>,
    /// The jail is gone: everything on its socket ends.
    pub closed: CancellationToken,
    pub stop: Stop,
}

/// Accepts until the jail is gone or the role drains.
pub(crate) async fn serve(
    gateway: Gateway,
    jail: JailId,
    listener: UnixListener,
    closed: CancellationToken,
    stop: Stop,
) {
    loop {
        let accepted = tokio::select! {
            () = closed.cancelled() => return,
            () = stop.draining() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let tasks = gateway.tasks.clone();
                tasks.spawn(connection(gateway.clone(), jail, stream, closed.clone(), stop.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: what is open ends some time.
                tracing::warn!(%jail, %error, "a connection of a session could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

pub(crate) fn http1() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).max_buf_size(HEAD).max_headers(HEADERS);
    builder
}

async fn connection(
    gateway: Gateway,
    jail: JailId,
    stream: UnixStream,
    closed: CancellationToken,
    stop: Stop,
) {
    // Upstream connections of one client connection are shared by nobody else.
    let upstream = Arc::new(Upstream::new(&gateway));
    let service = service_fn(|request| {
        let (gateway, upstream) = (gateway.clone(), upstream.clone());
        let (closed, stop) = (closed.clone(), stop.clone());
        async move { Ok::<_, Infallible>(answer(gateway, jail, &upstream, request, closed, stop).await) }
    });
    let serving = http1()
        .header_read_timeout(gateway.idle())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let mut told = false;
    loop {
        tokio::select! {
            done = serving.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(%jail, %error, "a connection of a session ended early");
                }
                return;
            }
            () = closed.cancelled() => return,
            () = stop.draining(), if !told => {
                told = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer(
    gateway: Gateway,
    jail: JailId,
    upstream: &Upstream,
    request: Request<Incoming>,
    closed: CancellationToken,
    stop: Stop,
) -> Response<Body> {
    let asked = match classify(request.method(), request.uri(), request.headers()) {
        Ok(asked) => asked,
        Err(refusal) => return refusal.response(),
    };
    let session = match gateway.sessions.of(jail).await {
        Ok(Some(session)) => session,
        Ok(None) => return nobody().response(),
        Err(error) => return Refusal::from(error).response(),
    };
    let call = Call { gateway, session, closed, stop };
    match asked {
        Asked::Own => own::serve(&call.gateway, &call.session, request).await,
        Asked::OwnTunnel => tunnel::own(call, request),
        Asked::Tunnel(target) => tunnel::open(call, target, request).await,
        Asked::Forward(target) => forward::pass(&call, upstream, &target, request).await,
    }
}

fn nobody() -> Refusal {
    Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: Code::Unavailable,
        decision: Decision::Failed,
        reason: "nobody",
        detail: "this computer belongs to no session yet; try again in a moment".into(),
    }
}
