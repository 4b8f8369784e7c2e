//! Answers: JSON, bytes, or a stream that ends when its sender does. A stream that fails breaks the connection, so
//! that a cut answer never looks like a whole one.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;
use wharf_domain::Code;
use wharf_wire::host::NDJSON;

use crate::fault::Fault;

pub type Reply = Response<Body>;

pub enum Body {
    Full(Option<Bytes>),
    Stream { chunks: mpsc::Receiver<std::io::Result<Bytes>>, left: Option<u64> },
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream { chunks, left } => match chunks.poll_recv(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some(Err(e))) => Poll::Ready(Some(Err(e))),
                Poll::Ready(Some(Ok(chunk))) => {
                    if let Some(left) = left {
                        *left = left.saturating_sub(chunk.len() as u64);
                    }
                    Poll::Ready(Some(Ok(Frame::data(chunk))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream { left: Some(left), .. } => SizeHint::with_exact(*left),
            Self::Stream { left: None, .. } => SizeHint::default(),
        }
    }
}

pub fn bytes(status: StatusCode, media: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Body::Full(Some(Bytes::from(body))));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(media));
    reply
}

pub fn json<T: Serialize>(value: &T) -> Result<Reply, Fault> {
    json_with(StatusCode::OK, value)
}

pub fn json_with<T: Serialize>(status: StatusCode, value: &T) -> Result<Reply, Fault> {
    let body = serde_json::to_vec(value)
        .map_err(|e| Fault::new(Code::Internal, format!("the answer is not JSON: {e}")))?;
    Ok(bytes(status, "application/json", body))
}

pub fn empty() -> Reply {
    let mut reply = Response::new(Body::Full(None));
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}

pub fn fault(fault: &Fault) -> Reply {
    let status = StatusCode::from_u16(fault.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(&*fault.0).unwrap_or_default();
    bytes(status, "application/json", body)
}

/// A body fed through a channel. With `length` the answer promises so many bytes.
pub fn stream(status: StatusCode, media: &'static str, length: Option<u64>) -> (Sender, Reply) {
    let (sender, chunks) = mpsc::channel(4);
    let mut reply = Response::new(Body::Stream { chunks, left: length });
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(media));
    if let Some(length) = length {
        reply.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    (Sender(sender), reply)
}

pub fn ndjson() -> (Sender, Reply) {
    stream(StatusCode::OK, NDJSON, None)
}

/// The feeding end of a streamed answer.
#[derive(Clone)]
pub struct Sender(mpsc::Sender<std::io::Result<Bytes>>);

/// The reader went away.
#[derive(Debug)]
pub struct Gone;

impl Sender {
    pub async fn bytes(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        self.0.send(Ok(bytes.into())).await.map_err(|_| Gone)
    }

    pub async fn line<T: Serialize + Sync>(&self, event: &T) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(event).map_err(|_| Gone)?;
        line.push(b'\n');
        self.bytes(line).await
    }

    /// Breaks the answer off, visibly.
    pub async fn fail(&self, error: std::io::Error) {
        let _ = self.0.send(Err(error)).await;
    }

    pub fn blocking(&self, bytes: Vec<u8>) -> std::io::Result<()> {
        self.0
            .blocking_send(Ok(Bytes::from(bytes)))
            .map_err(|_| std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the reader went away"))
    }

    pub fn blocking_fail(&self, error: std::io::Error) {
        let _ = self.0.blocking_send(Err(error));
    }

    /// Resolves when the reader is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}
