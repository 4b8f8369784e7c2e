//! What the store promises, told as stories against a real PostgreSQL.
#![allow(clippy::unwrap_used)]
// A default is a default; its type says nothing in a story.
#![allow(clippy::default_trait_access, clippy::unchecked_time_subtraction)]

mod access;
mod actors;
mod audit;
mod auth;
mod bridge;
mod cancelled;
mod cluster;
mod idempotency;
mod lists;
mod models;
mod outbox;
mod principals;
mod providers;
mod quota;
mod secrets;
mod sessions;
mod spaces;
mod throttle;
mod timing;
mod url;
