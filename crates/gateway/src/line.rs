//! The egress log's side in the gateway: one line for each tunnel or request, handed over when it ends, written in batches.
//!
//! Nothing waits for the log. It is bounded: when the database is away for long, lines are left out, and their number is
//! said as soon as one can be written again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_domain::egress::Target;
use wharf_domain::{EgressId, Name};
use wharf_store::{EgressEntry, System};

use crate::meter::Traffic;
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

/// Where lines go. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    lines: mpsc::Sender<EgressEntry>,
    left_out: Arc<AtomicU64>,
}

/// The other end.
pub struct Writer {
    system: System,
    lines: mpsc::Receiver<EgressEntry>,
    left_out: Arc<AtomicU64>,
}

impl Log {
    pub fn new(system: System) -> (Self, Writer) {
        let (send, lines) = mpsc::channel(WAITING);
        let left_out = Arc::new(AtomicU64::new(0));
        (Self { lines: send, left_out: left_out.clone() }, Writer { system, lines, left_out })
    }

    fn put(&self, entry: EgressEntry) {
        if self.lines.try_send(entry).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Writes until told that no more come; then what is left.
    pub async fn run(mut self, last: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                n = self.lines.recv_many(&mut batch, BATCH) => if n == 0 { break },
                () = last.cancelled() => break,
            }
            if batch.len() < BATCH {
                tokio::select! {
                    () = tokio::time::sleep(LINGER) => {}
                    () = last.cancelled() => {}
                }
                while batch.len() < BATCH
                    && let Ok(line) = self.lines.try_recv()
                {
                    batch.push(line);
                }
            }
            self.write(&mut batch, &last).await;
        }
        let rest = async {
            while let Ok(line) = self.lines.try_recv() {
                batch.push(line);
            }
            for part in batch.chunks(BATCH) {
                if let Err(error) = self.system.write_egress(part).await {
                    tracing::warn!(%error, lines = part.len(), "the last lines of the egress log are lost");
                }
            }
        };
        let _ = tokio::time::timeout(LAST, rest).await;
    }

    /// Until it is written, or no time is left.
    async fn write(&self, batch: &mut Vec<EgressEntry>, last: &CancellationToken) {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.system.write_egress(batch).await {
                Ok(()) => break,
                Err(error) if error.code == wharf_domain::Code::Internal => {
                    tracing::error!(%error, lines = batch.len(), "lines of the egress log could not be written and are lost");
                    break;
                }
                Err(error) => tracing::debug!(%error, "the egress log waits for the database"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MOST),
                () = last.cancelled() => return,
            }
        }
        batch.clear();
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
        let quiet = AtomicBool::new(false);
        Arc::new(Self { log: log.clone(), begun: Instant::now(), entry: Mutex::new(entry), traffic, quiet })
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
        self.entry().reason = Some(reason.to_owned());
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
        let mut entry = self.entry().clone();
        if self.quiet.load(Ordering::Relaxed) && entry.decision == Decision::Allowed.as_str() {
            return;
        }
        entry.bytes_sent = self.traffic.sent.load(Ordering::Relaxed);
        entry.bytes_received = self.traffic.received.load(Ordering::Relaxed);
        entry.duration_ms = self.begun.elapsed().as_millis() as u64;
        self.log.put(entry);
    }
}
