//! The socket of one jail: HTTP/1.1, from a client that may be hostile and is always the same session.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::CONNECTION;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use wharf_chassis::Stop;
use wharf_domain::egress::Target;
use wharf_domain::{Code, JailId, limits};

use crate::body::Body;
use crate::forward::{self, Upstream};
use crate::gateway::Gateway;
use crate::line::{Kind, Line};
use crate::meter::{Meter, Slot};
use crate::problem::{Decision, Refusal};
use crate::sessions::Session;
use crate::target::{Asked, classify};
use crate::{own, tunnel};

/// Bytes of a request's head, and its headers.
const HEAD: usize = 64 * 1024;
const HEADERS: usize = 200;
/// How long a connection may say nothing at first.
const FIRST: Duration = Duration::from_secs(limits::HEAD_SECONDS);
/// How long one that is too many has to ask, so that it can be told.
const TURNED_AWAY: Duration = Duration::from_secs(2);

/// One request or tunnel and whom it is from.
#[derive(Clone)]
pub(crate) struct Call {
    pub gateway: Gateway,
    pub jail: JailId,
    pub session: Arc<Session>,
    pub meter: Arc<Meter>,
    /// The client's connection, counted for as long as anything of it goes on.
    #[allow(dead_code, reason = "held, and never looked at")]
    pub slot: Arc<Slot>,
    pub client: Arc<Client>,
    /// The jail is gone: everything on its socket ends.
    pub closed: CancellationToken,
    /// The client does not take what it asked for: its connection ends.
    pub unread: CancellationToken,
    pub stop: Stop,
    /// Changes that had been heard of when its session was looked up.
    pub heard: u64,
}

impl Call {
    /// The same call by what is known of its session now.
    pub async fn anew(&self) -> Result<Self, Refusal> {
        let heard = self.gateway.catch_up();
        let session = self.gateway.sessions.of(self.jail).await?.ok_or_else(nobody)?;
        Ok(Self { session, heard, ..self.clone() })
    }

    pub fn line(&self, kind: Kind, target: &Target) -> Arc<Line> {
        Line::begin(&self.gateway.log, &self.gateway.system, &self.session, kind, target)
    }
}

/// A client's connection, seen from beside whoever reads it.
pub(crate) struct Client(Option<AsyncFd<OwnedFd>>);

impl Client {
    fn of(stream: &UnixStream) -> Self {
        // A descriptor of its own, registered for nothing but what the kernel always tells: both sides are closed.
        let own = stream.as_fd().try_clone_to_owned();
        // Its successor is unsafe for types that may give up their descriptor; an owned one does not.
        #[allow(deprecated)]
        Self(own.and_then(|fd| AsyncFd::with_interest(fd, Interest::PRIORITY)).ok())
    }

    /// Returns when the client is gone altogether, and not when it has only ended its side. What it asked for is then given up.
    pub async fn gone(&self) {
        match &self.0 {
            Some(fd) => drop(fd.ready(Interest::PRIORITY).await),
            None => std::future::pending().await,
        }
    }
}

/// The socket of one jail.
#[derive(Clone)]
pub(crate) struct Door {
    pub gateway: Gateway,
    pub jail: JailId,
    pub meter: Arc<Meter>,
    pub closed: CancellationToken,
    pub stop: Stop,
}

impl Door {
    /// Accepts until the jail is gone or the role drains.
    pub async fn serve(self, listener: UnixListener) {
        loop {
            let accepted = tokio::select! {
                () = self.closed.cancelled() => return,
                () = self.stop.draining() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    self.gateway.tasks.spawn(self.clone().connection(stream));
                }
                Err(error) => {
                    // Out of descriptors, most likely: what is open ends some time.
                    tracing::warn!(jail = %self.jail, %error, "a connection of a session could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(self, stream: UnixStream) {
        let slot = match self.meter.enter() {
            Ok(slot) => Arc::new(slot),
            Err(refusal) => return self.turn_away(stream, &refusal).await,
        };
        // Upstream connections of one client connection are shared by nobody else.
        let upstream = Arc::new(Upstream::new(&self.gateway));
        let client = Arc::new(Client::of(&stream));
        let watch = client.clone();
        let (asked, unread) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let service = service_fn(|request| {
            asked.store(true, Ordering::Relaxed);
            let (door, upstream, slot) = (self.clone(), upstream.clone(), slot.clone());
            let (client, unread) = (client.clone(), unread.clone());
            async move { Ok::<_, Infallible>(door.answer(&upstream, slot, client, unread, request).await) }
        });
        let serving = http1()
            .header_read_timeout(self.gateway.idle())
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut serving = std::pin::pin!(serving);
        let mut told = false;
        let mut first = std::pin::pin!(tokio::time::sleep(FIRST.min(self.gateway.idle())));
        let mut waits = true;
        loop {
            tokio::select! {
                () = first.as_mut(), if waits => {
                    waits = false;
                    if !asked.load(Ordering::Relaxed) {
                        return;
                    }
                }
                () = unread.cancelled() => return,
                done = serving.as_mut() => {
                    if let Err(error) = done {
                        tracing::debug!(jail = %self.jail, %error, "a connection of a session ended early");
                    }
                    return;
                }
                () = self.closed.cancelled() => return,
                () = watch.gone() => return,
                () = self.stop.draining(), if !told => {
                    told = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// Says that it is one too many and closes, whatever the client does; where many are, without a word.
    async fn turn_away(self, stream: UnixStream, refusal: &Refusal) {
        let Some(_told) = self.meter.refuse() else { return };
        let service = service_fn(|_: Request<Incoming>| async {
            let mut response = refusal.response();
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            Ok::<_, Infallible>(response)
        });
        let serving = http1().keep_alive(false).serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            _ = tokio::time::timeout(TURNED_AWAY, serving) => {}
            () = self.closed.cancelled() => {}
        }
    }

    async fn answer(
        self,
        upstream: &Upstream,
        slot: Arc<Slot>,
        client: Arc<Client>,
        unread: CancellationToken,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let asked = match classify(request.method(), request.uri(), request.headers()) {
            Ok(asked) => asked,
            Err(refusal) => return refusal.response(),
        };
        let heard = self.gateway.catch_up();
        let session = match self.gateway.sessions.of(self.jail).await {
            Ok(Some(session)) => session,
            Ok(None) => return nobody().response(),
            Err(error) => return Refusal::from(error).response(),
        };
        let Self { gateway, jail, meter, closed, stop } = self;
        let call = Call { gateway, jail, session, meter, slot, client, closed, unread, stop, heard };
        match asked {
            Asked::Own => own::serve(call, request).await,
            Asked::OwnTunnel => tunnel::own(call, request),
            Asked::Tunnel(target) => tunnel::open(call, target, request).await,
            Asked::Forward(target) => {
                forward::exchange(&call, upstream, Scheme::HTTP, &target, request).await
            }
        }
    }
}

pub(crate) fn http1() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    // Who has said everything and ends their side still gets an answer.
    builder.timer(TokioTimer::new()).max_buf_size(HEAD).max_headers(HEADERS).half_close(true);
    builder
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
