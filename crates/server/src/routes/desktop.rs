//! The desktop of a session: its screen over WebSocket as RFB, and as a picture.
//!
//! Who may see the session may look at a desktop that is up; starting its computer for it, and touching it, takes the
//! right to run commands.

use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::response::{IntoResponse as _, Response};
use http::header;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use utoipa::{IntoParams, ToSchema};
use wharf_chassis::Stop;
use wharf_chassis::host_client::HostClient;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, limits};
use wharf_store::Caller;
use wharf_wire::host::desktop::{PNG, Region, SCALE_MAX, SCALE_MIN, SETTLE_MAX_MS, Screenshot, ViewMode};

use super::computer::{Approach, Computer, Wants};
use crate::app::App;
use crate::extract::{At, Auth, Query, SessionPath, Upgrade, bounded};
use crate::metrics::Carrier;
use crate::problem::Problem;

/// One message of a viewer; a clipboard larger than this comes in several.
const INCOMING_BYTES: usize = 1024 * 1024;
/// Bytes of the screen in one frame.
const FRAME_BYTES: usize = 64 * 1024;

/// What a viewer may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DesktopMode {
    /// Look and act.
    #[default]
    Control,
    /// Look only: keys, pointer and clipboard are passed over.
    View,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct DesktopQuery {
    /// `control` (when absent) or `view`.
    #[param(inline)]
    mode: DesktopMode,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ScreenshotQuery {
    /// A part of the screen: `x,y,width,height` in pixels. All of it when absent.
    #[param(max_length = 32, pattern = "^[0-9]{1,5},[0-9]{1,5},[1-9][0-9]{0,4},[1-9][0-9]{0,4}$")]
    region: Option<String>,
    /// Larger or smaller: 0.1 to 8.
    #[param(minimum = 0.1, maximum = 8.0)]
    scale: Option<f32>,
    /// Milliseconds without a change on the screen before the picture is taken; taken anyway after 3 seconds, or twice
    /// this where that is longer.
    #[param(maximum = 15000)]
    settle: Option<u32>,
    /// Whether the pointer is in the picture; it is when absent.
    cursor: Option<bool>,
}

/// The computer with the session's screen; a closed one is restored for those who may run commands in it.
async fn look(
    app: &App,
    caller: &Caller,
    at: &SessionPath,
    verb: Verb,
    what: &str,
) -> Result<Computer, Error> {
    let mut scope = app.store.scope(caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, verb).await?;
    let name = permit.row().name.clone();
    let may = caller.may(scope.space_id(), Resource::Sessions, Verb::Exec, Some(name.as_str()));
    scope.audit(
        verb,
        Resource::Sessions,
        Some(permit.row().id.uuid()),
        Some(name.as_str()),
        json!({"desktop": what}),
    );
    let wants = if may { Wants::Running } else { Wants::AsIs };
    let approach = Approach::begin(app, &mut scope, permit, wants).await?;
    scope.commit().await?;
    approach.arrive().await
}

/// The host knows that its image has no desktop, the server which image that is.
fn named(error: Error, image: &str) -> Error {
    if error.code == Code::Unsupported && error.public.contains("no desktop") {
        let detail = format!(
            "image {image} has no desktop; make the session from image desktop (`wharf image build desktop` makes it)"
        );
        return Error::new(Code::Unsupported, detail);
    }
    error
}

/// Look at the desktop and use it (WebSocket)
///
/// Binary frames are RFB (RFC 6143), the protocol of VNC viewers, without a password: the login is the API's. Several may
/// look at once; one with `mode=view` changes nothing. The desktop starts with its first use; a closed session is restored
/// first. `control` and restoring take the verb `exec`.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/desktop", tag = "desktop", params(DesktopQuery),
    responses((status = 101, description = "A WebSocket.")))]
pub(crate) async fn desktop(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<DesktopQuery>,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let (mode, verb) = match query.mode {
        DesktopMode::Control => (ViewMode::Control, Verb::Exec),
        DesktopMode::View => (ViewMode::View, Verb::Get),
    };
    let Some(upgrade) = upgrade.0 else {
        // Who may not do it is told that first.
        let mut scope = app.store.scope(&caller, &at.space).await?;
        scope.sessions().permit(&at.session, verb).await?;
        let detail = "a desktop is a WebSocket: send the request with `Upgrade: websocket`";
        return Err(Error::new(Code::InvalidField, detail).field("Upgrade").into());
    };
    let mut computer = look(&app, &caller, &at, verb, mode.as_str()).await?;
    let image = computer.image();
    let view = |host: HostClient| async move { host.view_desktop(mode).await };
    let screen = computer.ask(view).await.map_err(|e| named(e, &image))?;
    let guard = app.metrics.stream_begins(Carrier::WebSocket);
    let stop = app.stop.clone();
    let upgrade = upgrade.protocols(["binary"]).max_message_size(INCOMING_BYTES);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _open = guard;
        // The viewer being gone is an ordinary end; the desktop goes on.
        let _ = serve(socket, screen, computer, stop).await;
    }))
}

async fn serve(
    mut socket: WebSocket,
    screen: impl AsyncRead + AsyncWrite + Send + Unpin,
    _computer: Computer,
    stop: Stop,
) -> Result<(), axum::Error> {
    let (mut from, mut to) = tokio::io::split(screen);
    let mut alive = tokio::time::interval(Duration::from_secs(limits::SSE_KEEPALIVE_SECONDS));
    let mut buffer = bytes::BytesMut::with_capacity(FRAME_BYTES);
    let code = loop {
        buffer.reserve(FRAME_BYTES);
        tokio::select! {
            read = from.read_buf(&mut buffer) => match read {
                Ok(0) => break close_code::AWAY,
                Ok(_) => socket.send(Message::Binary(buffer.split().freeze())).await?,
                Err(_) => break close_code::ERROR,
            },
            message = socket.recv() => {
                let bytes = match message {
                    None | Some(Ok(Message::Close(_))) => return Ok(()),
                    Some(Err(error)) => return Err(error),
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Text(_))) => break close_code::UNSUPPORTED,
                    Some(Ok(_)) => continue,
                };
                if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                    break close_code::AWAY;
                }
            },
            _ = alive.tick() => socket.send(Message::Ping(bytes::Bytes::new())).await?,
            () = stop.draining() => break close_code::RESTART,
        }
    };
    socket.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await
}

/// Get a picture of the screen
///
/// A PNG of the desktop as it is, or once it is quiet (`settle`). The desktop starts with its first use; a closed session is
/// restored first, which takes the verb `exec`.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/screenshot", tag = "desktop", params(ScreenshotQuery),
    responses((status = 200, description = "The picture.", body = String, content_type = "image/png")))]
pub(crate) async fn screenshot(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<ScreenshotQuery>,
) -> Result<Response, Problem> {
    let wanted = wanted(&query)?;
    let mut computer = look(&app, &caller, &at, Verb::Get, "screenshot").await?;
    let image = computer.image();
    let take = |host: HostClient| async move { host.screenshot(&wanted).await };
    let png = computer.ask(take).await.map_err(|e: Error| named(e, &image))?;
    Ok(([(header::CONTENT_TYPE, PNG), (header::CACHE_CONTROL, "no-store")], png).into_response())
}

fn wanted(query: &ScreenshotQuery) -> Result<Screenshot, Error> {
    let refuse = |field: &str, detail: String| Error::new(Code::InvalidField, detail).field(field);
    bounded("region", query.region.as_deref(), 32)?;
    let region: Option<Region> =
        query.region.as_deref().map(str::parse).transpose().map_err(|e| refuse("region", e))?;
    if query.scale.is_some_and(|s| !(SCALE_MIN..=SCALE_MAX).contains(&s)) {
        return Err(refuse("scale", format!("scale is {SCALE_MIN} to {SCALE_MAX}")));
    }
    if query.settle.is_some_and(|ms| ms > SETTLE_MAX_MS / 2) {
        return Err(refuse("settle", format!("settle is up to {} ms", SETTLE_MAX_MS / 2)));
    }
    Ok(Screenshot {
        region,
        size: None,
        scale: query.scale,
        settle_ms: query.settle,
        settle_limit_ms: query.settle.map(|ms| (2 * ms).max(wharf_wire::host::desktop::SETTLE_LIMIT_MS)),
        no_cursor: query.cursor == Some(false),
    })
}
