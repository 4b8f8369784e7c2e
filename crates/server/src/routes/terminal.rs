//! A terminal in a session, over WebSocket.
//!
//! Binary frames are keystrokes one way and output the other; text frames are JSON (`TerminalInput`, `TerminalOutput`).
//! Several may look at one terminal; it goes on when nobody does, and is found again by its id.

use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use wharf_chassis::Stop;
use wharf_chassis::host_client::{HostClient, TerminalStream};
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, limits};
use wharf_wire::api;
use wharf_wire::host::frame::Frame;
use wharf_wire::host::terminal::TerminalRequest;

use super::computer::{Approach, Computer, Wants};
use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{At, Auth, Query, SessionPath, Upgrade, bounded};
use crate::metrics::Carrier;
use crate::problem::Problem;

/// One frame of keystrokes; a paste larger than this comes in several.
const INCOMING_BYTES: usize = 256 * 1024;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct TerminalQuery {
    /// Comes back to this terminal instead of opening one.
    #[param(minimum = 1, maximum = 9_007_199_254_740_991_u64)]
    id: Option<u64>,
    /// With `id`: the first byte of output wanted; all that is kept when absent.
    #[param(maximum = 9_007_199_254_740_991_u64)]
    after: Option<u64>,
    /// Columns; 80 when absent.
    #[param(minimum = 1, maximum = 1000)]
    cols: Option<u16>,
    /// Rows; 24 when absent.
    #[param(minimum = 1, maximum = 1000)]
    rows: Option<u16>,
    /// `agent` (when absent) or `root`.
    #[param(max_length = 32)]
    user: Option<String>,
    /// A line for the shell instead of a login shell.
    #[param(max_length = 8192)]
    command: Option<String>,
    /// The directory to start in.
    #[param(max_length = 4095)]
    cwd: Option<String>,
}

/// Open a terminal (WebSocket)
///
/// Binary frames are keystrokes and output. Text frames are JSON: the viewer sends `{"type": "resize", "cols", "rows"}`,
/// the terminal `attached` (first), `resize`, `exit` (last). `id=` comes back to one that runs. A closed session is
/// restored first.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/terminal", tag = "processes", params(TerminalQuery),
    responses((status = 101, description = "A WebSocket.")))]
pub(crate) async fn terminal(
    State(app): State<App>,
    context: RequestContext,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<TerminalQuery>,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let size = |name: &str, value: Option<u16>, default: u16| match value.unwrap_or(default) {
        n @ 1..=1000 => Ok(n),
        _ => Err(Error::new(Code::InvalidField, format!("{name} is 1 to 1000")).field(name)),
    };
    let (cols, rows) = (size("cols", query.cols, 80)?, size("rows", query.rows, 24)?);
    bounded("command", query.command.as_deref(), 8192)?;
    bounded("cwd", query.cwd.as_deref(), 4095)?;
    bounded("user", query.user.as_deref(), 32)?;
    let new = query.id.is_none();
    if !new && (query.command.is_some() || query.user.is_some() || query.cwd.is_some()) {
        let detail = "command, user and cwd are for a new terminal; leave them out to come back to one";
        return Err(Error::new(Code::InvalidField, detail).field("id").into());
    }
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Exec).await?;
    let Some(upgrade) = upgrade.0 else {
        return Err(Error::new(
            Code::InvalidField,
            "a terminal is a WebSocket: send the request with `Upgrade: websocket`",
        )
        .field("Upgrade")
        .into());
    };
    let (id, name) = (permit.row().id.uuid(), permit.row().name.to_string());
    let detail = json!({"terminal": query.id, "shell": query.command.is_some(), "user": query.user});
    scope.audit(Verb::Exec, Resource::Sessions, Some(id), Some(&name), detail);
    let approach =
        Approach::begin(&app, &mut scope, permit, if new { Wants::Running } else { Wants::AsIs }).await?;
    scope.commit().await?;
    let mut computer = approach.arrive().await?;
    let wanted = TerminalRequest {
        cols,
        rows,
        argv: None,
        command: query.command,
        cwd: query.cwd,
        env: wharf_wire::host::Env::default(),
        user: query.user,
    };
    let resize = (!new && (query.cols.is_some() || query.rows.is_some())).then_some((cols, rows));
    let (asked, after) = (query.id, query.after.unwrap_or(0));
    let open = |host: HostClient| {
        let wanted = wanted.clone();
        async move {
            let id = match asked {
                Some(id) => id,
                None => host.create_terminal(&wanted).await?.id,
            };
            Ok((id, host.attach_terminal(id, after).await?))
        }
    };
    let (id, mut attached) = computer.ask(open).await?;
    if let Some((cols, rows)) = resize {
        attached.writer.resize(cols, rows).await.map_err(Error::from)?;
    }
    let guard = app.metrics.stream_begins(Carrier::WebSocket);
    let stop = app.stop.clone();
    Ok(upgrade.max_message_size(INCOMING_BYTES).on_upgrade(move |socket| async move {
        let _open = guard;
        // The viewer being gone is an ordinary end; the terminal goes on.
        let _ = serve(socket, id, attached, computer, context, stop).await;
    }))
}

fn text(output: &api::TerminalOutput) -> Message {
    Message::Text(serde_json::to_string(output).unwrap_or_default().into())
}

/// What the viewer sees of a frame; nothing of an offset, which the next bytes follow.
fn shown(frame: Frame) -> Option<Message> {
    match frame {
        Frame::Data(bytes) => Some(Message::Binary(bytes.into())),
        Frame::Resize { cols, rows } => Some(text(&api::TerminalOutput::Resize { cols, rows })),
        Frame::Exit(exit) => {
            Some(text(&api::TerminalOutput::Exit { exit_code: exit.exit_code, signal: exit.signal }))
        }
        Frame::Offset(_) => None,
    }
}

async fn serve(
    mut socket: WebSocket,
    id: u64,
    attached: TerminalStream,
    _computer: Computer,
    context: RequestContext,
    stop: Stop,
) -> Result<(), axum::Error> {
    let TerminalStream { mut reader, mut writer } = attached;
    socket.send(text(&api::TerminalOutput::Attached { id })).await?;
    // Reading a frame is not to be cut in half by a keystroke: the reader has a task of its own.
    let (tx, mut frames) = tokio::sync::mpsc::channel(16);
    let reading = tokio::spawn(async move {
        loop {
            let frame = reader.next().await;
            let last = !matches!(frame, Ok(Some(_)));
            if tx.send(frame).await.is_err() || last {
                return;
            }
        }
    });
    let _reading = Aborted(reading);
    let mut alive = tokio::time::interval(Duration::from_secs(limits::SSE_KEEPALIVE_SECONDS));
    let code = loop {
        tokio::select! {
            frame = frames.recv() => match frame {
                Some(Ok(Some(frame))) => {
                    let last = matches!(frame, Frame::Exit(_));
                    if let Some(message) = shown(frame) {
                        socket.send(message).await?;
                    }
                    if last {
                        break close_code::NORMAL;
                    }
                }
                Some(Ok(None)) | None => break close_code::AWAY,
                Some(Err(error)) => {
                    tell(&mut socket, error.into(), context).await?;
                    break close_code::ERROR;
                }
            },
            message = socket.recv() => {
                let written = match message {
                    None | Some(Ok(Message::Close(_))) => return Ok(()),
                    Some(Err(error)) => return Err(error),
                    Some(Ok(Message::Binary(bytes))) => writer.keys(bytes).await,
                    Some(Ok(Message::Text(line))) => match serde_json::from_str(line.as_str()) {
                        Ok(api::TerminalInput::Resize { cols: cols @ 1..=1000, rows: rows @ 1..=1000 }) => {
                            writer.resize(cols, rows).await
                        }
                        _ => {
                            let detail = "a text frame is {\"type\": \"resize\", \"cols\": 1 to 1000, \"rows\": 1 to 1000}";
                            tell(&mut socket, Error::new(Code::BadRequest, detail), context).await?;
                            Ok(())
                        }
                    },
                    Some(Ok(_)) => Ok(()),
                };
                if let Err(error) = written {
                    tell(&mut socket, error.into(), context).await?;
                    break close_code::ERROR;
                }
            },
            _ = alive.tick() => socket.send(Message::Ping(bytes::Bytes::new())).await?,
            () = stop.draining() => break close_code::RESTART,
        }
    };
    socket.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await
}

async fn tell(socket: &mut WebSocket, error: Error, context: RequestContext) -> Result<(), axum::Error> {
    let problem = Box::new(crate::problem::body(&error, &context.id.to_string()));
    socket.send(text(&api::TerminalOutput::Error { problem })).await
}

struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
