//! What a session may use of the gateway: connections at a time, connections and requests a second, bytes a second.
//!
//! Too fast is slowed down; what would have to wait too long, and what is too many, is refused with the limit's name.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wharf_chassis::settings;

use crate::problem::Refusal;

/// The longest a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections beyond the most that are told so at a time; others are closed without a word.
const TOLD: u32 = 8;

/// Tokens that come back with time. Taking more than there are is a debt, and a debt is time to wait.
struct Bucket {
    rate: f64,
    most: f64,
    state: Mutex<(f64, Option<Instant>)>,
}

impl Bucket {
    fn new(rate: f64, most: f64) -> Self {
        Self { rate, most, state: Mutex::new((most, None)) }
    }

    /// Takes `n` and says how long to wait; takes nothing where that is longer than `longest`.
    fn take(&self, n: f64, longest: Duration) -> Result<Duration, Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = state.1.map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        let tokens = (state.0 + since * self.rate).min(self.most);
        let left = tokens - n;
        let wait = Duration::from_secs_f64((-left).max(0.0) / self.rate);
        let taken = wait <= longest;
        *state = (if taken { left } else { tokens }, Some(now));
        if taken { Ok(wait) } else { Err(wait) }
    }
}

/// Of one jail.
pub(crate) struct Meter {
    open: AtomicU32,
    most: u32,
    per_second: u32,
    calls: Bucket,
    /// Of its own, so that a flood of connections keeps no agent from asking.
    questions: Bucket,
    /// Connections that are told that they are too many.
    refused: AtomicU32,
    bytes: Option<Bucket>,
}

/// One open connection; counted until the last clone is dropped.
pub(crate) struct Slot(Arc<Meter>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A connection that is one too many, while it is told so.
pub(crate) struct Refused(Arc<Meter>);

impl Drop for Refused {
    fn drop(&mut self) {
        self.0.refused.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Meter {
    pub fn new(settings: &settings::Gateway) -> Self {
        let rate = f64::from(settings.connections_per_second.max(1));
        let bytes = settings.bytes_per_second as f64;
        Self {
            open: AtomicU32::new(0),
            most: settings.max_connections,
            per_second: settings.connections_per_second,
            calls: Bucket::new(rate, rate * 2.0),
            questions: Bucket::new(rate, rate * 2.0),
            refused: AtomicU32::new(0),
            bytes: (settings.bytes_per_second > 0).then(|| Bucket::new(bytes, bytes)),
        }
    }

    /// Counts a connection, unless there are too many.
    pub fn enter(self: &Arc<Self>) -> Result<Slot, Refusal> {
        let before = self.open.fetch_add(1, Ordering::SeqCst);
        let slot = Slot(self.clone());
        if before < self.most {
            return Ok(slot);
        }
        Err(Refusal::limit(format!(
            "the session has {} connections open, and no more are allowed (gateway.max_connections); close some",
            self.most
        )))
    }

    /// Whether one that is too many may be told so.
    pub fn refuse(self: &Arc<Self>) -> Option<Refused> {
        let before = self.refused.fetch_add(1, Ordering::SeqCst);
        Some(Refused(self.clone())).filter(|_| before < TOLD)
    }

    /// Waits for the turn of one more tunnel or request.
    pub async fn pace(&self) -> Result<(), Refusal> {
        self.turn(&self.calls, "opens more than", "connections").await
    }

    /// Waits for the turn of one more question to the guardrails.
    pub async fn question(&self) -> Result<(), Refusal> {
        self.turn(&self.questions, "asks the guardrails more than", "times").await
    }

    async fn turn(&self, of: &Bucket, does: &str, what: &str) -> Result<(), Refusal> {
        match of.take(1.0, PATIENCE) {
            Ok(wait) if wait.is_zero() => Ok(()),
            Ok(wait) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            Err(_) => Err(Refusal::limit(format!(
                "the session {does} {} {what} a second (gateway.connections_per_second); slow down",
                self.per_second
            ))),
        }
    }

    /// How long to wait after these bytes.
    pub fn bytes(&self, n: usize) -> Duration {
        let longest = Duration::from_secs(3600);
        self.bytes.as_ref().map_or(Duration::ZERO, |b| b.take(n as f64, longest).unwrap_or_else(|wait| wait))
    }
}

/// Bytes carried so far.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the session.
    pub sent: AtomicU64,
    /// To the session.
    pub received: AtomicU64,
}

impl Traffic {
    pub fn total(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
