//! The native runtime as its users meet it: a jailer process, its client, and programs inside that try to get out.
//!
//! Every test runs a jailer of its own and ends with a census: no process, mount, cgroup, loop device or socket of it
//! is left. They need root and Debian's `busybox-static`; without, they say so and pass, unless WHARF_TEST_REQUIRE
//! names `jail`.
#![allow(clippy::unwrap_used)]

mod harness;
mod lab;

mod adopt;
mod base;
mod contract;
mod images;
mod network;
mod protocol;
mod volumes;
mod warm;
