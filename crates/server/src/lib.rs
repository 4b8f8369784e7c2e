//! The public HTTP API.
//!
//! A handler is four steps: open a scope as the caller, get a permit, act, commit. Everything that is the same for all
//! of them (request ids, problems, limits, metrics, documents) is in layers and extractors, not in handlers.
//! Refuses to hold truth: any number of servers may run, and one may vanish at any time.

// The document's macro names types in full.
#![allow(unused_qualifications)]

mod accept;
mod app;
mod context;
mod extract;
mod git;
pub mod metrics;
pub mod openapi;
pub mod permits;
mod ports;
mod problem;
mod routes;
mod serve;
mod stream;

pub use app::App;
pub use git::Git;
pub use routes::{Hosts, document, router};
pub use serve::{Serve, run};
