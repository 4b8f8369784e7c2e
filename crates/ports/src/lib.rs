//! The edges that have two real implementations: where sandboxes run, how wake-ups travel, what time it is.
//!
//! A trait belongs here only when production itself has more than one implementation behind it.

pub mod bus;
pub mod clock;
pub mod runtime;
mod runtimes;

pub use bus::{Bus, Topic, Wake};
pub use clock::Clock;
pub use runtime::SandboxRuntime;
pub use runtimes::Runtimes;
