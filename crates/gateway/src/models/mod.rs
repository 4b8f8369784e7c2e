//! Models: `http://gateway/{provider}/…`.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use wharf_domain::Code;

use crate::body::Body;
use crate::gateway::Gateway;
use crate::problem::problem;
use crate::sessions::Session;

/// Answers a request below `/{provider}/`.
pub(crate) async fn serve(
    _gateway: &Gateway,
    session: &Arc<Session>,
    provider: &str,
    _request: Request<Incoming>,
) -> Response<Body> {
    let shown: String = provider.chars().take(80).collect();
    let detail = format!("space {} has no provider {shown:?}", session.space_name);
    problem(StatusCode::NOT_FOUND, Code::NotFound, &detail)
}
