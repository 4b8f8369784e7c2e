//! The whole of Wharf as its users meet it: the real binary, a real PostgreSQL, real jails.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod beyond;
mod builds;
mod canary;
mod cli;
mod crash;
mod debian;
mod desktop;
mod docker;
mod egress;
mod guard;
mod installation;
mod leftovers;
mod models;
mod planted;
mod ports;
mod privileges;
mod pushes;
mod schemathesis;
mod ssh;
mod suite;
mod survive;
