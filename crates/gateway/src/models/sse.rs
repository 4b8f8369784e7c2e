//! Server-sent events, cut where they end and otherwise left alone.

use bytes::{Bytes, BytesMut};

/// An event that never ends is none; the largest ones carry a whole answer with images.
const LARGEST: usize = 32 * 1024 * 1024;

/// Cuts a stream of bytes into events, each with the blank line that ends it.
#[derive(Default)]
pub(super) struct Splitter {
    rest: BytesMut,
    /// Up to here no end was found.
    looked: usize,
    lost: bool,
}

impl Splitter {
    /// The events that end in `piece`.
    pub fn push(&mut self, piece: &[u8]) -> Vec<Bytes> {
        if self.lost {
            return Vec::new();
        }
        self.rest.extend_from_slice(piece);
        let mut events = Vec::new();
        while let Some(end) = self.end() {
            events.push(self.rest.split_to(end).freeze());
            self.looked = 0;
        }
        if self.rest.len() > LARGEST {
            self.lost = true;
        }
        events
    }

    /// What came after the last event.
    pub fn rest(&mut self) -> Bytes {
        self.looked = 0;
        self.rest.split().freeze()
    }

    /// Whether it gave up: what follows cannot be cut.
    pub fn lost(&self) -> bool {
        self.lost
    }

    fn end(&mut self) -> Option<usize> {
        let bytes = &self.rest[..];
        let mut at = self.looked;
        while let Some(n) = bytes[at..].iter().position(|b| *b == b'\n') {
            let line = at + n + 1;
            match bytes.get(line) {
                Some(b'\n') => return Some(line + 1),
                Some(b'\r') if bytes.get(line + 1) == Some(&b'\n') => return Some(line + 2),
                _ => at = line,
            }
        }
        // The end may begin with the last three bytes.
        self.looked = bytes.len().saturating_sub(3);
        None
    }
}

/// The data of an event: its `data:` lines.
pub(super) fn data(event: &[u8]) -> Option<Vec<u8>> {
    let mut found: Option<Vec<u8>> = None;
    for line in event.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(value) = line.strip_prefix(b"data:") else { continue };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &mut found {
            Some(all) => {
                all.push(b'\n');
                all.extend_from_slice(value);
            }
            None => found = Some(value.to_vec()),
        }
    }
    found
}
