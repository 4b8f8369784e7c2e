//! What sessions can and cannot reach, told as stories: a real PostgreSQL, the real gateway on its sockets, and upstreams
//! of our own making on loopback.
#![allow(clippy::unwrap_used)]

mod bounds;
mod clients;
mod connections;
mod guard;
mod lab;
mod log;
mod mcp;
mod models;
mod open;
mod policy;
mod requests;
mod ssh;
mod tunnels;
mod upstream;
mod websockets;
