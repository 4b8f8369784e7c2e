//! The API as its callers see it: the real router, a real PostgreSQL, a real operator, and real hosts of sessions that
//! run as plain processes instead of in jails.
#![allow(clippy::unwrap_used)]

mod agents;
mod auth;
mod builds;
mod closing;
mod connections;
mod desk;
mod desktop;
mod exec;
mod files;
mod git;
mod guardrails;
mod idempotency;
mod images;
mod lab;
mod matrix;
mod openapi;
mod packages;
mod ports;
mod problems;
mod promises;
mod providers;
mod published;
mod server;
mod sessions;
mod spaces;
mod streams;
mod terminal;
mod walk;
