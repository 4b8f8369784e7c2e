//! What the gateway role reads and writes: whose jail it is, connections with their secrets, authorities, the egress log.
//!
//! Users reach connections and the log through a [`crate::Scope`]; the gateway itself enters as an actor with a rule of
//! its own, and is the only one that opens a secret without a person asking.

mod jails;

pub use jails::JailOwner;
