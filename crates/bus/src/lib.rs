//! Wake-ups inside one process: a bounded ring every subscriber reads at its own pace.
//!
//! Nothing is kept for who is not there, and who is too slow learns that it missed some ([`Wake::Missed`]) and looks
//! at everything: a wake-up carries no truth. A broker between several machines implements the same trait.
//!
//! [`Wake::Missed`]: wharf_ports::Wake::Missed

use tokio::sync::broadcast;
use wharf_ports::bus::{Bus, Subscription, Topic};

/// Wake-ups kept for the slowest subscriber. At 16 bytes and a bit each this is well under a megabyte, and more than
/// any subscriber that is alive falls behind.
pub const RING: usize = 8192;

/// Fan-out within this process.
#[derive(Clone, Debug)]
pub struct Local(broadcast::Sender<Topic>);

impl Local {
    pub fn new() -> Self {
        Self::with_ring(RING)
    }

    pub fn with_ring(entries: usize) -> Self {
        Self(broadcast::channel(entries).0)
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus for Local {
    fn wake(&self, topic: Topic) {
        // No subscriber is no error: whoever comes later reads the tables first.
        let _ = self.0.send(topic);
    }

    fn subscribe(&self) -> Subscription {
        Subscription::new(self.0.subscribe())
    }
}

#[cfg(test)]
mod tests;
