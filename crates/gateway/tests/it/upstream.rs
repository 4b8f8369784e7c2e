//! Servers out in the world: plain, TLS by an authority of the tests' own, and bare TCP.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The authority the world trusts, in these stories.
pub struct Authority {
    pub pem: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

pub fn authority() -> &'static Authority {
    static ONE: LazyLock<Authority> = LazyLock::new(|| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { pem: issuer.pem(), issuer }
    });
    &ONE
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub version: Version,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }
}

type Answering = dyn Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync;

pub struct Upstream {
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream {
    /// Speaks plain HTTP.
    pub async fn plain(answer: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(answer)).await
    }

    /// Speaks TLS under these names, HTTP/2 where it is offered.
    pub async fn tls(
        names: &[&str],
        answer: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let key = KeyPair::generate().unwrap();
        let params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &authority().issuer).unwrap();
        Self::start(Some(acceptor(certificate.der().clone(), &key)), Arc::new(answer)).await
    }

    /// Speaks TLS with a certificate nobody knows.
    pub async fn unknown(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Self::start(Some(acceptor(certificate.der().clone(), &key)), Arc::new(|_: &Seen| says("hello"))).await
    }

    /// Speaks WebSocket over TLS, and offers HTTP/2 beside it as the world's servers do: says what it hears, behind the
    /// credential it was asked with.
    pub async fn wss(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority().issuer).unwrap();
        let tls = acceptor(certificate.der().clone(), &key);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    echo(stream).await;
                });
            }
        });
        Self { port, seen: Arc::default(), task }
    }

    async fn start(tls: Option<TlsAcceptor>, answer: Arc<Answering>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let kept = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, tls.clone(), answer.clone(), kept.clone()));
            }
        });
        Self { port, seen, task }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("nothing arrived")
    }
}

fn acceptor(certificate: rustls::pki_types::CertificateDer<'static>, key: &KeyPair) -> TlsAcceptor {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn echo(stream: tokio_rustls::server::TlsStream<TcpStream>) {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::handshake::server;
    assert_ne!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()), "WebSocket begins in HTTP/1.1");
    let mut credential = String::new();
    let look = |asked: &server::Request, answer: server::Response| {
        let said = asked.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        credential = said.unwrap_or_else(|| "nobody".into());
        Ok(answer)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, look).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() {
            let text = format!("{credential}: {}", message.to_text().unwrap());
            socket.send(text.into()).await.unwrap();
        }
    }
}

/// How long an answer is held back, where it says so itself.
pub const DELAY: &str = "x-test-delay-ms";

async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    answer: Arc<Answering>,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (answer, seen) = (answer.clone(), seen.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let one = Seen {
                method: head.method,
                uri: head.uri.to_string(),
                headers: head.headers,
                body,
                version: head.version,
            };
            let response = answer(&one);
            seen.lock().unwrap().push(one);
            if let Some(ms) = response.headers().get(DELAY) {
                let ms = ms.to_str().unwrap().parse().unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = match tls {
        None => builder.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
            Err(_) => Ok(()),
        },
    };
}

pub fn says(text: &str) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())))
}
