//! The native runtime: jails, their volumes and images. Runs as root in the jailer's single-threaded process.
#![allow(unsafe_code)]

pub mod cgroup;
pub mod client;
pub mod convert;
pub mod fences;
pub mod image;
pub mod jailer;
pub mod launch;
mod netlink;
pub mod probe;
pub mod seccomp;
mod settings;
pub mod step;
mod sys;
pub mod volume;

pub use client::NativeRuntime;
pub use settings::{JailerSettings, socket_in};
