//! The host as its callers see it: the real program, over its real socket.
#![allow(clippy::unwrap_used)]

mod acp;
mod agents;
mod client;
mod computer_use;
mod desktop;
mod exec;
mod files;
mod guard;
mod harness;
mod jail;
mod leftovers;
mod processes;
mod provider;
mod refusals;
mod relay;
mod runners;
mod samples;
mod tar;
mod terminals;
mod turns;
