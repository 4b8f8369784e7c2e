//! The gateway: the way out of the sessions of this machine.

use std::future::Future;
use std::net::IpAddr;
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
        interfaces: Arc::new(interfaces),
        keep: Duration::from_secs(u64::from(parts.settings.retention.egress_days) * 86_400),
    });
    async move { gateway?.run(stop).await }
}

/// The addresses of all interfaces of this machine (of this network namespace).
fn interfaces() -> std::io::Result<Vec<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs()?;
    Ok(all
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect())
}

#[cfg(test)]
mod tests;
