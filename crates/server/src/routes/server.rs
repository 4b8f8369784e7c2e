//! The server about itself: probes, version, document, reference.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header;
use serde_json::Value;
use utoipa_swagger_ui::{Config, SwaggerUi};
use wharf_domain::{Code, Error};
use wharf_wire::api;

use crate::app::App;
use crate::extract::Json;
use crate::problem::Problem;

/// Whether the process lives
///
/// Answers as long as the process can answer at all.
#[utoipa::path(get, path = "/livez", tag = "server", responses((status = 200, body = api::Health)))]
pub(crate) async fn livez() -> Json<api::Health> {
    Json(api::Health { status: "ok".to_owned() })
}

/// Whether the server can do its work
///
/// Asks the database and everything else it stands on. 503 names what is away.
#[utoipa::path(get, path = "/readyz", tag = "server", responses((status = 200, body = api::Health)))]
pub(crate) async fn readyz(State(app): State<App>) -> Result<Json<api::Health>, Problem> {
    if app.stop.is_draining() {
        return Err(Problem::new(Code::Unavailable, "the server is shutting down; ask another one"));
    }
    app.store.ping().await?;
    let report = app.health.report().await;
    if report.ready {
        return Ok(Json(api::Health { status: "ok".to_owned() }));
    }
    let away: Vec<String> = report
        .checks
        .iter()
        .filter(|c| !c.ok && !c.optional)
        .map(|c| format!("{}: {}", c.name, c.problem.as_deref().unwrap_or("not ready")))
        .collect();
    Err(Error::new(Code::Unavailable, format!("not ready: {}", away.join("; "))).into())
}

/// What the server is
#[utoipa::path(get, path = "/version", tag = "server", responses((status = 200, body = api::Version)))]
pub(crate) async fn version() -> Json<api::Version> {
    Json(api::Version {
        name: "wharf".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
    })
}

/// `/openapi.json` and `/docs`. The reference is compiled in; a browser loads nothing from elsewhere.
pub(crate) fn reference(document: &Value) -> Router<App> {
    let text: bytes::Bytes = document.to_string().into();
    let serve = move || {
        let text = text.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], text).into_response() as Response }
    };
    let docs: Router<App> = SwaggerUi::new("/docs").config(Config::from("/openapi.json")).into();
    Router::new().route("/openapi.json", get(serve)).merge(docs)
}
