//! The server role: listeners that are bound already, served until the drain is over.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use tokio::net::TcpListener;
use wharf_chassis::Stop;
use wharf_domain::Error;

use crate::app::App;
use crate::metrics::Metrics;

/// What the role needs. Ports are bound before anything else is done, so that a taken one shows at once.
pub struct Serve {
    pub app: App,
    pub listener: TcpListener,
    /// Serves `/metrics` without a credential; keep it off the network.
    pub metrics: Option<TcpListener>,
}

/// Serves until `stop` drains: listening ends, requests in hand are finished, streams end so that their readers resume
/// elsewhere. `stop.ending()` cuts off what is left.
///
/// # Errors
/// When a listener breaks.
pub async fn run(serve: Serve, stop: Stop) -> Result<(), Error> {
    let api = crate::routes::router(serve.app.clone()).into_make_service_with_connect_info::<SocketAddr>();
    let drain = {
        let stop = stop.clone();
        async move { stop.draining().await }
    };
    let listener = axum::serve::ListenerExt::tap_io(serve.listener, |io| {
        // Answers are small and wanted now.
        let _ = io.set_nodelay(true);
    });
    let api = axum::serve(listener, api).with_graceful_shutdown(drain);
    let metrics = serve.metrics.map(|listener| {
        let stop = stop.clone();
        axum::serve(listener, metrics_router(serve.app.metrics.clone()))
            .with_graceful_shutdown(async move { stop.draining().await })
    });
    let both = async {
        tokio::try_join!(async { api.await }, async {
            match metrics {
                Some(metrics) => metrics.await,
                None => Ok(()),
            }
        })
    };
    tokio::select! {
        done = both => done.map(|_| ()).map_err(Error::internal),
        () = stop.ending() => Ok(()),
    }
}

fn metrics_router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(show)).with_state(metrics)
}

async fn show(State(metrics): State<Metrics>) -> Response {
    match metrics.encode() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                .into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
