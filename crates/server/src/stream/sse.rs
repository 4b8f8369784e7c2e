//! Server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::StreamExt as _;
use http::{HeaderValue, header};
use wharf_domain::limits;

use super::{Record, Records, broken};
use crate::app::App;
use crate::context::RequestContext;
use crate::metrics::Carrier;

fn event(record: Record) -> Event {
    let mut event = Event::default();
    if !record.event.is_empty() {
        event = event.event(record.event).data(record.data);
    }
    match record.id {
        Some(id) => event.id(id),
        None => event,
    }
}

pub(super) fn answer(app: &App, context: RequestContext, records: Records) -> Response {
    let guard = app.metrics.stream_begins(Carrier::Sse);
    let events = records.map(move |record| {
        let _open = &guard;
        Ok::<_, Infallible>(event(record.unwrap_or_else(|error| broken(&error, context))))
    });
    let alive = KeepAlive::new().interval(Duration::from_secs(limits::SSE_KEEPALIVE_SECONDS));
    let mut response = Sse::new(events).keep_alive(alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Reverse proxies would otherwise collect events before passing them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
