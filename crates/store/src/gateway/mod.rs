//! What the gateway role reads and writes: whose jail it is, connections with their secrets, authorities, the egress log.
//!
//! Users reach connections and the log through a [`crate::Scope`]; the gateway itself enters as an actor with a rule of
//! its own, and is the only one that opens a secret without a person asking.

pub(crate) mod authority;
mod connections;
mod egress;
mod jails;
mod live;

pub use connections::{Connection, ConnectionPatch, Connections, NewConnection};
pub use egress::{EgressEntry, EgressFilter, EgressRow, OPEN as EGRESS_OPEN};
pub use jails::JailOwner;
pub use live::LiveConnection;
