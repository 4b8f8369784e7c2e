//! What is kept of the database for a moment: never older than its time, and dropped when a change is heard of.
//!
//! Where other processes write to the same database, their changes are heard of a moment after they were made, and nothing is
//! kept from one request to the next.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wharf_store::Store;

pub(crate) struct Kept<K, V> {
    all: Mutex<HashMap<K, (Instant, V)>>,
    /// Grows with every change that was heard of: what was read before one is not kept after it.
    heard: AtomicU64,
    fresh: Duration,
    most: usize,
    /// Others write to the database, and are heard of too late.
    shared: bool,
}

/// When a read began, and after how many changes.
#[derive(Clone, Copy)]
pub(crate) struct Begun(u64, Instant);

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    /// Beyond `most` entries everything is read again.
    pub fn new(fresh: Duration, most: usize) -> Self {
        Self { all: Mutex::default(), heard: AtomicU64::new(0), fresh, most, shared: false }
    }

    /// What other processes may change.
    pub fn of(store: &Store, fresh: Duration, most: usize) -> Self {
        Self { shared: store.shared(), ..Self::new(fresh, most) }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        self.all()
            .get(key)
            .filter(|(at, _)| !self.shared && at.elapsed() < self.fresh)
            .map(|(_, v)| v.clone())
    }

    /// Of a shared database too, where it was read after that moment.
    pub fn get_since(&self, key: &K, since: Instant) -> Option<V> {
        let good = |at: &Instant| at.elapsed() < self.fresh && (!self.shared || *at >= since);
        self.all().get(key).filter(|(at, _)| good(at)).map(|(_, v)| v.clone())
    }

    /// Before reading what is to be kept.
    pub fn begin(&self) -> Begun {
        Begun(self.heard.load(Ordering::SeqCst), Instant::now())
    }

    pub fn put(&self, begun: Begun, key: K, value: V) {
        let mut all = self.all();
        if begun.0 == self.heard.load(Ordering::SeqCst) {
            if all.len() >= self.most {
                all.clear();
            }
            all.insert(key, (begun.1, value));
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
