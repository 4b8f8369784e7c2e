//! The server: the HTTP API on listeners that are bound already.

use std::future::Future;

use tokio::net::TcpListener;
use wharf_chassis::Stop;
use wharf_domain::Result;
use wharf_server::{App, Git, Serve};

use crate::control::Parts;

pub fn run(
    parts: &Parts,
    listener: TcpListener,
    metrics: Option<TcpListener>,
    stop: Stop,
) -> impl Future<Output = Result<()>> + Send + use<> {
    // Hooks of git run this program too.
    let program = std::env::current_exe().unwrap_or_else(|_| "wharf".into());
    let app = App {
        git: Git::new(&parts.store, &parts.settings, program),
        store: parts.store.clone(),
        runtimes: parts.runtimes.clone(),
        bus: parts.bus.clone(),
        clock: parts.clock.clone(),
        settings: parts.settings.clone(),
        health: parts.health.clone(),
        stop: stop.clone(),
        metrics: wharf_server::metrics::Metrics::default(),
        hosts: wharf_server::Hosts::default(),
    };
    async move {
        wharf_server::run(Serve { app, listener, metrics }, stop).await;
        Ok(())
    }
}
