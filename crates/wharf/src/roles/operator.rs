//! The operator: reconcilers, the turn driver, retention, the audit chain.

use std::future::Future;

use wharf_chassis::Stop;
use wharf_domain::Result;

use crate::control::Parts;

pub fn run(parts: &Parts, stop: Stop) -> impl Future<Output = Result<()>> + Send + use<> {
    wharf_operator::run(
        wharf_operator::Context {
            store: parts.store.clone(),
            runtime: parts.runtime.clone(),
            bus: parts.bus.clone(),
            clock: parts.clock.clone(),
            settings: parts.settings.clone(),
        },
        stop,
    )
}
