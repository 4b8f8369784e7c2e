//! Figures for Prometheus. Labels are typed and bounded: methods of a closed set, route templates, status codes.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use http::Method;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds; the bars of exec and create lie in the low milliseconds.
const BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Timed {
    method: &'static str,
    route: String,
}

/// How a stream travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Carrier {
    Sse,
    WebSocket,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Carried {
    carrier: Carrier,
}

/// The server's own figures and the registry that everything in the process may register with.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: Family<Answered, Counter>,
    seconds: Family<Timed, Histogram>,
    in_flight: Gauge<i64, AtomicI64>,
    streams: Family<Carried, Gauge<i64, AtomicI64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Registry::default())
    }
}

impl Metrics {
    /// Adds the server's figures to a registry that may already hold those of other roles.
    pub fn new(mut registry: Registry) -> Self {
        let requests = Family::default();
        let seconds = Family::<Timed, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let in_flight = Gauge::default();
        let streams = Family::default();
        registry.register("wharf_http_requests", "Requests answered", requests.clone());
        registry.register("wharf_http_request_seconds", "Time until an answer began", seconds.clone());
        registry.register("wharf_http_requests_in_flight", "Requests being answered", in_flight.clone());
        registry.register("wharf_http_streams", "Event streams and terminals open", streams.clone());
        Self(Arc::new(Inner { registry, requests, seconds, in_flight, streams }))
    }

    /// In OpenMetrics text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0.registry)?;
        Ok(text)
    }

    pub(crate) fn request_begins(&self) -> Guard {
        Guard::of(self.0.in_flight.clone())
    }

    pub(crate) fn request_ended(&self, method: &Method, route: &str, status: u16, took: Duration) {
        let method = known(method);
        let route = route.to_owned();
        self.0.seconds.get_or_create(&Timed { method, route: route.clone() }).observe(took.as_secs_f64());
        self.0.requests.get_or_create(&Answered { method, route, status }).inc();
    }

    pub(crate) fn stream_begins(&self, carrier: Carrier) -> Guard {
        Guard::of(self.0.streams.get_or_create(&Carried { carrier }).clone())
    }
}

/// Counts up now and down when dropped, however that comes about.
pub(crate) struct Guard(Gauge<i64, AtomicI64>);

impl Guard {
    fn of(gauge: Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A caller may invent methods; a label may not.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
