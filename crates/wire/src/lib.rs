//! Shapes that cross a process border: the public HTTP API, the host protocol, the jailer protocol.
//!
//! Data only: no I/O, and no decision beyond what a type can carry.

pub mod api;
pub mod host;
pub mod jailer;
pub mod ssh;
