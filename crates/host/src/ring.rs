//! Output of a process: the last bytes of a stream, each at its absolute offset, for any number of readers.
//!
//! A reader that is slow loses the oldest bytes and is told how many. Unless one `hold`s: then the writer waits for it, and with
//! it the process.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub struct Ring {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

struct Inner {
    bytes: VecDeque<u8>,
    end: u64,
    capacity: usize,
    closed: bool,
    hold: Option<u64>,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub struct Slice {
    /// Of the first byte; later than asked for when bytes were lost.
    pub offset: u64,
    pub lost: u64,
    pub bytes: Vec<u8>,
    /// No byte will follow these.
    pub end: bool,
}

impl Slice {
    pub fn next(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Ring {
    pub fn new(capacity: u64) -> Self {
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX).max(1);
        Self {
            inner: Mutex::new(Inner { bytes: VecDeque::new(), end: 0, capacity, closed: false, hold: None }),
            changed: watch::Sender::new(0),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub fn push(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        {
            let mut inner = self.inner();
            let keep = &bytes[bytes.len().saturating_sub(inner.capacity)..];
            let over = (inner.bytes.len() + keep.len()).saturating_sub(inner.capacity);
            inner.bytes.drain(..over);
            inner.bytes.extend(keep);
            inner.end += bytes.len() as u64;
        }
        self.bump();
    }

    /// No more will come.
    pub fn close(&self) {
        self.inner().closed = true;
        self.bump();
    }

    pub fn is_closed(&self) -> bool {
        self.inner().closed
    }

    /// Bytes ever written.
    pub fn end(&self) -> u64 {
        self.inner().end
    }

    pub fn read(&self, offset: u64, most: usize) -> Slice {
        let inner = self.inner();
        let start = inner.end - inner.bytes.len() as u64;
        let from = offset.clamp(start, inner.end);
        let skip = (from - start) as usize;
        let count = (inner.bytes.len() - skip).min(most);
        let bytes: Vec<u8> = inner.bytes.range(skip..skip + count).copied().collect();
        let end = inner.closed && from + count as u64 == inner.end;
        Slice { offset: from, lost: start.saturating_sub(offset), bytes, end }
    }

    /// Waits until there is something at `offset` or nothing will be.
    pub async fn wait(&self, offset: u64) {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let inner = self.inner();
                if inner.end > offset || inner.closed {
                    return;
                }
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until no more will come.
    pub async fn wait_closed(&self) {
        self.wait(u64::MAX).await;
    }

    /// From now on the writer stays less than the capacity ahead of `offset`; None lets it run.
    pub fn hold(&self, offset: Option<u64>) {
        self.inner().hold = offset;
        self.bump();
    }

    /// Waits until the writer may write, and says how much.
    pub async fn room(&self, most: usize) -> usize {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let inner = self.inner();
                let room = match inner.hold {
                    None => most,
                    Some(read) => {
                        inner.capacity.saturating_sub((inner.end.saturating_sub(read)) as usize).min(most)
                    }
                };
                if room > 0 {
                    return room;
                }
            }
            if changed.changed().await.is_err() {
                return most;
            }
        }
    }
}
