//! The gateway: the way out of the sessions of this machine.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use wharf_chassis::Stop;
use wharf_domain::Result;
use wharf_gateway::dial::SystemResolver;
use wharf_gateway::{Gateway, Parts};

use crate::control;

pub fn run(parts: &control::Parts, stop: Stop) -> impl Future<Output = Result<()>> + Send + use<> {
    let gateway = Gateway::new(Parts {
        store: parts.store.clone(),
        jails: parts.settings.jails_dir(),
        settings: parts.settings.gateway.clone(),
        resolver: Arc::new(SystemResolver::default()),
        keep: Duration::from_secs(u64::from(parts.settings.retention.egress_days) * 86_400),
    });
    async move { gateway?.run(stop).await }
}
