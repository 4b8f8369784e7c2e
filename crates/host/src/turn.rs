//! One turn: its numbered events, kept in memory while it runs and in the volume from its first moment.
//!
//! The journal is what makes "answered once" hold: a turn is in it before anything runs, so a host that starts on the
//! same volume after a crash hands back what was said and `interrupted`, and never runs it again. Only an agent that keeps a
//! journal of its own (`computer-use`) is let go on with its turn there.

pub mod acp;
pub mod agents;
pub mod command;
pub mod journal;
pub mod process;
pub mod relay;
pub mod runner;
pub mod shell;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;
use wharf_wire::host::Piece;
use wharf_wire::host::exec::Stream;
use wharf_wire::host::turn::{Block, Done, Outcome, Reason, Said, TurnEvent, TurnInfo};

use crate::limits;
use crate::process::now_ms;
use crate::text::Chunker;
use journal::{Head, Past};

pub struct Turn {
    pub head: Head,
    /// It had begun at a host that died.
    resumed: bool,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    cancel: watch::Sender<bool>,
}

struct Inner {
    lines: Vec<Bytes>,
    /// Messages and events of tools among them.
    milestones: u64,
    journal: Option<File>,
    said_bytes: usize,
    streams: Vec<Output>,
    /// Who speaks, in a session with several agents, and the messages said since somebody took them.
    speaker: Option<String>,
    replies: Vec<Vec<Block>>,
    done: Option<Done>,
}

struct Output {
    stream: Stream,
    offset: u64,
    is_cut: bool,
    chunker: Chunker,
}

/// The turn said more than a turn may.
#[derive(Debug)]
pub struct TooMuch;

impl Turn {
    pub fn new(head: Head, journal: File) -> Arc<Self> {
        Arc::new(Self {
            head,
            resumed: false,
            inner: Mutex::new(Inner {
                lines: Vec::new(),
                milestones: 0,
                journal: Some(journal),
                said_bytes: 0,
                streams: Vec::new(),
                speaker: None,
                replies: Vec::new(),
                done: None,
            }),
            changed: watch::Sender::new(0),
            cancel: watch::Sender::new(false),
        })
    }

    /// A turn that goes on after its host died, from what the journal kept. Whoever asks has seen `after` events: where the
    /// journal kept fewer, numbers go on behind those that were seen, or what is said now would pass for a repeat.
    pub fn resume(past: Past, journal: File, after: u64) -> Arc<Self> {
        let said = |line: &Bytes| serde_json::from_slice::<TurnEvent>(line).map(|e| e.said);
        let milestones = past.lines.iter().filter(|l| said(l).is_ok_and(|s| is_milestone(&s))).count() as u64;
        let said_bytes = past.lines.iter().map(Bytes::len).sum();
        let turn = Arc::new(Self {
            head: past.head,
            resumed: true,
            inner: Mutex::new(Inner {
                lines: past.lines,
                milestones,
                journal: Some(journal),
                said_bytes,
                streams: Vec::new(),
                speaker: None,
                replies: Vec::new(),
                done: None,
            }),
            changed: watch::Sender::new(0),
            cancel: watch::Sender::new(false),
        });
        let gap = Said::Event { name: "lost".into(), data: Value::Null };
        while (turn.inner().lines.len() as u64) < after.min(limits::TURN_EVENTS) {
            let mut inner = turn.inner();
            let line = line(&inner, gap.clone());
            inner.append(line);
        }
        turn
    }

    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Messages and events of tools so far.
    pub fn milestones(&self) -> u64 {
        self.inner().milestones
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on events carry this agent's name.
    pub fn speaks(&self, agent: &str) {
        self.inner().speaker = Some(agent.to_owned());
    }

    /// The messages said since the last call, where speakers are told apart.
    pub fn take_replies(&self) -> Vec<Vec<Block>> {
        std::mem::take(&mut self.inner().replies)
    }

    /// Appends an event other than output.
    pub fn say(&self, said: Said) -> Result<(), TooMuch> {
        let mut inner = self.inner();
        if inner.done.is_some() {
            return Ok(());
        }
        if inner.lines.len() as u64 >= limits::TURN_EVENTS {
            return Err(TooMuch);
        }
        let counts = is_milestone(&said);
        let reply = match &said {
            Said::Message { content } if inner.speaker.is_some() => Some(content.clone()),
            _ => None,
        };
        let line = line(&inner, said);
        if inner.said_bytes + line.len() > limits::TURN_SAID_BYTES {
            return Err(TooMuch);
        }
        inner.replies.extend(reply);
        inner.said_bytes += line.len();
        inner.milestones += u64::from(counts);
        inner.append(line);
        drop(inner);
        self.bump();
        Ok(())
    }

    /// Appends output. Past its limit a stream is cut, with one event that says where.
    pub fn output(&self, stream: Stream, bytes: &[u8]) {
        self.put(stream, bytes, false);
    }

    /// The stream is over: what was held back of a torn character goes out.
    pub fn output_end(&self, stream: Stream) {
        self.put(stream, &[], true);
    }

    fn put(&self, stream: Stream, bytes: &[u8], is_end: bool) {
        let mut guard = self.inner();
        let inner = &mut *guard;
        if inner.done.is_some() {
            return;
        }
        let at = inner.streams.iter().position(|o| o.stream == stream).unwrap_or_else(|| {
            inner.streams.push(Output { stream, offset: 0, is_cut: false, chunker: Chunker::default() });
            inner.streams.len() - 1
        });
        let events = inner.lines.len() as u64;
        let out = &mut inner.streams[at];
        if out.is_cut {
            return;
        }
        let mut piece = out.chunker.push(bytes);
        if is_end {
            piece.extend(out.chunker.finish());
        }
        if piece.is_empty() {
            return;
        }
        let offset = out.offset;
        let over =
            offset + piece.len() as u64 > limits::TURN_OUTPUT_BYTES || events >= limits::TURN_EVENTS / 2;
        let said = if over {
            out.is_cut = true;
            Said::OutputCut { stream, offset }
        } else {
            out.offset += piece.len() as u64;
            Said::Output { stream, offset, piece: Piece::from(piece) }
        };
        let line = line(inner, said);
        inner.append(line);
        drop(guard);
        self.bump();
    }

    /// The last event. True when the journal has it and all before it.
    pub fn end(&self, done: Done) -> bool {
        let mut inner = self.inner();
        let line = line(&inner, Said::Done(done.clone()));
        inner.append(line);
        inner.done = Some(done);
        let saved = inner.journal.take().is_some();
        drop(inner);
        self.bump();
        saved
    }

    fn bump(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Events behind number `after` and whether they are the last.
    pub fn events(&self, after: u64) -> (Vec<Bytes>, bool) {
        let inner = self.inner();
        let from = usize::try_from(after).unwrap_or(usize::MAX).min(inner.lines.len());
        (inner.lines[from..].to_vec(), inner.done.is_some())
    }

    /// Changes whenever an event is appended.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn is_over(&self) -> bool {
        self.inner().done.is_some()
    }

    /// False when it had ended before.
    pub fn cancel(&self) -> bool {
        let running = !self.is_over();
        if running {
            self.cancel.send_replace(true);
        }
        running
    }

    pub async fn cancelled(&self) {
        let mut cancel = self.cancel.subscribe();
        if cancel.wait_for(|c| *c).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub fn info(&self) -> TurnInfo {
        let inner = self.inner();
        TurnInfo {
            turn: self.head.turn.clone(),
            seq: self.head.seq,
            agent: self.head.agent.clone(),
            running: inner.done.is_none(),
            events: inner.lines.len() as u64,
            done: inner.done.clone(),
        }
    }
}

impl Inner {
    /// A journal that cannot be written (a full disk) is given up: the turn goes on, and is kept in memory.
    fn append(&mut self, line: Bytes) {
        if let Some(journal) = &mut self.journal
            && journal.write_all(&line).is_err()
        {
            self.journal = None;
        }
        self.lines.push(line);
    }
}

fn is_milestone(said: &Said) -> bool {
    match said {
        Said::Message { .. } => true,
        Said::Event { name, .. } => name == "tool_use" || name == "tool_result",
        _ => false,
    }
}

fn line(inner: &Inner, said: Said) -> Bytes {
    let n = inner.lines.len() as u64 + 1;
    event_line(&TurnEvent { n, at_ms: now_ms(), by: inner.speaker.clone(), said })
}

pub fn event_line(event: &TurnEvent) -> Bytes {
    // Serialising these types cannot fail: their keys are strings, their numbers finite JSON.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    Bytes::from(line)
}

pub fn failed(reason: Reason, detail: impl Into<String>) -> Done {
    Done {
        outcome: if reason == Reason::Cancelled { Outcome::Cancelled } else { Outcome::Failed },
        reason: Some(reason),
        detail: Some(detail.into()),
        exit_code: None,
        is_error: false,
        usage: None,
    }
}

pub fn timed_out(limit: Duration) -> Done {
    failed(Reason::Timeout, format!("the turn took longer than its limit of {} s", limit.as_secs()))
}

pub fn cancelled() -> Done {
    failed(Reason::Cancelled, "the turn was cancelled")
}
