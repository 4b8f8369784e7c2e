//! How many use the ports of a session, and who has been written down for it.
//!
//! A page of a program is a hundred requests: the audit log says that somebody uses a port, not each time they do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;
use wharf_domain::{Code, Error, SessionId, Time, limits};

/// One audit entry a caller and port in this time.
const AUDIT_EVERY: Duration = Duration::from_secs(300);
/// Remembered at the most; beyond this all are forgotten, which costs entries and nothing else.
const REMEMBERED: usize = 8192;

type Seen = HashMap<(Uuid, SessionId, u16), Time>;

/// Of this process; others count for themselves.
#[derive(Clone, Default)]
pub(crate) struct Busy(Arc<Inner>);

#[derive(Default)]
struct Inner {
    slots: Mutex<HashMap<SessionId, Weak<Semaphore>>>,
    seen: Mutex<Seen>,
}

impl Busy {
    /// A place among those that use the session's ports.
    pub(crate) fn enter(&self, session: SessionId) -> Result<OwnedSemaphorePermit, Error> {
        let slots = {
            let mut all = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slots) = all.get(&session).and_then(Weak::upgrade) {
                slots
            } else {
                all.retain(|_, slots| slots.strong_count() > 0);
                let slots = Arc::new(Semaphore::new(limits::PORT_CONNECTIONS));
                all.insert(session, Arc::downgrade(&slots));
                slots
            }
        };
        slots.try_acquire_owned().map_err(|_| {
            let most = limits::PORT_CONNECTIONS;
            Error::new(
                Code::RateLimited,
                format!("{most} requests and connections to the session's ports are open (limit PORT_CONNECTIONS); close some"),
            )
            .retry_after(Duration::from_secs(1))
        })
    }

    /// Whether this use is one for the audit log.
    pub(crate) fn first(&self, principal: Uuid, session: SessionId, port: u16, now: Time) -> bool {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        let before = seen.get(&(principal, session, port));
        if before.is_some_and(|at| now.since(*at) < AUDIT_EVERY) {
            return false;
        }
        seen.insert((principal, session, port), now);
        true
    }
}

#[cfg(test)]
mod tests;
