//! Headers that change what a request means.

use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use http::request::Parts;
use http::{HeaderMap, header};
use wharf_domain::{Code, Error};

use crate::problem::Problem;

/// `If-Match: "<resource_version>"`, or `*`, or absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IfMatch(pub Option<i64>);

impl IfMatch {
    fn parse(headers: &HeaderMap) -> Result<Self, Error> {
        let Some(value) = headers.get(header::IF_MATCH) else { return Ok(Self(None)) };
        let bad = || {
            Error::new(
                Code::BadRequest,
                "If-Match takes one resource_version in double quotes, such as \"12\", or *",
            )
            .field("If-Match")
        };
        let text = value.to_str().map_err(|_| bad())?.trim();
        if text == "*" || text.is_empty() {
            return Ok(Self(None));
        }
        let number = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).ok_or_else(bad)?;
        number.parse().map(|n| Self(Some(n))).map_err(|_| bad())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::parse(&parts.headers)?)
    }
}

/// A WebSocket, where the caller asked for one.
pub(crate) struct Upgrade(pub Option<WebSocketUpgrade>);

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if !parts.headers.contains_key(header::UPGRADE)
            && !parts.headers.contains_key(header::SEC_WEBSOCKET_KEY)
        {
            return Ok(Self(None));
        }
        match <WebSocketUpgrade as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(upgrade) => Ok(Self(Some(upgrade))),
            Err(e) => Err(Error::new(
                Code::BadRequest,
                format!("the WebSocket handshake is not complete: {}", e.body_text()),
            )
            .into()),
        }
    }
}

/// Whether `Accept` names event streams.
pub(crate) fn wants_event_stream(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(
        |media| media.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream"),
    )
}

/// Where a stream goes on: `after=` wins over `Last-Event-ID`, because the caller wrote it on purpose.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id").and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty())
}
