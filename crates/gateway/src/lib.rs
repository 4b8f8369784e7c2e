//! The gateway role: the only way out of a session.
//!
//! [`Gateway`] serves one unix socket for each jail; the socket a request came in on is who it is from. It judges the
//! host by the session's policy, resolves it, judges the address, dials that very address, adds the credential of a
//! connection where one matches, counts, and writes one line for each tunnel or request.
//!
//! Refuses addresses that are not of the internet whatever a policy says (only the installation's own settings let some
//! through), never follows a redirect by itself, and never lets a credential out to another host than its connection's.

mod asking;
mod body;
mod connections;
pub mod dial;
mod door;
mod forward;
mod gateway;
mod guard;
mod guards;
mod intercept;
mod jails;
mod kept;
mod line;
pub mod machine;
mod meter;
pub mod models;
mod open;
mod own;
mod problem;
mod sessions;
mod sized;
mod ssh;
pub mod target;
mod tunnel;

pub use gateway::{Gateway, Parts};
