//! What every handler can reach.

use std::sync::Arc;

use wharf_chassis::{Health, Settings, Stop};
use wharf_ports::{Bus, Clock, Runtimes};
use wharf_store::Store;

use crate::git::Git;
use crate::metrics::Metrics;
use crate::routes::Hosts;

/// Cheap to clone; one per process.
#[derive(Clone)]
pub struct App {
    pub store: Store,
    pub runtimes: Runtimes,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    pub settings: Arc<Settings>,
    /// What `/readyz` asks.
    pub health: Health,
    /// Ends long answers when the process drains.
    pub stop: Stop,
    pub metrics: Metrics,
    /// Connections to the hosts of sessions; starts empty.
    pub hosts: Hosts,
    /// Repositories on this machine.
    pub git: Git,
}
