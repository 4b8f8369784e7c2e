//! Tunnels to hosts of a connection: their TLS ends here, with a certificate of the space's own authority, so that a
//! credential can be added to the requests inside.
//!
//! Only hosts a connection names come here; every other tunnel stays opaque. What is inside is HTTP/1.1, HTTP/2, or plain
//! HTTP from a program that was carried here without knowing of a proxy. A request must be for the tunnel's own host.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use wharf_chassis::authority::Authority;
use wharf_domain::egress::{Host, Target};
use wharf_domain::{Error, SpaceId};
use wharf_store::System;

use crate::body::Body;
use crate::door::Call;
use crate::forward::{self, Upstream};
use crate::kept::Kept;
use crate::line::{Kind, Line};
use crate::problem::Refusal;
use crate::target::inside;

/// How long a certificate is shown before another is made, and how many are kept.
const SHOWN: Duration = Duration::from_secs(86_400);
const KEPT: usize = 4096;
/// How long a TLS handshake of a client may take.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// First byte of a TLS connection.
const TLS: u8 = 0x16;
const HEAD: usize = 64 * 1024;

/// Certificates the gateway shows to sessions.
pub(crate) struct Faces {
    system: System,
    authorities: Kept<SpaceId, Arc<Authority>>,
    shown: Kept<(SpaceId, Host), Arc<ServerConfig>>,
}

impl Faces {
    pub fn new(system: System) -> Self {
        Self { system, authorities: Kept::new(SHOWN, KEPT), shown: Kept::new(SHOWN, KEPT) }
    }

    async fn of(&self, space: SpaceId, host: &Host) -> Result<Arc<ServerConfig>, Error> {
        let key = (space, host.clone());
        if let Some(config) = self.shown.get(&key) {
            return Ok(config);
        }
        let authority = match self.authorities.get(&space) {
            Some(authority) => authority,
            None => {
                let begun = self.authorities.begin();
                let authority = Arc::new(self.system.authority(space).await?);
                self.authorities.put(begun, space, authority.clone());
                authority
            }
        };
        let leaf = authority.leaf(host, self.system.store().now()).map_err(Error::internal)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key_der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key.expose().to_vec()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::internal)?
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(leaf.certificate)], key_der)
            .map_err(Error::internal)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        self.shown.put(self.shown.begin(), key, config.clone());
        Ok(config)
    }
}

/// Serves what is inside a tunnel. The line is the tunnel's; every request inside has its own.
pub(crate) async fn serve(call: Call, target: Target, client: Upgraded, line: Arc<Line>) {
    line.quiet();
    let ended = tokio::select! {
        ended = inside_tunnel(&call, &target, client) => ended,
        () = call.closed.cancelled() => Ok(()),
        () = call.client.gone() => Ok(()),
        // Its reason stands on it already.
        () = line.ends() => Ok(()),
        () = call.unread.cancelled() => Ok(()),
    };
    if let Err(refusal) = ended {
        line.refused(&refusal);
    }
}

async fn inside_tunnel(call: &Call, target: &Target, client: Upgraded) -> Result<(), Refusal> {
    let mut client = TokioIo::new(client);
    let mut first = [0u8; 1];
    match tokio::time::timeout(call.gateway.idle(), client.read(&mut first)).await {
        Ok(Ok(1)) => {}
        // It changed its mind.
        _ => return Ok(()),
    }
    let client = Begun { begin: Bytes::copy_from_slice(&first), io: client };
    if first[0] != TLS {
        requests(call, target, Scheme::HTTP, client).await;
        return Ok(());
    }
    let config = call.gateway.faces.of(call.session.space, &target.host).await?;
    let shaken = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(client)).await;
    let client = shaken
        .map_err(|_| Refusal::timeout("the client did not finish its TLS handshake"))?
        .map_err(|e| {
            Refusal::upstream(
                "tls",
                format!("the client refused the certificate of the space's authority: {e}"),
            )
        })?;
    requests(call, target, Scheme::HTTPS, client).await;
    Ok(())
}

async fn requests(
    call: &Call,
    target: &Target,
    scheme: Scheme,
    client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let upstream = Arc::new(Upstream::new(&call.gateway));
    let service = service_fn(|request| {
        let (call, upstream) = (call.clone(), upstream.clone());
        let (target, scheme) = (target.clone(), scheme.clone());
        async move { Ok::<_, Infallible>(answer(call, &upstream, scheme, &target, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let http1 = &mut builder.http1();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(call.gateway.idle())
        .max_buf_size(HEAD)
        .half_close(true);
    builder.http2().timer(TokioTimer::new()).max_header_list_size(HEAD as u32).max_concurrent_streams(200);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(client), service);
    let mut serving = std::pin::pin!(serving);
    let done = tokio::select! {
        done = serving.as_mut() => done,
        () = call.stop.draining() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(session = %call.session.session, %error, "an intercepted connection ended early");
    }
}

async fn answer(
    call: Call,
    upstream: &Upstream,
    scheme: Scheme,
    target: &Target,
    request: Request<Incoming>,
) -> Response<Body> {
    if let Err(refusal) = inside(request.uri(), request.headers(), target) {
        let line = call.line(Kind::Request, target);
        line.method(request.method());
        line.refused(&refusal);
        return refusal.response();
    }
    // The tunnel may be older than what its session may do now.
    match call.anew().await {
        Ok(call) => forward::exchange(&call, upstream, scheme, target, request).await,
        Err(refusal) => refusal.response(),
    }
}

/// A connection of which a part was read already.
struct Begun<T> {
    begin: Bytes,
    io: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Begun<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.begin.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.begin.len().min(buf.remaining());
        buf.put_slice(&self.begin.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Begun<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
