//! What Wharf is about, as types: ids, names, states, rights, limits, errors and the pure decisions on them.
//!
//! Pure by rule: no async, no I/O, no clock and no database. Everything else may import this crate; it imports
//! none of ours.

pub mod egress;
pub mod error;
pub mod guard;
pub mod id;
pub mod image;
pub mod labels;
pub mod limits;
pub mod manifest;
pub mod model;
pub mod name;
pub mod plain;
pub mod plan;
pub mod port_host;
pub mod quota;
pub mod range;
pub mod rbac;
pub mod remote;
pub mod repo;
pub mod session;
pub mod ssh;
pub mod time;

pub use error::{Code, Error, Result};
pub use id::*;
pub use labels::{Labels, Selector};
pub use name::{Name, NameOrId};
pub use plain::Plain;
pub use time::Time;
