//! The client against a protocol peer that says exactly what a test wants it to say, at the level of bytes: what a
//! real server does only when something is broken.
#![allow(clippy::unwrap_used)]

mod calls;
mod lists;
mod login;
mod peer;
mod streams;
mod terminals;
