//! Refusals in the vendor's own shape, so that a program's own client library shows them as it shows the vendor's.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use wharf_domain::model::Protocol;
use wharf_domain::{Code, Error};

use super::call::Kind;
use crate::body::{Body, full};
use crate::problem::{Decision, Refusal};

/// Whose error shape, and whose shape of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Anthropic,
    Openai,
}

impl Dialect {
    /// Of a request to this provider. A scripted one speaks both, and then the request tells.
    pub fn of(protocol: Option<Protocol>, path: &str, headers: &HeaderMap) -> Self {
        match protocol {
            Some(Protocol::Anthropic) => Self::Anthropic,
            Some(Protocol::Openai) => Self::Openai,
            Some(Protocol::Scripted) | None => {
                let messages = path.contains("/messages") || headers.contains_key("anthropic-version");
                if messages { Self::Anthropic } else { Self::Openai }
            }
        }
    }
}

/// Why a request to a model is not answered by the model.
#[derive(Debug)]
pub(super) struct Fault {
    pub status: StatusCode,
    /// For programs, in OpenAI's shape.
    pub code: &'static str,
    pub message: String,
    pub retry_after: Option<u64>,
    /// Whether a client should try again by itself; the status says it when absent.
    pub retry: Option<bool>,
}

impl Fault {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, retry: None }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    fn anthropic(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            504 => "timeout_error",
            529 => "overloaded_error",
            400..500 => "invalid_request_error",
            _ => "api_error",
        }
    }

    fn openai(&self) -> &'static str {
        match self.status.as_u16() {
            429 if self.code == "budget_exceeded" => "insufficient_quota",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        }
    }

    fn body(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::Anthropic => {
                json!({"type": "error", "error": {"type": self.anthropic(), "message": self.message}})
            }
            Dialect::Openai => json!({"error": {
                "message": self.message, "type": self.openai(), "param": null, "code": self.code,
            }}),
        }
    }

    /// The same where a stream has begun already.
    pub fn event(&self, kind: Kind) -> String {
        match kind {
            Kind::Messages => format!("event: error\ndata: {}\n\n", self.body(Dialect::Anthropic)),
            Kind::Responses => {
                let mut body = self.body(Dialect::Openai);
                body["type"] = json!("error");
                body["code"] = json!(self.code);
                body["message"] = json!(self.message);
                body["param"] = Value::Null;
                body["sequence_number"] = json!(0);
                format!("event: error\ndata: {body}\n\n")
            }
            _ => format!("data: {}\n\n", self.body(Dialect::Openai)),
        }
    }

    pub fn response(&self, dialect: Dialect) -> Response<Body> {
        let body = self.body(dialect);
        let mut response = Response::new(full(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-wharf-gateway", HeaderValue::from_static("refused"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(retry) = self.retry {
            // What the vendors' own libraries read.
            let word = if retry { "true" } else { "false" };
            headers.insert("x-should-retry", HeaderValue::from_static(word));
        }
        response
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        if error.internal.is_some() {
            tracing::warn!(%error, "a model request could not be judged");
        }
        let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = if error.code == Code::Unavailable { "unavailable" } else { "gateway_error" };
        Self {
            retry_after: error.retry_after.map(|d| d.as_secs().max(1)),
            ..Self::new(status, code, error.public)
        }
    }
}

/// The provider could not be reached, or its address may not be.
impl From<&Refusal> for Fault {
    fn from(refusal: &Refusal) -> Self {
        let mut fault = Self::new(refusal.status, "provider_unreachable", refusal.detail.clone());
        if refusal.decision == Decision::Denied {
            fault.code = "provider_address";
            fault.retry = Some(false);
        }
        fault
    }
}
