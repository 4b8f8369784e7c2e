//! Models: `http://gateway/{provider}/…`, with the key added here and what is used counted here.
//!
//! A request is read (which model, does it stream), judged (allow-list, budgets, quotas), written down, sent, tried again
//! while nothing of an answer has gone to the session, passed on piece by piece, and settled once. Refuses what it could
//! not count where a budget says that it must be counted.

mod answer;
mod call;
mod fault;
mod flow;
mod guarded;
mod meter;
mod over;
mod overload;
mod scripted;
mod sending;
mod sse;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ALT_SVC, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use wharf_domain::egress::{Host, Target};
use wharf_domain::model::{Protocol, Tokens};
use wharf_domain::{Name, ProviderId, SessionId, limits};
use wharf_store::Provider;
use wharf_store::models::{ModelAsk, ModelBegun, ModelEnd, ModelRoute};

use self::call::{Call, Kind};
use self::fault::{Dialect, Fault};
use self::flow::{Charge, Flow};
use self::meter::Meter;
use crate::body::{Body, Metered, stream as body_of};
use crate::dial::{Dialer, Tls};
use crate::gateway::Gateway;
use crate::line::{Kind as LineKind, Line};
use crate::sessions::Session;

/// How long a request's body may take to arrive.
const ARRIVES: Duration = Duration::from_secs(120);
/// Uses of keys that are in the audit log already; more are noted again.
const NOTED: usize = 10_000;

/// What model requests of all sessions share.
pub(crate) struct Models {
    http: upstream::Http,
    open: Arc<Mutex<HashMap<SessionId, Used>>>,
    noted: Mutex<HashSet<(SessionId, ProviderId, i32)>>,
}

impl Models {
    pub fn new(dialer: &Arc<Dialer>, tls: &Tls) -> Self {
        Self { http: upstream::client(dialer, tls), open: Arc::default(), noted: Mutex::default() }
    }

    fn slot(&self, session: SessionId) -> Result<Slot, Fault> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let used = open.entry(session).or_default();
        if used.requests >= limits::MODEL_REQUESTS_OPEN {
            let most = limits::MODEL_REQUESTS_OPEN;
            return Err(crowded(format!("{most} model requests open (MODEL_REQUESTS_OPEN)")));
        }
        used.requests += 1;
        Ok(Slot { session, bytes: 0, open: self.open.clone() })
    }
}

fn crowded(what: String) -> Fault {
    let text = format!("the session has {what}; let some end first");
    let fault = Fault::new(StatusCode::TOO_MANY_REQUESTS, "too_many_open", text);
    Fault { retry_after: Some(1), ..fault }
}

/// What a session has open.
#[derive(Default)]
struct Used {
    requests: usize,
    /// Of requests that wait for an answer, held here.
    bytes: usize,
}

/// One of the requests that a session may have open.
pub(crate) struct Slot {
    session: SessionId,
    bytes: usize,
    open: Arc<Mutex<HashMap<SessionId, Used>>>,
}

impl Slot {
    /// Makes room for more of the request's body.
    fn grow(&mut self, bytes: usize) -> Result<(), Fault> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let used = open.entry(self.session).or_default();
        if used.bytes + bytes > limits::MODEL_REQUESTS_BYTES {
            let most = limits::MODEL_REQUESTS_BYTES;
            return Err(crowded(format!("model requests of {most} bytes open (MODEL_REQUESTS_BYTES)")));
        }
        used.bytes += bytes;
        self.bytes += bytes;
        Ok(())
    }

    /// The request's body is no longer needed.
    fn shrink(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = open.get_mut(&self.session) {
            used.bytes -= std::mem::take(&mut self.bytes);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shrink();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = open.get_mut(&self.session) {
            used.requests -= 1;
            if used.requests == 0 {
                open.remove(&self.session);
            }
        }
    }
}

/// Answers a request below `/{provider}/`.
pub(crate) async fn serve(
    gateway: &Gateway,
    session: &Arc<Session>,
    provider: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let dialect = Dialect::of(None, request.uri().path(), request.headers());
    let route = match route(gateway, session, provider).await {
        Ok(route) => route,
        Err(fault) => return fault.response(dialect),
    };
    let protocol = route.provider.spec.protocol;
    let dialect = Dialect::of(Some(protocol), request.uri().path(), request.headers());
    let line = Line::begin(&gateway.log, &gateway.system, session, LineKind::Model, &target(&route.provider));
    line.method(request.method());
    line.traffic.sent.store(request.body().size_hint().lower(), Ordering::Relaxed);
    let mut response = match answer(gateway, session, &route, dialect, request).await {
        Ok(response) => {
            line.status(response.status());
            response.map(|body| body_of(Metered::counted(body, line)))
        }
        Err(fault) => {
            line.failed(fault.status, fault.code);
            fault.response(dialect)
        }
    };
    if let Ok(name) = HeaderValue::from_str(route.provider.name.as_str()) {
        let name = if protocol == Protocol::Scripted { HeaderValue::from_static("scripted") } else { name };
        response.headers_mut().insert("x-wharf-provider", name);
    }
    response
}

/// Where a provider's requests go, for the egress log; a scripted one's stay here.
fn target(provider: &Provider) -> Target {
    let upstream = provider
        .spec
        .upstream()
        .and_then(|base| Target::parse(base.authority(), Some(if base.tls() { 443 } else { 80 })).ok());
    upstream.unwrap_or_else(|| Target::new(Host::Name(crate::target::OWN.to_owned()), 80))
}

async fn route(gateway: &Gateway, session: &Session, provider: &str) -> Result<ModelRoute, Fault> {
    let shown: String = provider.chars().take(80).collect();
    let missing = || {
        let text = format!(
            "space {} has no model provider {shown:?}; make it with `wharf provider create {shown} --key-secret NAME`",
            session.space_name
        );
        Fault { retry: Some(false), ..Fault::new(StatusCode::NOT_FOUND, "no_such_provider", text) }
    };
    let name: Name = provider.parse().map_err(|_| missing())?;
    gateway.system.model_route(session.space, &name).await?.ok_or_else(missing)
}

async fn answer(
    gateway: &Gateway,
    session: &Session,
    route: &ModelRoute,
    dialect: Dialect,
    request: Request<Incoming>,
) -> Result<Response<Body>, Fault> {
    let provider = &route.provider;
    let mut slot = gateway.models.slot(session.session)?;
    let (head, body) = request.into_parts();
    if head.headers.contains_key(UPGRADE) {
        let text = "WebSocket connections to providers are not carried; use HTTP";
        return Err(Fault::new(StatusCode::NOT_IMPLEMENTED, "no_upgrade", text));
    }
    if head.headers.contains_key(CONTENT_ENCODING) {
        let text = "the body is compressed; send it as it is, so that it can be judged";
        return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "compressed", text));
    }
    let rest = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    // Behind the provider's name.
    let rest = rest.get(1 + provider.name.as_str().len()..).filter(|r| r.starts_with('/')).unwrap_or("/");
    let path = rest.split('?').next().unwrap_or_default();
    let call = Call::read(Kind::of(&head.method, path), whole(body, &mut slot).await?)?;
    let call = guarded::input(gateway, session, call).await?;
    let model = judge(route, &call)?;
    let guessed = call::guess(&call.body);
    let mut charge = begin(gateway, session, provider, &call, model, guessed).await?;
    if let Some(script) = &provider.spec.script {
        let response = scripted::answer(script, dialect, path, &call);
        let response = pass(response.map(Passed::Made), charge, &call, slot);
        return guarded::output(gateway, session, &call, response).await;
    }
    let Some(base) = provider.spec.upstream() else {
        return Err(Fault::new(
            StatusCode::BAD_GATEWAY,
            "provider_unreachable",
            "the provider has no address",
        ));
    };
    if route.key.is_some() {
        note_key(gateway, session, route).await?;
    }
    let ask = upstream::Ask {
        uri: upstream::uri(&base, rest)?,
        headers: upstream::headers(&head.headers, &provider.spec, route.key.as_ref())?,
        body: call.metered_body()?,
        // What makes something (an upload, say) is not made twice by us.
        retries: if call.kind.counted() || matches!(head.method, Method::GET | Method::HEAD) {
            u32::from(provider.spec.retries)
        } else {
            0
        },
        method: head.method,
        peeks: call.stream && call.kind.counted(),
        sending: charge.as_ref().map(|c| c.sending.clone()).unwrap_or_default(),
    };
    let asked = upstream::ask(&gateway.models.http, &ask).await;
    ask.sending.is_over();
    drop(ask);
    slot.shrink();
    match asked {
        Ok(answer) => {
            if let Some(charge) = &mut charge {
                charge.attempts = answer.attempts;
            }
            let response =
                answer.response.map(|body| Passed::Came { body: body_of(body), first: answer.first });
            guarded::output(gateway, session, &call, pass(response, charge, &call, slot)).await
        }
        Err(failed) => {
            if let Some(mut charge) = charge {
                charge.attempts = failed.attempts;
                charge.settle(ModelEnd::Failed).await;
            }
            Err(failed.fault)
        }
    }
}

async fn whole(mut body: Incoming, slot: &mut Slot) -> Result<Bytes, Fault> {
    let most = limits::MODEL_REQUEST_BYTES;
    let read = async {
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Fault::bad(format!("the request broke off: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if all.len() + data.len() > most {
                let text = format!("the request has more than {most} bytes (MODEL_REQUEST_BYTES)");
                return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text));
            }
            slot.grow(data.len())?;
            all.extend_from_slice(&data);
        }
        Ok(all.freeze())
    };
    let late =
        || Fault::new(StatusCode::REQUEST_TIMEOUT, "slow_request", "the request did not arrive in time");
    tokio::time::timeout(ARRIVES, read).await.map_err(|_| late())?
}

/// What the provider's rules say of the request; answers the model it is counted under.
fn judge<'a>(route: &ModelRoute, call: &'a Call) -> Result<&'a str, Fault> {
    let provider = &route.provider;
    let spec = &provider.spec;
    if spec.protocol == Protocol::Scripted {
        return Ok("scripted");
    }
    let never = |fault: Fault| Fault { retry: Some(false), ..fault };
    let limited = spec.budget.any() || route.quotas.counts_models();
    match &call.model {
        Some(model) if !spec.allows(model) => {
            let text = format!(
                "model {model} is not among those that provider {} allows: {}",
                provider.name,
                spec.models.join(", ")
            );
            return Err(never(Fault::new(StatusCode::FORBIDDEN, "model_not_allowed", text)));
        }
        None if !spec.models.is_empty() && call.kind != Kind::Free => {
            let text =
                format!("provider {} allows some models only, and the request names none", provider.name);
            return Err(never(Fault::new(StatusCode::FORBIDDEN, "model_not_allowed", text)));
        }
        _ => {}
    }
    if limited && call.kind == Kind::Uncounted {
        let text = format!(
            "what this request uses cannot be counted, and provider {} or the space has a limit on it; \
             use messages, chat completions, responses or embeddings",
            provider.name
        );
        return Err(never(Fault::new(StatusCode::FORBIDDEN, "cannot_be_counted", text)));
    }
    let model = call.model.as_deref().unwrap_or("unknown");
    let counts_cost = spec.budget.counts_cost() || route.quotas.model_cost_micro_usd_per_day.is_some();
    if counts_cost && call.kind.counted() && spec.price(model).is_none() {
        let text = format!(
            "cost is limited and model {model} has no price at provider {0}; set one with \
             `wharf provider update {0} --price '{model}=IN,OUT'`",
            provider.name
        );
        return Err(never(Fault::new(StatusCode::FORBIDDEN, "no_price", text)));
    }
    Ok(model)
}

/// Judges budgets and writes the request down. What costs nothing is not counted.
async fn begin(
    gateway: &Gateway,
    session: &Session,
    provider: &Provider,
    call: &Call,
    model: &str,
    guessed: u64,
) -> Result<Option<Charge>, Fault> {
    if call.kind == Kind::Free {
        return Ok(None);
    }
    let ask = ModelAsk {
        space: session.space,
        session: session.session,
        provider,
        model,
        guessed: Tokens { input: guessed, ..Tokens::default() },
    };
    let id = match gateway.system.model_begin(&ask).await? {
        ModelBegun::Open { id, .. } => id,
        ModelBegun::Over { limit, used, held, most } if used < most => {
            return Err(over::held(session, provider, limit, used, held, most));
        }
        ModelBegun::Over { limit, used, most, .. } => {
            return Err(over::used_up(gateway.system.store().now(), session, provider, limit, used, most));
        }
    };
    Ok(Some(Charge {
        system: gateway.system.clone(),
        tasks: gateway.tasks.clone(),
        id,
        price: provider.spec.price(model),
        guessed,
        status: None,
        attempts: 1,
        sending: Arc::default(),
        meter: None,
        settled: false,
    }))
}

/// The first use of a key in a session is in the audit log before the key goes out.
async fn note_key(gateway: &Gateway, session: &Session, route: &ModelRoute) -> Result<(), Fault> {
    let what = (session.session, route.provider.id, route.key_version);
    let known = |noted: &HashSet<_>| noted.contains(&what);
    if known(&gateway.models.noted.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(());
    }
    gateway.system.model_key_used(session.space, session.session, route).await?;
    let mut noted = gateway.models.noted.lock().unwrap_or_else(PoisonError::into_inner);
    if noted.len() >= NOTED {
        noted.clear();
    }
    noted.insert(what);
    Ok(())
}

/// A body from the provider, or one that was made here.
enum Passed {
    Came { body: Body, first: Option<Bytes> },
    Made(Body),
}

/// The answer for the session: headers that are for it, and a body that settles the bill at its end.
fn pass(response: Response<Passed>, charge: Option<Charge>, call: &Call, slot: Slot) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    let (body, first) = match body {
        Passed::Came { body, first } => (body, first),
        Passed::Made(body) => (body, None),
    };
    let charge = charge.map(|mut charge| {
        charge.status = Some(head.status.as_u16());
        if head.status.is_success() && call.kind.counted() {
            let encoding = head.headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
            let readable = encoding.is_none_or(|e| e == b"identity");
            let content_type = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
            charge.meter = Some(Meter::new(call.kind, content_type, readable));
        }
        charge
    });
    let streams = charge.as_ref().and_then(|c| c.meter.as_ref()).is_some_and(Meter::streams);
    let hides = streams && call.hides_usage();
    clean(&mut head.headers);
    if hides {
        head.headers.remove(CONTENT_LENGTH);
    }
    let flow = Flow {
        upstream: body,
        first,
        charge,
        hides,
        splitter: sse::Splitter::default(),
        ready: VecDeque::new(),
        end: None,
        _slot: slot,
    };
    Response::from_parts(head, flow.into_body())
}

/// Takes away what was for the gateway's own connection.
fn clean(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').filter_map(|w| w.trim().parse().ok()).collect::<Vec<_>>())
        .collect();
    let own = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, SET_COOKIE, ALT_SVC];
    for name in own.iter().chain(&named) {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate"] {
        headers.remove(name);
    }
}
