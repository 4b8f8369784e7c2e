//! Ports of a session by path: what listens, HTTP to a port, a tunnel of bytes, and links for browsers.
//!
//! Who may run commands in a session may use its ports. A closed session is woken. At this address a program's page is
//! somebody else's page at the API's origin: its cookies end here and it is put into a sandbox; the port's host name is for
//! browsers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use utoipa::IntoParams;
use wharf_domain::port_host::PortHosts;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, limits};
use wharf_store::sessions::SessionRow;
use wharf_store::{Caller, Permit, Scope};
use wharf_wire::api;

use super::computer::{Approach, Wants};
use super::tokens::NO_STORE;
use super::view;
use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{At, Auth, FromPath, Json, Params, Query, SessionPath, Upgrade};
use crate::metrics::Carrier;
use crate::ports::headers::{Came, without_credentials};
use crate::ports::{Front, Visit, Watched, connect, exchange, idle};
use crate::problem::Problem;

/// Bytes of the program in one frame.
const FRAME_BYTES: usize = 64 * 1024;
/// Bytes of a caller's frame.
const INCOMING_BYTES: usize = 1024 * 1024;
/// Said instead of bytes: the sender has no more. A connection of TCP ends each way by itself, a WebSocket does not.
const END: Utf8Bytes = Utf8Bytes::from_static("end");

pub(crate) struct PortPath {
    at: SessionPath,
    port: u16,
}

impl FromPath for PortPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SessionPath::from_path(p)?, port: number(p.text("port")?)? })
    }
}

fn number(text: &str) -> Result<u16, Error> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|p: &u16| plain && *p > 0).ok_or_else(|| {
        let shown: String = text.chars().take(20).collect();
        Error::new(Code::InvalidField, format!("{shown:?} is not a port between 1 and 65535")).field("port")
    })
}

/// The path of the API that leads to a port.
fn path_to(space: &str, session: &str, port: u16) -> String {
    format!("/v1/spaces/{space}/sessions/{session}/ports/{port}")
}

/// Lets a caller that may run commands in: writes it down, wakes the session, holds it in use.
pub(super) async fn visit(
    app: &App,
    mut scope: Scope,
    permit: Permit<SessionRow>,
    port: u16,
    by: &str,
) -> Result<Visit, Error> {
    let (id, name) = (permit.row().id, permit.row().name.to_string());
    let place = app.hosts.ports.enter(id)?;
    let who = scope.caller().identity().id.uuid();
    if app.hosts.ports.first(who, id, port, scope.now()) {
        scope.audit(
            Verb::Exec,
            Resource::Sessions,
            Some(id.uuid()),
            Some(&name),
            json!({"port": port, "by": by}),
        );
    }
    let approach = Approach::begin(app, &mut scope, permit, Wants::Running).await?;
    scope.commit().await?;
    Ok(Visit { computer: approach.arrive().await?, port, place })
}

/// List the ports something listens on
///
/// Empty for a closed session, which this does not wake.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/ports", tag = "ports",
    responses((status = 200, body = api::ListeningPorts)))]
pub(crate) async fn list_ports(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
) -> Result<Json<api::ListeningPorts>, Problem> {
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Get).await?;
    let space = scope.space()?.name.clone();
    let row = permit.row().clone();
    if row.endpoint(scope.now()).is_none() {
        return Ok(Json(api::ListeningPorts::default()));
    }
    let approach = Approach::begin(&app, &mut scope, permit, Wants::AsIs).await?;
    scope.commit().await?;
    let mut computer = approach.arrive().await?;
    let found = computer.ask(|host| async move { host.ports().await }).await?;
    let hosts = app.settings.port_hosts();
    let show = |p: wharf_wire::host::Port| api::ListeningPort {
        port: p.port,
        address: p.address.to_string(),
        uid: p.uid,
        path: path_to(space.as_str(), row.name.as_str(), p.port) + "/",
        url: hosts.as_ref().map(|h| h.origin(&h.host(p.port, (&row.name, row.id), &space)) + "/"),
    };
    Ok(Json(api::ListeningPorts { items: found.into_iter().map(show).collect() }))
}

fn without_hosts() -> Error {
    Error::new(
        Code::Unsupported,
        "this installation has no host names for ports, so there is nothing a browser could open; an administrator sets \
         port_hosts, and `wharf session forward` brings a port to your machine without it",
    )
}

/// Make a link to a port for a browser
///
/// The link opens the port's own host name and nothing else. Whoever has it acts there as its maker, for as long as it
/// is valid and the maker's login or token and rights last. Needs `port_hosts` in the settings.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/port-links", tag = "ports",
    request_body = api::CreatePortLink, responses((status = 201, body = api::PortLink)))]
pub(crate) async fn create_port_link(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Json(body): Json<api::CreatePortLink>,
) -> Result<impl IntoResponse, Problem> {
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Exec).await?;
    let hosts: PortHosts = app.settings.port_hosts().ok_or_else(without_hosts)?;
    let seconds = body.seconds();
    let refuse = |field: &str, detail: String| Error::new(Code::InvalidField, detail).field(field);
    if body.port == 0 {
        return Err(refuse("port", "a port is a number between 1 and 65535".to_owned()).into());
    }
    if !(1..=limits::PORT_LINK_MAX_SECONDS).contains(&seconds) {
        let most = limits::PORT_LINK_MAX_SECONDS;
        let detail = format!("expires_in_seconds is 1 to {most} (limit PORT_LINK_MAX_SECONDS)");
        return Err(refuse("expires_in_seconds", detail).into());
    }
    let to = body.path.as_deref().unwrap_or("/");
    if !super::port_hosts::is_local(to) {
        let detail =
            "path is a path at the port, beginning with one / and of up to 2048 characters".to_owned();
        return Err(refuse("path", detail).into());
    }
    let row = permit.row();
    let ttl = Duration::from_secs(seconds.into());
    let (token, expires_at) = app.store.sign_port_link(&caller, row.id, body.port, ttl).await?;
    let host = hosts.host(body.port, (&row.name, row.id), &scope.space()?.name);
    let (id, name) = (row.id.uuid(), row.name.to_string());
    let detail = json!({"port": body.port, "link_until": expires_at});
    scope.audit(Verb::Exec, Resource::Sessions, Some(id), Some(&name), detail);
    scope.commit().await?;
    let token = view::sensitive(&token)?;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("link", token.expose())
        .append_pair("to", to)
        .finish();
    let url = api::Sensitive::new(format!("{}{}?{query}", hosts.origin(&host), super::port_hosts::ENTER));
    Ok((StatusCode::CREATED, NO_STORE, Json(api::PortLink { url, token, expires_at })))
}

async fn by_path(app: App, caller: Caller, at: PortPath, mut request: Request) -> Result<Response, Error> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.sessions().permit(&at.at.session, Verb::Exec).await?;
    let visit = visit(&app, scope, permit, at.port, "path").await?;
    let (prefix, target) = split(&request)?;
    let asked = request
        .headers()
        .get(HOST)
        .cloned()
        .or_else(|| request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()));
    let came = Came {
        host: HeaderValue::try_from(format!("localhost:{}", at.port)).map_err(Error::internal)?,
        asked,
        https: app.settings.url().starts_with("https://"),
        from: request.extensions().get::<RequestContext>().and_then(|c| c.address),
        prefix: Some(&prefix),
    };
    without_credentials(request.headers_mut());
    exchange(&app, visit, &came, Front::Path(&prefix), target, request).await
}

/// What stands before the program's paths, and the path at the program: as they came, escapes and all.
fn split(request: &Request) -> Result<(String, PathAndQuery), Error> {
    let path = request.uri().path();
    // "", v1, spaces, S, sessions, X, ports, P: the eighth slash begins the program's path.
    let at = path.match_indices('/').nth(7).map_or(path.len(), |(at, _)| at);
    let (prefix, rest) = path.split_at(at);
    let rest = if rest.is_empty() { "/" } else { rest };
    let target = match request.uri().query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let target = PathAndQuery::try_from(target)
        .map_err(|e| Error::new(Code::BadRequest, "the path cannot be passed on").because(e))?;
    Ok((prefix.to_owned(), target))
}

/// Any other method than those of the document.
pub(crate) async fn any_port(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<PortPath>,
    request: Request,
) -> Result<Response, Problem> {
    Ok(by_path(app, caller, at, request).await?)
}

/// The port without a slash behind it: what is relative to it would miss it.
pub(crate) async fn port_itself(_: Auth, At(at): At<PortPath>) -> Result<Response, Problem> {
    let to = HeaderValue::from_str(&format!("{}/", at.port)).map_err(Error::internal)?;
    Ok((StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, to)]).into_response())
}

macro_rules! through {
    ($name:ident, $method:ident, $does:literal) => {
        #[doc = $does]
        ///
        /// Path, query, headers and body go to the program as they come, and its answer comes back the same way, streamed;
        /// WebSocket and other upgrades too. Credentials and cookies of the caller stay outside, cookies of the program
        /// inside, and its pages are sandboxed: the port's host name is for browsers. A closed session is restored first.
        #[utoipa::path($method, path = "/v1/spaces/{space}/sessions/{session}/ports/{port}/{*path}", tag = "ports",
            responses((status = 200, description = "The program's answer, whatever its status and type.", content_type = "*/*",
                body = String)))]
        pub(crate) async fn $name(
            State(app): State<App>,
            Auth { caller, .. }: Auth,
            At(at): At<PortPath>,
            request: Request,
        ) -> Result<Response, Problem> {
            Ok(by_path(app, caller, at, request).await?)
        }
    };
}

through!(get_port, get, "Get from a program at a port");
through!(put_port, put, "Put to a program at a port");
through!(post_port, post, "Post to a program at a port");
through!(patch_port, patch, "Patch at a program at a port");
through!(delete_port, delete, "Delete at a program at a port");

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TunnelQuery {
    /// The port.
    #[param(minimum = 1, maximum = 65535)]
    port: u16,
}

/// Connect to a port (WebSocket)
///
/// Binary frames are the bytes of one TCP connection, whatever protocol they speak. The text frame `end` says that its
/// sender has no more to send; the other way goes on. A closed session is restored first.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/tunnel", tag = "ports", params(TunnelQuery),
    responses((status = 101, description = "A WebSocket.")))]
pub(crate) async fn tunnel(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    request: axum::extract::RawQuery,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    // Who may not do it is told that first.
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Exec).await?;
    let Query(query): Query<TunnelQuery> = Query::of(request.0.as_deref())?;
    let port = number(&query.port.to_string())?;
    let Some(upgrade) = upgrade.0 else {
        let detail = "a tunnel is a WebSocket: send the request with `Upgrade: websocket`";
        return Err(Error::new(Code::InvalidField, detail).field("Upgrade").into());
    };
    let Visit { mut computer, place, .. } = visit(&app, scope, permit, port, "tunnel").await?;
    let bytes = connect(&mut computer, port).await?;
    let guard = app.metrics.stream_begins(Carrier::WebSocket);
    let stop = app.stop.clone();
    Ok(upgrade.max_message_size(INCOMING_BYTES).on_upgrade(move |socket| async move {
        let _open = (guard, place, computer);
        let (bytes, said) = Watched::new(bytes);
        let (from, to) = tokio::io::split(bytes);
        let (sink, stream) = socket.split();
        let sink = Arc::new(tokio::sync::Mutex::new(sink));
        let both = async { tokio::try_join!(outward(from, &sink), inward(stream, to)) };
        let code = tokio::select! {
            ended = both => if ended.is_ok() { close_code::NORMAL } else { close_code::AWAY },
            () = idle(said, Duration::from_secs(limits::PORT_IDLE_SECONDS)) => close_code::POLICY,
            () = stop.draining() => close_code::RESTART,
        };
        let bye = Message::Close(Some(CloseFrame { code, reason: "".into() }));
        // Whoever went away needs no farewell.
        let _ = sink.lock().await.send(bye).await;
    }))
}

type Sink = tokio::sync::Mutex<SplitSink<WebSocket, Message>>;

/// A way that broke ends the other; one that came to its end does not.
struct Broke;

async fn outward(mut from: ReadHalf<impl AsyncRead + AsyncWrite>, sink: &Sink) -> Result<(), Broke> {
    let mut alive = tokio::time::interval(Duration::from_secs(limits::SSE_KEEPALIVE_SECONDS));
    let mut buffer = bytes::BytesMut::with_capacity(FRAME_BYTES);
    let mut ended = false;
    loop {
        buffer.reserve(FRAME_BYTES);
        let message = tokio::select! {
            read = from.read_buf(&mut buffer), if !ended => match read {
                Ok(0) => {
                    ended = true;
                    Message::Text(END)
                }
                Ok(_) => Message::Binary(buffer.split().freeze()),
                Err(_) => return Err(Broke),
            },
            _ = alive.tick() => Message::Ping(bytes::Bytes::new()),
        };
        sink.lock().await.send(message).await.map_err(|_| Broke)?;
        if ended {
            return Ok(());
        }
    }
}

async fn inward(
    mut stream: SplitStream<WebSocket>,
    mut to: WriteHalf<impl AsyncRead + AsyncWrite>,
) -> Result<(), Broke> {
    while let Some(message) = stream.next().await {
        match message {
            Ok(Message::Binary(bytes)) => {
                to.write_all(&bytes).await.map_err(|_| Broke)?;
                to.flush().await.map_err(|_| Broke)?;
            }
            Ok(Message::Text(text)) if text == END => {
                return to.shutdown().await.map_err(|_| Broke);
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Text(_) | Message::Close(_)) | Err(_) => return Err(Broke),
        }
    }
    Err(Broke)
}
