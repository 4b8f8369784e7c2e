//! The way to a port inside a session: one exchange of HTTP over a tunnel of its host, and what follows an upgrade.
//!
//! Both ways in (by path and by host name) end here, so that what must not pass is stripped in one place. Nothing is
//! buffered: bodies stream both ways. Refuses more than `PORT_CONNECTIONS` at a time to one session, so that its files and
//! commands stay within reach.

mod body;
mod busy;
mod exchange;
pub(crate) mod headers;
mod patience;
mod relay;

pub(crate) use busy::Busy;
pub(crate) use exchange::{Front, Visit, connect, exchange};
pub(crate) use relay::{Watched, idle};
