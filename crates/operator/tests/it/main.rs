//! What the operator promises, told as stories: a real PostgreSQL, the real operator, and a machine of our own making
//! on which anything may fail at any moment.
#![allow(clippy::unwrap_used)]

mod closing;
mod forks;
mod lab;
mod leases;
mod machine;
mod sim;
mod starting;
mod turns;
