//! What the store promises, told as stories against a real PostgreSQL.
#![allow(clippy::unwrap_used)]

mod access;
mod actors;
mod audit;
mod auth;
mod bridge;
mod cluster;
mod idempotency;
mod lists;
mod outbox;
mod principals;
mod quota;
mod secrets;
mod spaces;
mod throttle;
mod timing;
