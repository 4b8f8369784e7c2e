//! When to look at which session again: one time a session, the nearest first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use wharf_domain::{SessionId, Time};

#[derive(Debug, Default)]
struct State {
    at: HashMap<SessionId, Time>,
    /// Entries whose time is not that in `at` are old and skipped.
    queue: BinaryHeap<Reverse<(Time, SessionId)>>,
}

#[derive(Debug, Default)]
pub struct Timers {
    state: Mutex<State>,
    /// Rung when the nearest time changed.
    pub nearer: Notify,
}

impl Timers {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the session's time.
    pub fn set(&self, id: SessionId, at: Time) {
        let mut state = self.lock();
        if state.at.insert(id, at) == Some(at) {
            return;
        }
        let nearest = state.queue.peek().is_none_or(|Reverse((first, _))| at < *first);
        state.queue.push(Reverse((at, id)));
        drop(state);
        if nearest {
            self.nearer.notify_one();
        }
    }

    pub fn clear(&self, id: SessionId) {
        self.lock().at.remove(&id);
    }

    /// Sessions whose time has come, and the time of the next.
    pub fn due(&self, now: Time) -> (Vec<SessionId>, Option<Time>) {
        let mut state = self.lock();
        let mut due = Vec::new();
        while let Some(&Reverse((at, id))) = state.queue.peek() {
            let current = state.at.get(&id) == Some(&at);
            if current && at > now {
                return (due, Some(at));
            }
            state.queue.pop();
            if current {
                state.at.remove(&id);
                due.push(id);
            }
        }
        (due, None)
    }
}

#[cfg(test)]
mod tests;
