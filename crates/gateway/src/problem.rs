//! What a session is told when something is refused or fails: a problem document that says what to change.

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use wharf_domain::{Code, Error};

use crate::body::{Body, full};

/// Whether policy said no, or something went wrong on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    Denied,
    Failed,
}

impl Decision {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// Why a request does not go through: what the session is told and what the log keeps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    pub status: StatusCode,
    pub code: Code,
    pub decision: Decision,
    /// A word for the log: `policy`, `address`, `resolve`, `connect`, `tls`, `limit`, …
    pub reason: &'static str,
    pub detail: String,
}

impl Refusal {
    pub fn denied(reason: &'static str, detail: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::FORBIDDEN, Code::Forbidden);
        Self { status, code, decision: Decision::Denied, reason, detail: detail.into() }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::BAD_REQUEST, Code::BadRequest);
        Self { status, code, decision: Decision::Denied, reason: "request", detail: detail.into() }
    }

    /// The upstream could not be reached or did not keep its protocol.
    pub fn upstream(reason: &'static str, detail: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::BAD_GATEWAY, Code::Unavailable);
        Self { status, code, decision: Decision::Failed, reason, detail: detail.into() }
    }

    pub fn timeout(detail: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::GATEWAY_TIMEOUT, Code::Timeout);
        Self { status, code, decision: Decision::Failed, reason: "timeout", detail: detail.into() }
    }

    /// A limit of the session; the text names it.
    pub fn limit(detail: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Code::RateLimited);
        Self { status, code, decision: Decision::Denied, reason: "limit", detail: detail.into() }
    }

    pub fn response(&self) -> Response<Body> {
        problem(self.status, self.code, &self.detail)
    }
}

/// An error of ours. What is internal goes to the log and nowhere else.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        if error.internal.is_some() {
            tracing::warn!(%error, "the gateway could not answer a session");
        }
        let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            status,
            code: error.code,
            decision: Decision::Failed,
            reason: "internal",
            detail: error.public,
        }
    }
}

/// RFC 9457.
pub fn problem(status: StatusCode, code: Code, detail: &str) -> Response<Body> {
    let body = json!({
        "type": "about:blank", "title": code.title().trim(), "status": status.as_u16(), "code": code, "detail": detail,
        "retryable": code.retryable(),
    });
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Says that the gateway answered and not the upstream.
    headers.insert("x-wharf-gateway", HeaderValue::from_static("refused"));
    if code.retryable() {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if status == StatusCode::BAD_REQUEST {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
