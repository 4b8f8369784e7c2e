//! The typed client of `wharf-host`: HTTP/1.1 over the socket of one jail, connections kept for the next request.
//!
//! It does not retry: only its caller knows what may be asked twice. The one exception is a kept connection that turns
//! out to be closed: a request that has not left, and one that only reads, go over a new one.

mod calls;
mod streams;

pub use calls::FileRange;
pub use streams::{ByteStream, Events, FileStream, TerminalReader, TerminalStream, TerminalWriter};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use wharf_domain::Code;
use wharf_wire::host::Fault;

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Connection = SendRequest<Body>;
/// An upgraded connection.
type Raw = TokioIo<hyper::upgrade::Upgraded>;

/// Connections kept for one host while nobody uses them.
const IDLE_CONNECTIONS: usize = 8;
/// How long an answer may take that does no work of the session's own.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes of an answer that is read whole: two output streams, each byte six as a JSON escape at the worst.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Nobody listens at the socket: the jail is gone or was never there.
    #[error("the session's host cannot be reached at {}: {source}", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    /// The host answered no.
    #[error("the session's host refused: {}: {}", .0.code, .0.detail)]
    Refused(Fault),
    /// The connection ended before the answer did. Whether the request was carried out is not known.
    #[error("the session's host broke off: {0}")]
    Broken(String),
    /// No answer in time. Whether the request was carried out is not known.
    #[error("the session's host did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// An answer that is not in the protocol: host and caller are of different versions.
    #[error("the session's host answered what cannot be read: {0}")]
    Strange(String),
}

impl HostError {
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(fault) => fault.code,
            Self::Unreachable { .. } | Self::Broken(_) => Code::Unavailable,
            Self::Late(_) => Code::Timeout,
            Self::Strange(_) => Code::Internal,
        }
    }
}

impl From<HostError> for wharf_domain::Error {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Refused(fault) => {
                let refused = Self::new(fault.code, fault.detail);
                match fault.field {
                    Some(field) => refused.field(field),
                    None => refused,
                }
            }
            HostError::Strange(_) => Self::internal(error),
            HostError::Late(_) => {
                Self::new(Code::Timeout, "the session did not answer in time").because(error)
            }
            HostError::Unreachable { .. } | HostError::Broken(_) => Self::unavailable("the session", error),
        }
    }
}

pub type Result<T, E = HostError> = std::result::Result<T, E>;

/// A host, by its socket. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct HostClient {
    inner: Arc<Inner>,
}

struct Inner {
    socket: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl std::fmt::Debug for HostClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HostClient").field(&self.inner.socket).finish()
    }
}

fn broken(error: impl std::error::Error) -> HostError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    HostError::Broken(text)
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn streamed(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures_util::TryStreamExt as _;
    StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync()
}

fn json_of<T: Serialize>(value: &T) -> Result<Body> {
    serde_json::to_vec(value).map(full).map_err(|e| HostError::Strange(e.to_string()))
}

/// A request's target: path and query, escaped.
struct Target {
    text: String,
    has_query: bool,
}

impl Target {
    fn new(path: impl Into<String>) -> Self {
        Self { text: path.into(), has_query: false }
    }

    fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.push_str(name);
        self.text.push('=');
        self.text.extend(utf8_percent_encode(&value.to_string(), NON_ALPHANUMERIC));
        self
    }

    fn maybe(self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn flag(self, name: &str, value: bool) -> Self {
        if value { self.with(name, "true") } else { self }
    }
}

impl From<&str> for Target {
    fn from(path: &str) -> Self {
        Self::new(path)
    }
}

impl HostClient {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { inner: Arc::new(Inner { socket: socket.into(), idle: Mutex::default() }) }
    }

    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    async fn connect(&self) -> Result<Connection> {
        let unreachable = |source| HostError::Unreachable { socket: self.inner.socket.clone(), source };
        let stream = UnixStream::connect(&self.inner.socket).await.map_err(unreachable)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// A kept connection that still lives.
    async fn kept(&self) -> Option<Connection> {
        loop {
            let mut sender = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn keep(&self, sender: Connection) {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS && !sender.is_closed() {
            idle.push(sender);
        }
    }

    /// Sends and waits for the answer's head. A refusal is an error with the host's own words.
    async fn send(&self, mut request: Request<Body>) -> Result<(Response<Incoming>, Connection)> {
        request.headers_mut().insert(HOST, HeaderValue::from_static("wharf-host"));
        let Some(mut sender) = self.kept().await else {
            let mut sender = self.connect().await?;
            let sent = sender.send_request(request).await;
            return self.judge(sent, sender).await;
        };
        let question = (request.method() == Method::GET).then(|| head_of(&request));
        let sent = match sender.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut e) => match e.take_message().or(question) {
                // The kept connection had been closed: the request has not left, or may be asked again.
                Some(request) => {
                    sender = self.connect().await?;
                    sender.send_request(request).await
                }
                None => Err(e.into_error()),
            },
        };
        self.judge(sent, sender).await
    }

    async fn judge(
        &self,
        sent: hyper::Result<Response<Incoming>>,
        sender: Connection,
    ) -> Result<(Response<Incoming>, Connection)> {
        let response = sent.map_err(broken)?;
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok((response, sender));
        }
        let status = response.status();
        let body = self.whole(response, sender).await?;
        Err(match serde_json::from_slice::<Fault>(&body) {
            Ok(fault) => HostError::Refused(fault),
            Err(_) => HostError::Strange(format!("status {status} without a reason")),
        })
    }

    async fn whole(&self, response: Response<Incoming>, sender: Connection) -> Result<Bytes> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES)
            .collect()
            .await
            .map_err(|e| HostError::Broken(e.to_string()))?
            .to_bytes();
        self.keep(sender);
        Ok(body)
    }

    /// A request and its whole answer.
    async fn call_within(&self, limit: Option<Duration>, request: Request<Body>) -> Result<Bytes> {
        let call = async {
            let (response, sender) = self.send(request).await?;
            self.whole(response, sender).await
        };
        match limit {
            None => call.await,
            Some(limit) => tokio::time::timeout(limit, call).await.unwrap_or(Err(HostError::Late(limit))),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: impl Into<Target>,
        body: Body,
    ) -> Result<T> {
        read(&self.call_within(Some(ANSWER), request(method, target, body)?).await?)
    }

    async fn act(&self, method: Method, target: impl Into<Target>, body: Body) -> Result<()> {
        self.call_within(Some(ANSWER), request(method, target, body)?).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, target: impl Into<Target>) -> Result<T> {
        self.call(Method::GET, target, full(Bytes::new())).await
    }

    async fn post<T: DeserializeOwned>(&self, target: impl Into<Target>, body: &impl Serialize) -> Result<T> {
        self.call(Method::POST, target, json_of(body)?).await
    }

    /// Only the head of the answer has a time limit; what follows takes as long as it takes.
    async fn open(&self, request: Request<Body>) -> Result<(Response<Incoming>, Connection)> {
        tokio::time::timeout(ANSWER, self.send(request)).await.unwrap_or(Err(HostError::Late(ANSWER)))
    }

    async fn upgrade(&self, target: Target, protocol: &'static str) -> Result<Raw> {
        let mut request = request(Method::GET, target, full(Bytes::new()))?;
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
        let (response, _connection) = self.open(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(HostError::Strange(format!("status {} to an upgrade", response.status())));
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(broken)
    }
}

/// A request without a body, once more.
fn head_of(request: &Request<Body>) -> Request<Body> {
    let mut again = Request::new(full(Bytes::new()));
    request.method().clone_into(again.method_mut());
    request.uri().clone_into(again.uri_mut());
    request.headers().clone_into(again.headers_mut());
    again
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| HostError::Strange(e.to_string()))
}

fn request(method: Method, target: impl Into<Target>, body: Body) -> Result<Request<Body>> {
    Request::builder()
        .method(method)
        .uri(target.into().text)
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|e| HostError::Strange(e.to_string()))
}
