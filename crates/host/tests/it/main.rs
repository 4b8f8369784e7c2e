//! The host as its callers see it: the real program, over its real socket.
#![allow(clippy::unwrap_used)]

mod agents;
mod client;
mod computer_use;
mod desktop;
mod exec;
mod files;
mod harness;
mod jail;
mod processes;
mod provider;
mod refusals;
mod tar;
mod terminals;
mod turns;
