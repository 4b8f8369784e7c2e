//! The native runtime: jails, their volumes and images. Runs as root in the jailer's single-threaded process.
#![allow(unsafe_code)]

pub mod image;
pub mod step;
pub mod volume;
