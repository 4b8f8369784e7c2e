//! What surrounds every request: its id, its trace, its line in the access log, its figures, its problem body, and the
//! net under a panic.
//!
//! The access log has the route's template, never the query string or a header: secrets travel there.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue};
use tracing::Instrument as _;
use wharf_domain::{Error, RequestId};

use crate::app::App;
use crate::problem::{self, Carried, Problem};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What handlers and extractors know of the request beside its parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestContext {
    pub id: RequestId,
    pub address: Option<IpAddr>,
}

/// A W3C trace context (<https://www.w3.org/TR/trace-context/>): the caller's trace with a span of our own.
struct Trace {
    id: String,
    span: String,
    flags: String,
}

impl Trace {
    fn of(headers: &http::HeaderMap, id: RequestId) -> Self {
        let own = id.uuid().simple().to_string();
        // The id's end is random; its beginning is the time.
        let span = own[16..].to_owned();
        match headers.get(TRACEPARENT).and_then(|v| v.to_str().ok()).and_then(parse) {
            Some((trace, flags)) => Self { id: trace, span, flags },
            None => Self { id: own, span, flags: "00".to_owned() },
        }
    }

    fn header(&self) -> String {
        format!("00-{}-{}-{}", self.id, self.span, self.flags)
    }
}

/// Trace id and flags of a well-formed header; an ill-formed one is as if it were absent, as the standard demands.
fn parse(header: &str) -> Option<(String, String)> {
    let mut parts = header.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |s: &str, n: usize| {
        s.len() == n && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |s: &str| s.bytes().all(|b| b == b'0');
    let fits = hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2);
    fits.then(|| (trace.to_owned(), flags.to_owned()))
}

/// The outermost layer.
pub(crate) async fn surround(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = RequestId::new();
    let trace = Trace::of(request.headers(), id);
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|c| c.0.ip());
    let route = request.extensions().get::<MatchedPath>().map(|m| Arc::<str>::from(m.as_str()));
    let method = request.method().clone();
    request.extensions_mut().insert(RequestContext { id, address });
    if let Ok(value) = HeaderValue::from_str(&trace.header()) {
        request.headers_mut().insert(TRACEPARENT, value);
    }

    let span = tracing::info_span!("request", request_id = %id, trace_id = %trace.id);
    async move {
        let in_flight = app.metrics.request_begins();
        let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(panic) => Problem(Error::internal(format!("a handler panicked: {}", said(&*panic)))).into_response(),
        };
        drop(in_flight);
        let page = response.extensions_mut().remove::<problem::AsPage>().is_some();
        let code = response.extensions_mut().remove::<Carried>().map(|Carried(error)| {
            log(&error);
            problem::render(&mut response, &error, &id.to_string());
            if page {
                problem::render_page(&mut response, &error, &id.to_string());
            }
            error.code.as_str()
        });
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
            headers.insert(REQUEST_ID, value);
        }
        // At a host name of its own a program's answer is its own business.
        if response.extensions_mut().remove::<problem::AsItIs>().is_none() {
            let nosniff = HeaderValue::from_static("nosniff");
            response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, nosniff);
        }
        let took = begun.elapsed();
        let status = response.status().as_u16();
        let route = route.as_deref().unwrap_or("none");
        app.metrics.request_ended(&method, route, status, took);
        let micros = took.as_micros() as u64;
        let address = address.map(tracing::field::display);
        tracing::info!(target: "wharf_server::access", %method, route, status, code, address, micros, "answered");
        response
    }
    .instrument(span)
    .await
}

/// An error is logged once, here, where it is handled.
fn log(error: &Error) {
    let Some(cause) = &error.internal else { return };
    if error.code == wharf_domain::Code::Internal {
        tracing::error!(code = %error.code, %cause, "a request failed inside");
    } else if error.code.status() >= 500 && error.code != wharf_domain::Code::BadGateway {
        tracing::warn!(code = %error.code, %cause, "a dependency failed a request");
    } else {
        tracing::debug!(code = %error.code, %cause, "a request was refused");
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
