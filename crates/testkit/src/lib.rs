//! For tests: a private PostgreSQL, a database of its own for each test, a clock one moves by hand, a small image, a private Docker
//! Engine, a private ssh server, and what every runtime must do.
//!
//! No test of Wharf uses a machine's own database server, and none leaves one behind.

mod clock;
mod cluster;
pub mod contract;
mod db;
pub mod docker;
pub mod sshd;
pub mod tiny;

pub use clock::TestClock;
pub use cluster::{NOBODY, run_as};
pub use db::TestDb;
