//! What one operator process knows of a session besides the tables: is somebody working on it, what was seen of its
//! computer, who drives its turn. All of it may be lost at any moment; it is seen anew then.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use wharf_domain::plan::{Ending, Jail};
use wharf_domain::{SessionId, TurnId};
use wharf_ports::runtime::Running;

/// A driver of a turn.
#[derive(Debug)]
pub struct Driver {
    pub turn: TurnId,
    pub ending: watch::Sender<Option<Ending>>,
    /// Flips when the driver has returned.
    pub over: watch::Receiver<bool>,
    pub task: AbortHandle,
}

#[derive(Debug)]
pub struct Slot {
    /// A reconciler works on it.
    pub working: bool,
    /// Somebody called since that one looked.
    pub called: bool,
    pub jail: Jail,
    /// The computer `jail` speaks of.
    pub running: Option<Running>,
    pub driver: Option<Driver>,
    /// The fencing token of the last claim.
    pub token: i64,
    /// Calls to a runtime or database that was away, in a row.
    pub away: u32,
    /// Its host did not obey: it is ended before anything else.
    pub stuck: bool,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            working: false,
            called: false,
            jail: Jail::Unknown,
            running: None,
            driver: None,
            token: 0,
            away: 0,
            stuck: false,
        }
    }
}

impl Slot {
    /// Forgets what was seen, so that the next plan begins with a look.
    pub fn doubt(&mut self) {
        self.jail = Jail::Unknown;
        self.running = None;
    }

    pub fn seen(&mut self, running: Option<Running>, recorded: bool) {
        self.jail = match &running {
            Some(_) => Jail::Up { greeted: recorded, limits: None },
            None => Jail::Absent,
        };
        self.running = running;
    }

    pub fn driving(&self, turn: Option<TurnId>) -> bool {
        self.driver.as_ref().is_some_and(|d| Some(d.turn) == turn)
    }

    /// Nothing here that could not be seen anew, and nobody who works.
    pub fn empty(&self) -> bool {
        !self.working && self.driver.is_none() && !matches!(self.jail, Jail::Up { .. })
    }
}

/// All slots of this process.
#[derive(Debug, Default)]
pub struct Slots(Mutex<HashMap<SessionId, Slot>>);

impl Slots {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on a slot; never held across a wait.
    pub fn with<T>(&self, id: SessionId, f: impl FnOnce(&mut Slot) -> T) -> T {
        f(self.lock().entry(id).or_default())
    }

    /// True when the caller is to start a reconciler; otherwise the one at work looks again.
    pub fn call(&self, id: SessionId) -> bool {
        self.with(id, |s| {
            s.called = true;
            !std::mem::replace(&mut s.working, true)
        })
    }

    /// The reconciler at work is done, unless somebody called meanwhile.
    pub fn rest(&self, id: SessionId) -> bool {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(&id) else { return true };
        if slot.called {
            return false;
        }
        slot.working = false;
        if slot.empty() {
            slots.remove(&id);
        }
        true
    }

    /// Sessions whose lease must not end: somebody works on them or drives a turn.
    pub fn held(&self) -> Vec<(SessionId, i64)> {
        let slots = self.lock();
        slots
            .iter()
            .filter(|(_, s)| s.token > 0 && (s.working || s.driver.is_some()))
            .map(|(id, s)| (*id, s.token))
            .collect()
    }

    /// The lease is lost: whatever runs here for the session must stop writing.
    pub fn lose(&self, id: SessionId) {
        let mut slots = self.lock();
        if let Some(slot) = slots.get_mut(&id) {
            if let Some(driver) = slot.driver.take() {
                driver.task.abort();
            }
            slot.doubt();
            slot.token = 0;
        }
    }

    pub fn abort_all(&self) {
        for slot in self.lock().values_mut() {
            if let Some(driver) = slot.driver.take() {
                driver.task.abort();
            }
        }
    }
}
