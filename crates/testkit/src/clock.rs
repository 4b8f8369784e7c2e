//! A clock that stands still until a test moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use wharf_domain::Time;
use wharf_ports::Clock;

/// Clones share the hands.
#[derive(Clone, Debug)]
pub struct TestClock(Arc<AtomicI64>);

impl Default for TestClock {
    /// Begins at the machine's time, so that what the database stamps itself is near.
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(wharf_ports::clock::SystemClock.now().millis())))
    }
}

impl TestClock {
    pub fn at(time: Time) -> Self {
        Self(Arc::new(AtomicI64::new(time.millis())))
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as i64, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Time {
        Time::from_millis(self.0.load(Ordering::SeqCst))
    }
}
