//! The roles, a file each: what it is made of, and nothing else.

pub mod docker;
pub mod gateway;
pub mod jailer;
pub mod operator;
pub mod server;
