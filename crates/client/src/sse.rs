//! Server-sent events (WHATWG HTML, section 9.2) from bytes, without loss whatever the chunking.

use bytes::{Buf, BytesMut};

/// One event as it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The cursor to resume after; `None` when the event carries none.
    pub id: Option<String>,
    /// The event's type; `message` when none was sent.
    pub event: String,
    pub data: String,
}

/// The most bytes one event may have; more is a peer that does not speak this protocol.
const FRAME_BYTES: usize = 32 * 1024 * 1024;

/// Takes chunks, gives events.
#[derive(Default)]
pub struct Parser {
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line end.
    scanned: usize,
    frame: Frame,
    data: Option<String>,
    retry: Option<u64>,
    /// Of the last block that had one, an event or not: a server may say where a stream stands before anything happens.
    id: Option<String>,
    size: usize,
}

/// An event or line was longer than any real one.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

impl Parser {
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The pause the server asked for before a reconnect, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry
    }

    /// Where the stream stands: the last id that was sent.
    pub fn last_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The next whole event, or `None` until more bytes are pushed.
    pub fn frame(&mut self) -> Result<Option<Frame>, TooLong> {
        while let Some(line) = self.line()? {
            if line.is_empty() {
                self.size = 0;
                if self.frame.id.is_some() {
                    self.id.clone_from(&self.frame.id);
                }
                let Some(data) = self.data.take() else {
                    self.frame = Frame::default();
                    continue;
                };
                let mut frame = std::mem::take(&mut self.frame);
                frame.data = data;
                if frame.event.is_empty() {
                    "message".clone_into(&mut frame.event);
                }
                return Ok(Some(frame));
            }
            self.size += line.len();
            if self.size > FRAME_BYTES {
                return Err(TooLong);
            }
            self.field(&line);
        }
        Ok(None)
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => match &mut self.data {
                Some(d) => {
                    d.push('\n');
                    d.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "event" => value.clone_into(&mut self.frame.event),
            "id" if !value.contains('\0') => self.frame.id = Some(value.to_owned()),
            "retry" => self.retry = value.parse().ok().or(self.retry),
            _ => {} // a comment (empty name) or a field of a later revision
        }
    }

    /// Takes one line off the buffer. Lines end with LF, CR LF or CR; a CR at the very end waits for its LF.
    fn line(&mut self) -> Result<Option<String>, TooLong> {
        let Some(at) = self.buffer[self.scanned..].iter().position(|b| matches!(b, b'\n' | b'\r')) else {
            self.scanned = self.buffer.len();
            return if self.scanned > FRAME_BYTES { Err(TooLong) } else { Ok(None) };
        };
        let at = self.scanned + at;
        let end = match (self.buffer[at], self.buffer.get(at + 1)) {
            (b'\r', Some(b'\n')) => 2,
            (b'\r', None) => {
                self.scanned = at;
                return Ok(None);
            }
            _ => 1,
        };
        let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
        self.buffer.advance(at + end);
        self.scanned = 0;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests;
