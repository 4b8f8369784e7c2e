//! What is kept of the database for a moment: never older than its time, and dropped when a change is heard of.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) struct Kept<K, V> {
    all: Mutex<HashMap<K, (Instant, V)>>,
    /// Grows with every change that was heard of: what was read before one is not kept after it.
    heard: AtomicU64,
    fresh: Duration,
    most: usize,
}

/// When a read began.
#[derive(Clone, Copy)]
pub(crate) struct Begun(u64);

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    /// Beyond `most` entries everything is read again.
    pub fn new(fresh: Duration, most: usize) -> Self {
        Self { all: Mutex::default(), heard: AtomicU64::new(0), fresh, most }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        self.all().get(key).filter(|(at, _)| at.elapsed() < self.fresh).map(|(_, v)| v.clone())
    }

    /// Before reading what is to be kept.
    pub fn begin(&self) -> Begun {
        Begun(self.heard.load(Ordering::SeqCst))
    }

    pub fn put(&self, begun: Begun, key: K, value: V) {
        let mut all = self.all();
        if begun.0 == self.heard.load(Ordering::SeqCst) {
            if all.len() >= self.most {
                all.clear();
            }
            all.insert(key, (Instant::now(), value));
        }
    }

    pub fn remove(&self, key: &K) {
        self.all().remove(key);
    }

    /// Drops what a change concerns.
    pub fn forget(&self, concerned: impl Fn(&K, &V) -> bool) {
        self.heard.fetch_add(1, Ordering::SeqCst);
        self.all().retain(|k, (_, v)| !concerned(k, v));
    }

    fn all(&self) -> MutexGuard<'_, HashMap<K, (Instant, V)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
