//! The operator role: makes sessions what they are wanted to be.
//!
//! [`Operator`] reconciles (claim a lease, [`wharf_domain::plan::plan`], do the steps) and drives turns; [`chainer`]
//! chains the audit log, [`approvals`] ends what nobody decided in time. It decides nothing of its own: what is wanted stands in the tables, what to do next says the
//! plan. It speaks to computers through the runtime and the host alone.

pub mod approvals;
mod around;
mod builds;
pub mod chainer;
mod driver;
pub mod host;
mod http;
mod operator;
mod packages;
mod reconcile;
mod slot;
mod steps;
mod timers;

pub use host::HostPort;
pub use http::HttpHost;
pub use operator::{Builds, Operator, Settings};
