//! Requests the gateway reads and passes on: plain HTTP, and https it has terminated for a connection.
//!
//! Hop-by-hop headers end here (RFC 9110 §7.6.1), bodies stream both ways, an upgrade becomes a tunnel. Redirects are
//! the client's to follow: its next request is judged like its first.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, EXPECT, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use wharf_domain::egress::Target;

use crate::body::{Body, Metered, Resumed, Way, empty, stream};
use crate::connections::Used;
use crate::dial::Connector;
use crate::door::Call;
use crate::gateway::Gateway;
use crate::guards::{self, Leaving};
use crate::line::{Kind, Line};
use crate::open::Watched;
use crate::problem::Refusal;
use crate::sized::Measured;
use crate::target::authority;
use crate::tunnel;

/// Headers that are about one connection and not about the request.
const HOP: [HeaderName; 6] =
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")];
const PROXY: [HeaderName; 3] = [
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-authenticate"),
];

/// Connections to upstreams for one connection of a client.
pub(crate) struct Upstream {
    any: Client<Connector, Body>,
    /// For upgrades, which HTTP/2 does not have.
    one: Client<Connector, Body>,
}

impl Upstream {
    pub fn new(gateway: &Gateway) -> Self {
        let client = |upgrades| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .pool_max_idle_per_host(4)
                .build(Connector::new(gateway.dialer.clone(), &gateway.tls, upgrades))
        };
        Self { any: client(false), one: client(true) }
    }

    /// Sends a request whose URI is absolute. Why it could not be sent says the refusal.
    pub async fn send(&self, request: Request<Body>, upgrades: bool) -> Result<Response<Incoming>, Refusal> {
        let client = if upgrades { &self.one } else { &self.any };
        client.request(request).await.map_err(refusal_in)
    }
}

/// The connector's own words where it was the connector, the client's otherwise.
fn refusal_in(error: hyper_util::client::legacy::Error) -> Refusal {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(e) = at {
        if let Some(refusal) = e.downcast_ref::<Refusal>() {
            return refusal.clone();
        }
        at = e.source();
    }
    let mut text = error.to_string();
    let mut at = std::error::Error::source(&error);
    while let Some(e) = at {
        text = format!("{text}: {e}");
        at = e.source();
    }
    Refusal::upstream("protocol", format!("the upstream did not answer: {text}"))
}

/// Passes a request on and its answer back; what cannot go through is answered here.
pub(crate) async fn exchange(
    call: &Call,
    upstream: &Upstream,
    scheme: Scheme,
    target: &Target,
    request: Request<Incoming>,
) -> Response<Body> {
    let line = call.line(Kind::Request, target);
    line.method(request.method());
    match pass(call, upstream, scheme, target, request, &line).await {
        Ok(response) => response,
        Err(refusal) => {
            line.refused(&refusal);
            refusal.response()
        }
    }
}

async fn pass(
    call: &Call,
    upstream: &Upstream,
    scheme: Scheme,
    target: &Target,
    mut request: Request<Incoming>,
    line: &Arc<Line>,
) -> Result<Response<Body>, Refusal> {
    let limit = call.gateway.idle();
    call.meter.pace().await?;
    call.session.policy.judge(target).map_err(|why| Refusal::denied("policy", why))?;
    call.session.room().map_err(Refusal::limit)?;
    let leaving = Leaving::request(&scheme, target, &request);
    let upgrade = upgrade_of(request.headers()).filter(|_| request.body().is_end_stream());
    let waiting = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    let mut body = Resumed::new(body);
    let allowed = guards::egress_with(call, target, &leaving, &mut body).await?;
    let call = &allowed.call;
    let connections = &call.gateway.connections;
    let (method, path) = (head.method.as_str(), head.uri.path());
    let connection = connections.covering(&call.session, target, method, path).await?;
    let used = connection.clone().map(|live| Used { live, method: method.to_owned(), path: path.to_owned() });
    let watched = Watched {
        jail: call.jail,
        target: target.clone(),
        leaving: Some(leaving),
        allowed: allowed.ruling,
        opaque: false,
        used,
    };
    line.watch(call.heard, watched);

    strip(&mut head.headers);
    head.headers.remove(HOST);
    head.headers.remove(EXPECT);
    if let Some(protocol) = &upgrade {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol.clone());
    }
    head.uri = absolute(scheme, target, head.uri.path_and_query().cloned())?;
    head.version = Version::HTTP_11;
    // What the client's connection carried along is none of the upstream's business.
    head.extensions = http::Extensions::new();
    let hidden = match &connection {
        Some(live) => {
            let hidden = connections.inject(live, &mut head)?;
            line.connection(&live.connection.name);
            Some(hidden)
        }
        None => None,
    };
    let sent = |body| Metered::new(body, line.clone(), call.meter.clone(), Way::Sent);
    let (body, cut) = match allowed.sizes {
        _ if upgrade.is_some() => (empty(), None),
        None => (stream(sent(stream(body))), None),
        Some(sizes) => {
            let measured = Measured::new(body, sizes, line.clone());
            let why = measured.why();
            (stream(sent(stream(measured))), Some(why))
        }
    };
    let sent = upstream.send(Request::from_parts(head, body), upgrade.is_some());
    let mut response = tokio::select! {
        sent = sent => sent.map_err(|refusal| {
            // Where it was cut is said, and not what the upstream made of that.
            cut.and_then(|why| why.get().cloned()).unwrap_or(refusal)
        })?,
        () = line.ends() => return Err(line.end()),
        () = tunnel::idle(&line.traffic, limit) => return Err(Refusal::timeout(format!(
            "nothing was heard of {target} for too long (gateway.idle_timeout_seconds)"
        ))),
    };
    line.status(response.status());
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switched {
        let Some(waiting) = waiting else {
            return Err(Refusal::upstream(
                "protocol",
                "the upstream switched protocols although nobody asked",
            ));
        };
        tunnel::join(call, line, waiting, hyper::upgrade::on(&mut response));
    }
    let protocol = response.headers().get(UPGRADE).filter(|_| switched).cloned();
    let (mut head, body) = response.into_parts();
    strip(&mut head.headers);
    if let Some(hidden) = hidden {
        hidden.clean(&mut head.headers);
    }
    head.version = Version::HTTP_11;
    head.extensions = http::Extensions::new();
    if switched {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.extend(protocol.map(|p| (UPGRADE, p)));
        return Ok(Response::from_parts(head, empty()));
    }
    let body = Metered::new(body, line.clone(), call.meter.clone(), Way::Received);
    let body = body.patient(limit, call.unread.clone());
    Ok(Response::from_parts(head, stream(body)))
}

fn absolute(scheme: Scheme, target: &Target, path: Option<PathAndQuery>) -> Result<Uri, Refusal> {
    let default = if scheme == Scheme::HTTPS { 443 } else { 80 };
    Uri::builder()
        .scheme(scheme)
        .authority(authority(target, default))
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build()
        .map_err(|e| Refusal::bad_request(format!("the request's address cannot be passed on: {e}")))
}

/// The protocol a request wants to change to, where its `Connection` says so.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let named = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    // HTTP/2 in the clear is offered by clients that go on as well without; a body that follows would be lost.
    headers.get(UPGRADE).filter(|p| named && !p.as_bytes().eq_ignore_ascii_case(b"h2c")).cloned()
}

/// Removes what is about this connection: the known headers and those `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|word| word.trim().parse().ok())
        .collect();
    // gRPC's servers want to hear that their client reads trailers; that is true from end to end.
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in named.iter().chain(&HOP).chain(&PROXY) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

#[cfg(test)]
mod tests;
