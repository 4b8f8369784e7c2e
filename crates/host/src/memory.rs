//! Gives memory back. A session that was busy and is idle again shall take as little as before: with hundreds of them on a machine,
//! what an allocator keeps for later is the larger part.

use std::time::Duration;

use tokio::sync::Notify;

/// Quiet time before memory is given back.
const QUIET: Duration = Duration::from_secs(1);
/// Larger pieces come from the system and go back to it at once.
const MAPPED_BYTES: i32 = 64 * 1024;

#[derive(Default)]
pub struct Memory {
    used: Notify,
}

impl Memory {
    /// Something was done that may have taken memory.
    pub fn used(&self) {
        self.used.notify_one();
    }

    /// Waits for use, then for quiet, then gives back; no timer runs in between.
    pub async fn give_back(&self) {
        loop {
            self.used.notified().await;
            while tokio::time::timeout(QUIET, self.used.notified()).await.is_ok() {}
            trim();
        }
    }
}

/// One heap for all threads; before the first of them starts.
pub fn tune() {
    // SAFETY: mallopt takes numbers and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_BYTES);
    }
}

fn trim() {
    // SAFETY: malloc_trim has no argument that could be wrong; it locks the heap as malloc does.
    unsafe {
        libc::malloc_trim(0);
    }
}
