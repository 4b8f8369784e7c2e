//! HTTP/1.1 to the gateway, over its unix socket. One connection a request: it never leaves the machine, and a request that is
//! given up ends with its connection.
//!
//! An https address is reached through a tunnel, with the certificates the session trusts: the gateway's own where it adds a
//! credential, the upstream's where it does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// How long the gateway may take to accept.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence after which an answer is given up, unless somebody says otherwise: models that think send nothing for minutes.
pub const SILENCE: Duration = Duration::from_secs(300);
/// Bytes of a body that is read as a whole.
pub const BODY_BYTES: usize = 32 * 1024 * 1024;

/// What a session trusts, where `SSL_CERT_FILE` does not say.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Bytes of the gateway's answer to a `CONNECT`.
const TUNNEL_BYTES: usize = 16 * 1024;

/// Where the gateway listens, inside of a session.
pub const GATEWAY: &str = "/run/wharf/gateway/gateway.sock";

#[derive(Clone, Debug)]
pub struct Gateway {
    socket: PathBuf,
    /// What is trusted behind it.
    certificates: PathBuf,
    /// After so much of it an answer is given up.
    silence: Duration,
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    silence: Duration,
}

impl Gateway {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let certificates =
            std::env::var_os("SSL_CERT_FILE").map_or_else(|| CERTIFICATES.into(), PathBuf::from);
        Self { socket: socket.into(), certificates, silence: SILENCE }
    }

    /// Trusts these and no others.
    #[must_use]
    pub fn trusting(self, certificates: impl Into<PathBuf>) -> Self {
        Self { certificates: certificates.into(), ..self }
    }

    /// Gives an answer up after so much silence, and not before.
    #[must_use]
    pub fn patient(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request. `url` is a path for the gateway itself, or an absolute address it shall reach for us.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        let connect = tokio::time::timeout(CONNECT, UnixStream::connect(&self.socket));
        let stream = match connect.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(format!("the gateway could not be reached: {e}")),
            Err(_) => return Err("the gateway does not accept connections".into()),
        };
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (stream, host, uri): (Box<dyn Stream>, &str, String) = match scheme {
            "" => (Box::new(stream), "gateway", url.to_owned()),
            "https" => {
                let tunnel =
                    tokio::time::timeout(TUNNEL, tunnel(stream, authority, &self.certificates)).await;
                let tunnel =
                    tunnel.unwrap_or_else(|_| Err("the server could not be reached in time".into()))?;
                let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
                (tunnel, authority, path)
            }
            _ => (Box::new(stream), authority, url.to_owned()),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| format!("the gateway broke the connection: {e}"))?;
        tokio::spawn(connection);
        let mut request =
            Request::builder().method(method).uri(uri).header(HOST, host).header(USER_AGENT, AGENT);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
            else {
                return Err(format!("{name:?} cannot be sent as a header"));
            };
            request = request.header(name, value);
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|e| format!("{url:?} is no address: {e}"))?;
        let answer: Response<Incoming> = tokio::time::timeout(self.silence, sender.send_request(request))
            .await
            .map_err(|_| format!("no answer within {} s", self.silence.as_secs()))?
            .map_err(|e| format!("the connection broke: {e}"))?;
        let (parts, body) = answer.into_parts();
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, silence: self.silence })
    }
}

/// How long a tunnel may take to stand.
const TUNNEL: Duration = Duration::from_secs(60);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// TLS with a host, through the gateway.
async fn tunnel(mut stream: UnixStream, authority: &str, trusted: &Path) -> Result<Box<dyn Stream>, String> {
    let broke = |e: std::io::Error| format!("the gateway broke the connection: {e}");
    let port_at = authority.rfind(':').filter(|at| authority[at + 1..].parse::<u16>().is_ok());
    let name = authority[..port_at.unwrap_or(authority.len())].trim_matches(['[', ']']).to_owned();
    let target = if port_at.is_some() { authority.to_owned() } else { format!("{authority}:443") };
    let ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.map_err(broke)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // Byte by byte: what comes behind it is the host's.
        head.push(stream.read_u8().await.map_err(broke)?);
        if head.len() > TUNNEL_BYTES {
            return Err("the gateway's answer is too long".into());
        }
    }
    let text = String::from_utf8_lossy(&head);
    if text.split(' ').nth(1) != Some("200") {
        let mut why = Vec::new();
        let _ = tokio::time::timeout(CONNECT, stream.take(TUNNEL_BYTES as u64).read_to_end(&mut why)).await;
        let line = text.lines().next().unwrap_or_default();
        return Err(format!(
            "the gateway does not let it through: {line}: {}",
            String::from_utf8_lossy(&why).trim()
        ));
    }
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(trusted)
        .map_err(|e| format!("the session's certificates cannot be read from {}: {e}", trusted.display()))?;
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerName::try_from(name).map_err(|e| format!("{authority:?} is no host: {e}"))?;
    let secure = TlsConnector::from(Arc::new(config)).connect(server, stream).await;
    Ok(Box::new(secure.map_err(|e| format!("no trust in {authority}: {e}"))?))
}

const AGENT: &str = concat!("wharf-agent/", env!("CARGO_PKG_VERSION"));

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next bytes; `None` at the proper end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = tokio::time::timeout(self.silence, self.body.frame())
                .await
                .map_err(|_| format!("nothing came for {} s", self.silence.as_secs()))?;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(format!("the connection broke: {e}")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, up to `limit` bytes of it.
    pub async fn bytes(&mut self, limit: usize) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        while let Some(more) = self.chunk().await? {
            if all.len() + more.len() > limit {
                return Err(format!("the answer has more than {limit} bytes"));
            }
            all.extend_from_slice(&more);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
