//! The egress log's side in the gateway: one line for each tunnel or request, handed over when it ends and now and then before,
//! written in batches.
//!
//! Nothing waits for the log. It is bounded: when the database is away for long, lines are left out, and their number is
//! said as soon as one can be written again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wharf_domain::egress::Target;
use wharf_domain::{EgressId, Name, SessionId, SpaceId};
use wharf_store::{EGRESS_OPEN, EgressEntry, System};

use crate::body::Way;
use crate::meter::Traffic;
use crate::open::{Open, Watched};
use crate::problem::{Decision, Refusal};
use crate::sessions::Session;

/// Lines that wait to be written, and those of one batch.
const WAITING: usize = 20_000;
const BATCH: usize = 500;
/// How long a first line waits for company.
const LINGER: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(5);
/// How long the last lines may take when the role ends.
const LAST: Duration = Duration::from_secs(3);
/// A line that goes on is told of when it is that old, or has carried that much more than was told.
const SHOWN: Duration = Duration::from_secs(1);
const PIECE: u64 = 4 * 1024 * 1024;

/// On its way to the writer.
enum Item {
    Line(Box<EgressEntry>),
    /// Answered when everything before it is written.
    Mark(oneshot::Sender<()>),
}

/// Where lines go. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    lines: mpsc::Sender<Item>,
    left_out: Arc<AtomicU64>,
    open: Arc<Open>,
}

/// The other end.
pub struct Writer {
    system: System,
    lines: mpsc::Receiver<Item>,
    left_out: Arc<AtomicU64>,
}

/// What is written together: a line once, as it was last told.
#[derive(Default)]
struct Batch {
    lines: Vec<EgressEntry>,
    marks: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, item: Item) {
        match item {
            Item::Mark(mark) => self.marks.push(mark),
            Item::Line(line) => match self.lines.iter_mut().rfind(|l| l.id == line.id) {
                Some(before) => *before = *line,
                None => self.lines.push(*line),
            },
        }
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= BATCH
    }

    fn done(&mut self) {
        self.lines.clear();
        for mark in self.marks.drain(..) {
            let _ = mark.send(());
        }
    }
}

impl Log {
    pub fn new(system: System) -> (Self, Writer) {
        let (send, lines) = mpsc::channel(WAITING);
        let left_out = Arc::new(AtomicU64::new(0));
        let log = Self { lines: send, left_out: left_out.clone(), open: Arc::default() };
        (log, Writer { system, lines, left_out })
    }

    pub(crate) fn open(&self) -> &Arc<Open> {
        &self.open
    }

    /// Returns when everything told so far is written.
    pub async fn written(&self) {
        let (mark, written) = oneshot::channel();
        if self.lines.send(Item::Mark(mark)).await.is_ok() {
            let _ = written.await;
        }
    }

    fn put(&self, entry: EgressEntry) {
        if self.lines.try_send(Item::Line(Box::new(entry))).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Writes until told that no more come; then what is left.
    pub async fn run(mut self, last: CancellationToken) {
        let mut batch = Batch::default();
        loop {
            tokio::select! {
                item = self.lines.recv() => match item {
                    Some(item) => batch.add(item),
                    None => break,
                },
                () = last.cancelled() => break,
            }
            self.gather(&mut batch);
            // Whoever waits for a mark waits for no company.
            if !batch.is_full() && batch.marks.is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(LINGER) => {}
                    () = last.cancelled() => {}
                }
                self.gather(&mut batch);
            }
            self.write(&mut batch, &last).await;
        }
        let rest = async {
            loop {
                self.gather(&mut batch);
                if batch.lines.is_empty() {
                    break;
                }
                if let Err(error) = self.system.write_egress(&batch.lines).await {
                    tracing::warn!(%error, lines = batch.lines.len(), "the last lines of the egress log are lost");
                }
                batch.done();
            }
        };
        let _ = tokio::time::timeout(LAST, rest).await;
    }

    fn gather(&mut self, batch: &mut Batch) {
        while !batch.is_full()
            && let Ok(item) = self.lines.try_recv()
        {
            batch.add(item);
        }
    }

    /// Until it is written, or no time is left.
    async fn write(&self, batch: &mut Batch, last: &CancellationToken) {
        let mut pause = Duration::from_millis(50);
        while !batch.lines.is_empty() {
            match self.system.write_egress(&batch.lines).await {
                Ok(()) => break,
                Err(error) if error.code == wharf_domain::Code::Internal => {
                    let lines = batch.lines.len();
                    tracing::error!(%error, lines, "lines of the egress log could not be written and are lost");
                    break;
                }
                Err(error) => tracing::debug!(%error, "the egress log waits for the database"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MOST),
                () = last.cancelled() => return,
            }
        }
        batch.done();
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            tracing::warn!(left_out, "lines of the egress log were left out while the database was away");
        }
    }
}

/// One tunnel or request. Handed over when the last holder drops it.
pub struct Line {
    log: Log,
    begun: Instant,
    entry: Mutex<EgressEntry>,
    pub traffic: Traffic,
    /// Only worth a line when it was refused.
    quiet: AtomicBool,
    /// Bytes the log was told of.
    told: AtomicU64,
    /// What it was allowed for, once it was.
    watched: OnceLock<Watched>,
    cut: CancellationToken,
    why: OnceLock<&'static str>,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tunnel,
    Request,
    Model,
}

impl Line {
    pub fn begin(log: &Log, system: &System, session: &Session, kind: Kind, target: &Target) -> Arc<Self> {
        let entry = EgressEntry {
            id: EgressId::new(),
            space_id: session.space,
            session_id: session.session,
            turn_id: session.turn,
            kind: match kind {
                Kind::Tunnel => "tunnel",
                Kind::Request => "request",
                Kind::Model => "model",
            },
            host: target.host.to_string(),
            port: target.port,
            method: None,
            status: None,
            decision: Decision::Allowed.as_str(),
            reason: None,
            connection: None,
            bytes_sent: 0,
            bytes_received: 0,
            started_ms: system.store().now().millis(),
            duration_ms: 0,
            session_name: session.name.clone(),
            space_name: session.space_name.clone(),
        };
        let traffic = Traffic::default();
        let id = entry.id;
        let line = Arc::new(Self {
            log: log.clone(),
            begun: Instant::now(),
            entry: Mutex::new(entry),
            traffic,
            quiet: AtomicBool::new(false),
            told: AtomicU64::new(0),
            watched: OnceLock::new(),
            cut: CancellationToken::new(),
            why: OnceLock::new(),
        });
        log.open.add(id, &line);
        line
    }

    /// It was allowed, when that many changes had been heard of ([`Open::heard`]): from now on it is judged again with every change.
    pub(crate) fn watch(&self, judged_at: u64, watched: Watched) {
        let _ = self.watched.set(watched);
        self.log.open.watched(self.session(), judged_at);
    }

    pub(crate) fn watched(&self) -> Option<&Watched> {
        self.watched.get()
    }

    pub(crate) fn session(&self) -> SessionId {
        self.entry().session_id
    }

    pub(crate) fn space(&self) -> SpaceId {
        self.entry().space_id
    }

    /// Ends it, whoever carries it.
    pub(crate) fn cut(&self, reason: &'static str) {
        if self.why.set(reason).is_err() {
            return;
        }
        let host = {
            let mut entry = self.entry();
            entry.reason = Some(reason.to_owned());
            format!("{}:{}", entry.host, entry.port)
        };
        tracing::info!(session = %self.session(), %host, reason, "what was open is not allowed any more and was cut");
        self.quiet.store(false, Ordering::Relaxed);
        self.cut.cancel();
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Returns when it was cut.
    pub(crate) fn ends(&self) -> WaitForCancellationFutureOwned {
        self.cut.clone().cancelled_owned()
    }

    /// Why it was cut, for whose request it is.
    pub(crate) fn end(&self) -> Refusal {
        let reason = self.why.get().copied().unwrap_or("policy");
        let why = match reason {
            "quota" => "the space's quota egress_bytes_per_day is used up",
            "connection" => "the connection whose credential it carried was changed or deleted",
            "guardrail" => "a policy of the space says no",
            _ => "the session's network does not allow it any more",
        };
        Refusal::denied(reason, format!("the request to {} was ended: {why}", self.entry().host))
    }

    /// Bytes that have passed.
    pub(crate) fn passed(&self, way: Way, n: usize) {
        let count = match way {
            Way::Sent => &self.traffic.sent,
            Way::Received => &self.traffic.received,
        };
        count.fetch_add(n as u64, Ordering::Relaxed);
        if self.untold() >= PIECE {
            self.log.open.ring();
        }
    }

    fn untold(&self) -> u64 {
        self.traffic.total().saturating_sub(self.told.load(Ordering::Relaxed))
    }

    /// Tells the log how far it is, where there is something to tell.
    pub(crate) fn tell(&self) -> bool {
        let untold = self.untold();
        if untold == 0 || self.is_cut() || (untold < PIECE && self.begun.elapsed() < SHOWN) {
            return false;
        }
        let mut entry = self.so_far();
        if entry.decision != Decision::Allowed.as_str() || self.quiet.load(Ordering::Relaxed) {
            return false;
        }
        entry.reason = Some(EGRESS_OPEN.to_owned());
        self.told.store(entry.bytes_sent + entry.bytes_received, Ordering::Relaxed);
        self.log.put(entry);
        true
    }

    fn so_far(&self) -> EgressEntry {
        let mut entry = self.entry().clone();
        entry.bytes_sent = self.traffic.sent.load(Ordering::Relaxed);
        entry.bytes_received = self.traffic.received.load(Ordering::Relaxed);
        entry.duration_ms = self.begun.elapsed().as_millis() as u64;
        entry
    }

    /// A method is a word of the client's: what is too long for one is cut.
    pub fn method(&self, method: &http::Method) {
        self.word(method.as_str());
    }

    /// What stands for a method where there is none.
    pub fn word(&self, word: &str) {
        self.entry().method = Some(word.chars().take(32).collect());
    }

    pub fn status(&self, status: http::StatusCode) {
        self.entry().status = Some(status.as_u16());
    }

    pub fn connection(&self, name: &Name) {
        self.entry().connection = Some(name.clone());
    }

    /// What is inside has lines of its own.
    pub fn quiet(&self) {
        self.quiet.store(true, Ordering::Relaxed);
    }

    /// Why it ended, where it was allowed all the same.
    pub fn ended(&self, reason: &'static str) {
        if !self.is_cut() {
            self.entry().reason = Some(reason.to_owned());
        }
    }

    pub fn refused(&self, refusal: &Refusal) {
        let mut entry = self.entry();
        entry.decision = refusal.decision.as_str();
        entry.reason = Some(refusal.reason.to_owned());
        entry.status = Some(refusal.status.as_u16());
    }

    /// A model's request that was not answered by the model.
    pub fn failed(&self, status: http::StatusCode, reason: &'static str) {
        let decision = if status.is_client_error() { Decision::Denied } else { Decision::Failed };
        let mut entry = self.entry();
        entry.decision = decision.as_str();
        entry.reason = Some(reason.to_owned());
        entry.status = Some(status.as_u16());
    }

    fn entry(&self) -> MutexGuard<'_, EgressEntry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let entry = self.so_far();
        self.log.open.remove(entry.id);
        if self.quiet.load(Ordering::Relaxed) && entry.decision == Decision::Allowed.as_str() {
            return;
        }
        self.log.put(entry);
    }
}

#[cfg(test)]
mod tests;
