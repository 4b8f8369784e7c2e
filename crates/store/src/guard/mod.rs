//! Guardrails: policies as users write them, approvals as they are asked for, decided and run out, and both as the gateway uses
//! them.
//!
//! What a rule means is not known here: policies are checked by whoever takes them in (the crate `guard`), kept as they were
//! written and read again by the gateway.

mod approvals;
mod live;
mod policies;

pub use approvals::{Approval, ApprovalFilter};
pub use live::{Asked, NewApproval};
pub use policies::{NewPolicy, Policy, PolicyPatch};
