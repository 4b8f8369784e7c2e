//! Connections to upstreams: the name is resolved here, every address judged, and a judged address is what is dialled.
//!
//! Nothing is resolved twice, so a name that changes its address between look-up and dial (rebinding) gains nothing.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wharf_domain::Error;
use wharf_domain::egress::address::{Exception, guard};
use wharf_domain::egress::{Host, Target};

use crate::machine::Machine;
use crate::problem::Refusal;

/// Between two addresses of a name (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried.
const ADDRESSES: usize = 16;

/// Names to addresses. The machine's own resolver in service; a test's in tests.
#[async_trait::async_trait]
pub trait Resolve: Send + Sync + 'static {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The machine's resolver. Its look-ups take a thread each, so only so many are under way.
pub struct SystemResolver(Semaphore);

/// Look-ups under way. The runtime has 512 threads for all such work.
const LOOKUPS: usize = 128;

impl Default for SystemResolver {
    fn default() -> Self {
        Self(Semaphore::new(LOOKUPS))
    }
}

#[async_trait::async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let _turn = self.0.acquire().await.map_err(io::Error::other)?;
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|a| a.ip()).collect())
    }
}

/// Resolves, judges, dials.
pub struct Dialer {
    resolver: Arc<dyn Resolve>,
    machine: Machine,
    exceptions: Vec<Exception>,
    timeout: Duration,
}

impl Dialer {
    pub fn new(
        resolver: Arc<dyn Resolve>,
        machine: Machine,
        exceptions: Vec<Exception>,
        timeout: Duration,
    ) -> Self {
        Self { resolver, machine, exceptions, timeout }
    }

    /// A connection to the first address of the target that answers.
    pub async fn connect(&self, target: &Target) -> Result<TcpStream, Refusal> {
        let limit = self.timeout;
        let work = async {
            let addresses = self.addresses(target).await?;
            race(&addresses)
                .await
                .map_err(|e| Refusal::upstream("connect", format!("{target} could not be reached: {e}")))
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Refusal::timeout(format!(
                "{target} did not answer within {} s (gateway.connect_timeout_seconds)",
                limit.as_secs()
            )))
        })
    }

    /// Whether the target has an address that may be dialled.
    pub async fn check(&self, target: &Target) -> Result<(), Refusal> {
        let looked = tokio::time::timeout(self.timeout, self.addresses(target)).await;
        looked
            .unwrap_or_else(|_| Err(Refusal::timeout(format!("{} was not resolved in time", target.host))))
            .map(drop)
    }

    /// The addresses of the target that may be dialled, in the order to try them.
    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, Refusal> {
        let found =
            match &target.host {
                Host::Address(address) => vec![*address],
                Host::Name(name) => self.resolver.resolve(name).await.map_err(|e| {
                    Refusal::upstream("resolve", format!("{name} could not be resolved: {e}"))
                })?,
            };
        let own = self.machine.addresses();
        let mut refused = None;
        let mut allowed: Vec<IpAddr> = Vec::new();
        for address in found.into_iter().map(|a| a.to_canonical()) {
            match guard(address, target.port, &own, &self.exceptions) {
                Ok(()) if !allowed.contains(&address) => allowed.push(address),
                Ok(()) => {}
                Err(what) => refused = Some((address, what)),
            }
        }
        if allowed.is_empty() {
            return Err(match refused {
                Some((address, what)) => Refusal::denied(
                    "address",
                    format!(
                        "{target} is refused: its address {address} is {what}, which no session may reach; the installation's \
                         setting gateway.allow_private can make an exception"
                    ),
                ),
                None => Refusal::upstream("resolve", format!("{} has no address", target.host)),
            });
        }
        Ok(interleave(allowed).into_iter().take(ADDRESSES).map(|a| SocketAddr::new(a, target.port)).collect())
    }
}

/// The two families in turn, beginning with what the resolver put first.
fn interleave(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (a, b): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first);
    let mut out = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    loop {
        match (a.next(), b.next()) {
            (None, None) => return out,
            (x, y) => out.extend(x.into_iter().chain(y)),
        }
    }
}

/// Dials one after the other, a quarter of a second apart or as soon as one failed; the first that answers is taken.
async fn race(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().copied();
    let mut dials = FuturesUnordered::new();
    let mut last = io::Error::other("it has no address");
    loop {
        if let Some(next) = waiting.next() {
            dials.push(TcpStream::connect(next));
        } else if dials.is_empty() {
            return Err(last);
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(done) = dials.next() => match done {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            },
            () = tokio::time::sleep(STAGGER), if more => {}
        }
    }
}

/// How upstreams are spoken to over TLS: certificates are verified, always.
#[derive(Clone)]
pub struct Tls {
    /// HTTP/2 where the upstream has it.
    any: TlsConnector,
    /// HTTP/1.1 only: for what is to be upgraded.
    one: TlsConnector,
}

impl Tls {
    /// Trusts what the machine trusts, and the certificates in the file.
    pub fn load(extra: Option<&Path>) -> Result<Self, Error> {
        let mut roots = rustls::RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(native.certs);
        if let Some(path) = extra {
            let refuse = |why: String| Error::internal(format!("gateway.ca_file {}: {why}", path.display()));
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|e| refuse(e.to_string()))?;
            if certificates.is_empty() {
                return Err(refuse("it holds no certificate".into()));
            }
            for certificate in certificates {
                roots.add(certificate).map_err(|e| refuse(e.to_string()))?;
            }
        } else if added == 0 {
            tracing::warn!(
                "this machine trusts no certificate authority: install ca-certificates, or no connection can be made to https"
            );
        }
        let with = |alpn: &[&[u8]]| -> Result<TlsConnector, Error> {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(Error::internal)?
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
            Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self { any: with(&[b"h2", b"http/1.1"])?, one: with(&[b"http/1.1"])? })
    }
}

/// What `hyper` dials with: plain or TLS by the scheme.
#[derive(Clone)]
pub struct Connector {
    dialer: Arc<Dialer>,
    tls: TlsConnector,
    timeout: Duration,
}

impl Connector {
    pub fn new(dialer: Arc<Dialer>, tls: &Tls, upgrades: bool) -> Self {
        let timeout = dialer.timeout;
        Self { dialer, tls: if upgrades { tls.one.clone() } else { tls.any.clone() }, timeout }
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<Wire>, Refusal> {
        let secure = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let target = Target::parse(authority, Some(if secure { 443 } else { 80 }))
            .map_err(|e| Refusal::bad_request(e.public))?;
        let stream = self.dialer.connect(&target).await?;
        if !secure {
            return Ok(TokioIo::new(Wire::Plain(stream)));
        }
        let name = match &target.host {
            Host::Name(name) => ServerName::try_from(name.clone())
                .map_err(|_| Refusal::bad_request(format!("{name} cannot stand in a certificate")))?,
            Host::Address(address) => ServerName::from(*address),
        };
        let shaking = tokio::time::timeout(self.timeout, self.tls.connect(name, stream)).await;
        let stream = shaking
            .map_err(|_| Refusal::timeout(format!("{target} did not finish its TLS handshake in time")))?
            .map_err(|e| Refusal::upstream("tls", format!("no TLS with {target}: {e}")))?;
        Ok(TokioIo::new(Wire::Tls(Box::new(stream))))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection to an upstream.
pub enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Wire::Plain($stream) => $call,
            Wire::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => Pin::new(s).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(s) => s.is_write_vectored(),
            Self::Tls(s) => s.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests;
