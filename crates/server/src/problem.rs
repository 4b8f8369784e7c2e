//! Domain errors as HTTP: the only place that maps one to the other (RFC 9457).
//!
//! A handler returns [`Problem`]; the context layer writes it out, because only that layer knows the request's id. What
//! is internal goes to the log there, once, and never to the caller.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use wharf_domain::{Code, Error};
use wharf_wire::api;

/// An error on its way to the caller.
#[derive(Debug)]
pub struct Problem(pub Error);

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Error::new(code, detail))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

/// Rides in the response's extensions up to the context layer.
#[derive(Clone)]
pub(crate) struct Carried(pub Arc<Error>);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = status(&self.0).into_response();
        response.extensions_mut().insert(Carried(Arc::new(self.0)));
        response
    }
}

pub(crate) fn status(error: &Error) -> StatusCode {
    StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// What the caller reads.
pub(crate) fn body(error: &Error, request_id: &str) -> api::Problem {
    api::Problem {
        kind: "about:blank".to_owned(),
        title: error.code.title().trim().to_owned(),
        status: error.code.status(),
        code: error.code,
        detail: error.public.clone(),
        field: error.field.clone(),
        retryable: error.code.retryable(),
        request_id: request_id.to_owned(),
    }
}

/// Rides in the extensions of a problem that a person in a browser will see.
#[derive(Clone, Copy)]
pub(crate) struct AsPage;

/// Rides in the extensions of an answer that is not Wharf's own.
#[derive(Clone, Copy)]
pub(crate) struct AsItIs;

/// The same for a person: replaces the body that [`render`] wrote.
pub(crate) fn render_page(response: &mut Response, error: &Error, request_id: &str) {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let status = status(error);
    let text = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>{status}</title><style>body{{font:16px sans-serif;margin:15vh auto;\
         max-width:40em;padding:0 1em}}small{{color:#777}}</style><h1>{status}</h1><p>{}</p><p><small>Wharf · {} · \
         request {request_id}</small></p>\n",
        escape(&error.public),
        error.code,
    );
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    *response.body_mut() = axum::body::Body::from(text);
}

/// Rides there too: the problem is to be text, for a client that shows nothing else (git).
#[derive(Clone)]
pub(crate) struct AsText;

/// Writes the problem into `response`, keeping headers a layer below has set (such as `Allow`).
pub(crate) fn render(response: &mut Response, error: &Error, request_id: &str) {
    let (text, media) = match response.extensions_mut().remove::<AsText>() {
        Some(AsText) => (
            format!("{} ({}, request {request_id})\n", error.public, error.code).into_bytes(),
            "text/plain; charset=utf-8",
        ),
        None => {
            (serde_json::to_vec(&body(error, request_id)).unwrap_or_default(), "application/problem+json")
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.remove(header::CONTENT_LENGTH);
    if error.code == Code::Unauthenticated || error.code == Code::TokenExpired {
        headers.entry(header::WWW_AUTHENTICATE).or_insert(HeaderValue::from_static("Bearer realm=\"wharf\""));
    }
    let after = error.retry_after.or_else(|| {
        matches!(error.code, Code::RateLimited | Code::Unavailable)
            .then_some(std::time::Duration::from_secs(1))
    });
    if let Some(after) = after {
        // Rounded up: a caller who comes back too early is refused again.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    *response.status_mut() = status(error);
    *response.body_mut() = axum::body::Body::from(text);
}

/// 404 for a path that is none of the API's.
pub(crate) async fn no_such_path() -> Problem {
    Problem::new(Code::NotFound, "there is no such path; /openapi.json and /docs list all there are")
}

/// 405; the framework adds `Allow`.
pub(crate) async fn no_such_method() -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        "this path does not know that method; the Allow header names those it does",
    )
}
