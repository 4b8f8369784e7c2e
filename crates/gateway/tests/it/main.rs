//! The gateway as a session sees it: through its socket, against servers on this machine.
#![allow(clippy::unwrap_used)]

mod models;
