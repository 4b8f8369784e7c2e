//! The Docker runtime as its users meet it: a real engine of the test's own, and programs inside that try to get out.
//!
//! Every test starts a `dockerd` of its own and ends with a census. They need root, Debian's `docker.io` and
//! `busybox-static`; without, they say so and pass, unless WHARF_TEST_REQUIRE names `docker`.
#![allow(clippy::unwrap_used)]

mod contract;
mod engine;
mod harness;
