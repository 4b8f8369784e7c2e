//! The server role: listeners that are bound already, served until the drain is over.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use tokio::net::TcpListener;
use wharf_chassis::Stop;

use crate::accept::{self, Bounds};
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
pub async fn run(serve: Serve, stop: Stop) {
    let api = crate::routes::router(serve.app.clone());
    let (app, stopping) = (serve.app.clone(), stop.clone());
    tokio::spawn(async move { app.git.run(&app, stopping).await });
    let drained = || {
        let stop = stop.clone();
        async move { stop.draining().await }
    };
    let bounds = Bounds::default();
    let api = accept::serve(serve.listener, api, bounds, drained());
    let metrics = async {
        if let Some(listener) = serve.metrics {
            accept::serve(listener, metrics_router(serve.app.metrics.clone()), bounds, drained()).await;
        }
    };
    tokio::select! {
        _ = async { tokio::join!(api, metrics) } => {}
        () = stop.ending() => {}
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
