//! The gateway's own API, which every session reaches whatever its egress: `http://gateway/…`.
//!
//! `/` says what the session may reach, `/guard` what its guardrails say to a tool, `/wharf/ssh` is for git's ssh program; everything
//! below another first segment belongs to the provider of that name.

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use wharf_domain::Code;

use crate::body::{Body, full};
use crate::door::Call;
use crate::problem::problem;
use crate::sessions::Session;
use crate::{models, ssh};

/// Answers a request whose host is `gateway`.
pub(crate) async fn serve(call: Call, request: Request<Incoming>) -> Response<Body> {
    let (gateway, session) = (&call.gateway, &call.session);
    let path = request.uri().path();
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
    if first.is_empty() {
        return about(session, request.method());
    }
    if first == "guard" {
        return crate::guard::serve(&call, request).await;
    }
    if path == wharf_wire::ssh::PATH {
        return ssh::open(call, request).await;
    }
    models::serve(gateway, session, &first, request).await
}

fn about(session: &Session, method: &Method) -> Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return problem(StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed, "here is only GET /");
    }
    let body = json!({
        "session": session.session, "name": session.name, "space": session.space_name, "network": session.policy,
    });
    let mut response = Response::new(full(body.to_string()));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
