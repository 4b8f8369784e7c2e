//! Answers that go on: events, bytes, terminals.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use hyper::body::{Body as _, Incoming};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use wharf_wire::host::frame::Frame;

use super::{Connection, HostError, Raw, Result, broken, read};

/// Bytes of one event. A turn's message may take 4 MiB, its escapes more.
const EVENT_BYTES: usize = 64 * 1024 * 1024;

/// The bytes of an answer as they come. An answer that breaks off is an error, never an early end.
pub struct ByteStream {
    body: Incoming,
    // The connection lives as long as the answer.
    _connection: Connection,
}

impl ByteStream {
    pub(super) fn new(body: Incoming, connection: Connection) -> Self {
        Self { body, _connection: connection }
    }

    /// Everything, up to `limit` bytes.
    pub async fn collect(mut self, limit: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next().await {
            let chunk = chunk?;
            if all.len() + chunk.len() > limit {
                return Err(HostError::Strange(format!("the answer is over {limit} bytes")));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

impl Stream for ByteStream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(e)) => return Poll::Ready(Some(Err(broken(e)))),
                Some(Ok(frame)) => frame,
            };
            if let Ok(data) = frame.into_data() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }
}

/// Content of a file, or a part of it.
pub struct FileStream {
    /// Bytes to come, where the host knows (not for files of `/proc`).
    pub length: Option<u64>,
    /// `Content-Range`, when a range was asked for.
    pub range: Option<String>,
    pub bytes: ByteStream,
}

/// Events of a process or a turn. A stream that ends without its last event was cut off with the host's life.
pub struct Events<T> {
    bytes: ByteStream,
    buffer: BytesMut,
    searched: usize,
    _event: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Events<T> {
    pub(super) fn new(bytes: ByteStream) -> Self {
        Self { bytes, buffer: BytesMut::new(), searched: 0, _event: PhantomData }
    }

    /// The next event; None at the end.
    pub async fn next(&mut self) -> Option<Result<T>>
    where
        T: Unpin,
    {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn take_line(&mut self) -> Option<Result<T>> {
        let at = self.buffer[self.searched..].iter().position(|b| *b == b'\n');
        let Some(at) = at else {
            self.searched = self.buffer.len();
            return (self.buffer.len() > EVENT_BYTES)
                .then(|| Err(HostError::Strange(format!("an event is over {EVENT_BYTES} bytes"))));
        };
        let line = self.buffer.split_to(self.searched + at + 1);
        self.searched = 0;
        Some(read(&line[..line.len() - 1]))
    }
}

impl<T: DeserializeOwned + Unpin> Stream for Events<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.take_line() {
                return Poll::Ready(Some(event));
            }
            match ready!(Pin::new(&mut self.bytes).poll_next(cx)) {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None if self.buffer.is_empty() => return Poll::Ready(None),
                None => {
                    self.buffer.clear();
                    self.searched = 0;
                    return Poll::Ready(Some(Err(HostError::Broken("in the middle of an event".into()))));
                }
            }
        }
    }
}

/// An attached terminal.
pub struct TerminalStream {
    pub reader: TerminalReader,
    pub writer: TerminalWriter,
}

pub struct TerminalReader {
    from: ReadHalf<Raw>,
    buffer: BytesMut,
}

pub struct TerminalWriter {
    to: WriteHalf<Raw>,
    out: Vec<u8>,
}

impl TerminalStream {
    pub(super) fn new(raw: Raw) -> Self {
        let (from, to) = tokio::io::split(raw);
        Self {
            reader: TerminalReader { from, buffer: BytesMut::new() },
            writer: TerminalWriter { to, out: Vec::new() },
        }
    }
}

impl TerminalReader {
    /// The next frame; None when the terminal is gone.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) =
                Frame::decode(&mut self.buffer).map_err(|e| HostError::Strange(e.to_string()))?
            {
                return Ok(Some(frame));
            }
            if self.from.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                return Ok(None);
            }
        }
    }
}

impl TerminalWriter {
    pub async fn send(&mut self, frame: &Frame) -> Result<()> {
        self.out.clear();
        frame.encode(&mut self.out);
        self.to.write_all(&self.out).await.map_err(broken)?;
        self.to.flush().await.map_err(broken)
    }

    pub async fn keys(&mut self, bytes: impl Into<Vec<u8>>) -> Result<()> {
        self.send(&Frame::Data(bytes.into())).await
    }

    pub async fn resize(&mut self, cols: u16, rows: u16) -> Result<()> {
        self.send(&Frame::Resize { cols, rows }).await
    }
}
