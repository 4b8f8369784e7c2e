//! Whose socket it is: the session of a jail, kept for a moment.
//!
//! What is kept is dropped when the bus says that the session changed, and is never older than a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wharf_domain::{Error, JailId, SessionId};
use wharf_ports::{Topic, Wake};
use wharf_store::{JailOwner, System};

/// How old what is kept may be: what a lost wake-up costs.
const FRESH: Duration = Duration::from_secs(1);
/// More than a machine runs; beyond it everything is asked for again.
const KEPT: usize = 8192;

/// The session a request is from, as it was when the request came.
pub type Session = JailOwner;

pub(crate) struct Sessions {
    system: System,
    kept: Mutex<HashMap<JailId, (Instant, Arc<Session>)>>,
    /// Grows with every change that was heard of: an answer older than a change is not kept.
    heard: AtomicU64,
}

impl Sessions {
    pub fn new(system: System) -> Self {
        Self { system, kept: Mutex::default(), heard: AtomicU64::new(0) }
    }

    pub async fn of(&self, jail: JailId) -> Result<Option<Arc<Session>>, Error> {
        if let Some((at, session)) = self.kept().get(&jail)
            && at.elapsed() < FRESH
        {
            return Ok(Some(session.clone()));
        }
        let heard = self.heard.load(Ordering::SeqCst);
        let Some(owner) = self.system.jail_owner(jail).await? else {
            self.kept().remove(&jail);
            return Ok(None);
        };
        let session = Arc::new(owner);
        let mut kept = self.kept();
        if heard == self.heard.load(Ordering::SeqCst) {
            if kept.len() >= KEPT {
                kept.clear();
            }
            kept.insert(jail, (Instant::now(), session.clone()));
        }
        Ok(Some(session))
    }

    /// Takes note of a wake-up.
    pub fn hear(&self, wake: Wake) {
        match wake {
            Wake::Topic(Topic::Session(id) | Topic::SessionLog(id)) => self.forget(id),
            Wake::Topic(_) => {}
            Wake::Missed => {
                self.heard.fetch_add(1, Ordering::SeqCst);
                self.kept().clear();
            }
        }
    }

    fn forget(&self, id: SessionId) {
        self.heard.fetch_add(1, Ordering::SeqCst);
        self.kept().retain(|_, (_, s)| s.session != id);
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<JailId, (Instant, Arc<Session>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
