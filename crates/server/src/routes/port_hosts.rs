//! Ports of a session by host name (`{port}-{session}.{space}.{domain}`): an origin of its own for what runs there.
//!
//! A browser comes with a link, which becomes a cookie of that host name alone; a program may send a token as
//! `Authorization: Bearer`. Neither goes any further. Host names of one installation are one site to a browser, so a
//! cookie by itself proves nothing: what another origin began is refused, unless it is somebody following a link in a
//! window of its own. Nothing here can be framed by another origin.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, HOST, LOCATION, ORIGIN, REFERRER_POLICY, SET_COOKIE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};
use tower::ServiceExt as _;
use wharf_domain::port_host::{PortHost, PortHosts};
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, NameOrId, Plain};
use wharf_store::{Caller, Credential, PortGuest, RequestMeta};

use super::ports::visit;
use crate::app::App;
use crate::context;
use crate::extract::{bearer, meta};
use crate::ports::headers::{Came, cookie, framed_by_itself, without_cookies};
use crate::ports::{Front, exchange};
use crate::problem::{AsItIs, AsPage, Problem};

/// Where links lead; nothing below `/.wharf/` goes to the program.
pub(super) const ENTER: &str = "/.wharf/enter";
const OWN_PATHS: &str = "/.wharf/";
/// With https the browser itself keeps the cookie to this one host.
const COOKIE_HTTPS: &str = "__Host-wharf-port";
const COOKIE_HTTP: &str = "wharf-port";
const COOKIES: [&str; 2] = [COOKIE_HTTPS, COOKIE_HTTP];
/// Characters of a path that a link leads to.
const PATH_CHARS: usize = 2048;

#[derive(Clone)]
struct Doors {
    app: App,
    hosts: Arc<PortHosts>,
}

/// The API, and beside it the host names of ports where the installation has them.
pub(super) fn beside(api: Router, app: App) -> Router {
    let Some(hosts) = app.settings.port_hosts() else { return api };
    let hosts = Arc::new(hosts);
    let doors = Doors { app: app.clone(), hosts: hosts.clone() };
    let ports = Router::new()
        .route("/", any(door))
        .route("/{*path}", any(door))
        .layer(axum::middleware::from_fn_with_state(app, context::surround))
        .with_state(doors);
    let either = tower::service_fn(move |request: Request| {
        let to = if hosts.covers(host_of(&request)) { ports.clone() } else { api.clone() };
        async move { Ok::<Response, Infallible>(to.oneshot(request).await.into_response()) }
    });
    Router::new().fallback_service(either)
}

fn host_of(request: &Request) -> &str {
    let named = request.uri().authority().map(http::uri::Authority::as_str);
    named.or_else(|| request.headers().get(HOST).and_then(|h| h.to_str().ok())).unwrap_or_default()
}

/// Whether it is a path of the same host and nothing else.
pub(super) fn is_local(path: &str) -> bool {
    let plain = path.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'\\');
    path.starts_with('/') && !path.starts_with("//") && path.len() <= PATH_CHARS && plain
}

async fn door(State(doors): State<Doors>, request: Request) -> Response {
    let person = request.method() == Method::GET
        && request
            .headers()
            .get(ACCEPT)
            .and_then(|a| a.to_str().ok())
            .is_some_and(|a| a.contains("text/html"));
    let mut response = match open(&doors, request).await {
        Ok(response) => response,
        Err(error) => {
            let mut response = Problem(error).into_response();
            if person {
                response.extensions_mut().insert(AsPage);
            }
            response
        }
    };
    framed_by_itself(response.headers_mut());
    response
}

async fn open(doors: &Doors, request: Request) -> Result<Response, Error> {
    let Doors { app, hosts } = doors;
    let at = hosts.read(host_of(&request)).ok_or_else(|| {
        let detail = format!("host names of ports are PORT-SESSION.SPACE.{}; this is none", hosts.domain());
        Error::new(Code::NotFound, detail)
    })?;
    let (mut parts, body) = request.into_parts();
    if parts.uri.path().starts_with(OWN_PATHS) {
        return enter(doors, &at, &parts).await;
    }
    let asked = parts
        .headers
        .get(HOST)
        .cloned()
        .or_else(|| parts.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()));
    let guest = who(doors, &at, &mut parts).await?;
    let mut scope = app.store.scope(&guest.caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Exec).await?;
    if guest.only.is_some_and(|only| only != permit.row().id) {
        // Of a session that had this name before.
        return Err(elsewhere());
    }
    let visit = visit(app, scope, permit, at.port, "host name").await?;
    without_cookies(&mut parts.headers, &COOKIES);
    let came = Came {
        host: asked.clone().unwrap_or_else(|| HeaderValue::from_static("localhost")),
        asked,
        https: hosts.https(),
        from: meta(&parts).address,
        prefix: None,
    };
    let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let request = Request::from_parts(parts, body);
    let mut response = exchange(app, visit, &came, Front::Host(&COOKIES), target, request).await?;
    response.extensions_mut().insert(AsItIs);
    Ok(response)
}

/// Somebody let in, and, where they came with a link, which session it is for.
struct Guest {
    caller: Caller,
    only: Option<wharf_domain::SessionId>,
}

fn elsewhere() -> Error {
    Error::new(
        Code::Unauthenticated,
        "this link is for another port; open the one that was made for this address",
    )
}

fn uninvited(at: &PortHost) -> Error {
    let PortHost { port, session, space } = at;
    Error::new(
        Code::Unauthenticated,
        format!(
            "this is a port of a session, open to those with a link: `wharf session port link {session} {port} -s {space}` makes \
             one; programs send a token as `Authorization: Bearer …`"
        ),
    )
}

/// Who calls. What was shown for it is taken out of the request; whatever else the caller says is for the program.
async fn who(doors: &Doors, at: &PortHost, parts: &mut Parts) -> Result<Guest, Error> {
    let meta = meta(parts);
    let shown =
        COOKIES.iter().find_map(|name| cookie(&parts.headers, name)).map(|t| Plain::new(t.as_bytes()));
    let mut expired = None;
    if let Some(link) = shown {
        match by_link(&doors.app, at, &link, meta).await {
            Ok(guest) => {
                same_origin(doors, at, parts)?;
                // It may be one of Wharf's all the same.
                if ours(parts) {
                    parts.headers.remove(AUTHORIZATION);
                }
                return Ok(guest);
            }
            Err(error) if matches!(error.code, Code::Unauthenticated | Code::TokenExpired) => {
                expired = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    if !parts.headers.contains_key(AUTHORIZATION) {
        return Err(expired.unwrap_or_else(|| uninvited(at)));
    }
    let token = bearer(parts).map_err(|_| uninvited(at))?;
    parts.headers.remove(AUTHORIZATION);
    match by_link(&doors.app, at, &token, meta).await {
        Err(error) if error.code == Code::Unauthenticated => {
            let caller = doors.app.store.authenticate(Credential::Bearer(token), meta).await?;
            Ok(Guest { caller, only: None })
        }
        other => other,
    }
}

async fn by_link(app: &App, at: &PortHost, link: &Plain, meta: RequestMeta) -> Result<Guest, Error> {
    let PortGuest { caller, session, port } = app.store.open_port_link(link, meta).await?;
    let other = matches!(at.session, NameOrId::Id(id) if id != session);
    if port != at.port || other {
        return Err(elsewhere());
    }
    Ok(Guest { caller, only: Some(session) })
}

/// Whether `Authorization` holds something of Wharf's, by its looks: an API token, or a signed one.
fn ours(parts: &Parts) -> bool {
    bearer(parts).is_ok_and(|token| {
        token
            .expose_str()
            .is_some_and(|t| t.starts_with("wharf") || (t.starts_with("eyJ") && t.split('.').count() == 3))
    })
}

/// A cookie comes along whoever began the request; only the port's own pages, and people who open it, are meant.
fn same_origin(doors: &Doors, at: &PortHost, parts: &Parts) -> Result<(), Error> {
    let value = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let refuse = || {
        let detail = format!(
            "another site asked for this in your name, and port {} of session {} is not open to it; open the address itself",
            at.port, at.session
        );
        Err(Error::new(Code::Forbidden, detail))
    };
    // A page in a frame is a navigation too: of the page around it, and not of a person.
    let opened = parts.method == Method::GET
        && value("sec-fetch-mode") == Some("navigate")
        && value("sec-fetch-dest") == Some("document");
    if let Some(origin) = parts.headers.get(ORIGIN) {
        let own = host_name(parts).map(|host| doors.hosts.origin(host));
        let same = own.is_some_and(|own| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()));
        return if same { Ok(()) } else { refuse() };
    }
    match value("sec-fetch-site") {
        Some("cross-site" | "same-site") if !opened => refuse(),
        _ => Ok(()),
    }
}

/// The host asked for, without a port.
fn host_name(parts: &Parts) -> Option<&str> {
    let named = parts.uri.authority().map(http::uri::Authority::as_str);
    let host = named.or_else(|| parts.headers.get(HOST).and_then(|h| h.to_str().ok()))?;
    Some(host.rsplit_once(':').map_or(host, |(name, _)| name))
}

#[derive(serde::Deserialize)]
struct Entry {
    link: String,
    #[serde(default)]
    to: Option<String>,
}

/// A link opened: it becomes a cookie, and the address bar forgets it.
async fn enter(doors: &Doors, at: &PortHost, parts: &Parts) -> Result<Response, Error> {
    if parts.uri.path() != ENTER || parts.method != Method::GET {
        let detail = format!("{OWN_PATHS} is Wharf's own; links lead to {ENTER}");
        return Err(Error::new(Code::NotFound, detail));
    }
    let entry: Entry = serde_urlencoded::from_str(parts.uri.query().unwrap_or_default())
        .map_err(|_| Error::new(Code::BadRequest, "the link is not complete; copy all of it"))?;
    let to = entry.to.as_deref().filter(|to| is_local(to) && !to.starts_with(OWN_PATHS)).unwrap_or("/");
    let link = Plain::new(entry.link.as_bytes());
    by_link(&doors.app, at, &link, meta(parts)).await?;
    // A browser forgets it with its last window; how long it is valid stands in it.
    let cookie = if doors.hosts.https() {
        format!("{COOKIE_HTTPS}={}; Path=/; Secure; HttpOnly; SameSite=Lax", entry.link)
    } else {
        format!("{COOKIE_HTTP}={}; Path=/; HttpOnly; SameSite=Lax", entry.link)
    };
    let value = |text: &str| HeaderValue::from_str(text).map_err(Error::internal);
    let headers = [
        (SET_COOKIE, value(&cookie)?),
        (LOCATION, value(to)?),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}
