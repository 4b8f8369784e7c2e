//! Sessions on Docker Engine: the same `wharf-host` as process 1, the same two sockets, the same list of system calls.
//!
//! A session's volume is its container: the writable layer keeps the files, a stop keeps the container, a snapshot is a
//! commit and a fork a container made from one. Until it is first started a volume is no more than a tag on an image.
//!
//! Whoever may use the engine's socket is root on the machine. So the control plane never does: [`broker`] runs as a
//! process of its own that answers the jailer's closed protocol and nothing else.
//!
//! Refuses what the engine cannot keep: a limit it has no means for, root inside that is root of the machine (both unless the
//! settings waive it), computers that stand ready.

pub mod broker;
mod container;
mod copies;
mod disk;
mod engine;
mod forgotten;
mod images;
mod launch;
mod names;
mod place;
mod profile;
mod runtime;
mod settings;

pub use engine::Abilities;
pub use runtime::DockerRuntime;
pub use settings::{Settings, broker_socket};

/// Asks an engine what it can do, for whoever looks the machine over.
pub async fn probe(socket: &std::path::Path) -> wharf_ports::runtime::Result<Abilities> {
    engine::Engine::new(socket).abilities().await
}
