//! Processes left running in a session.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use wharf_chassis::host_client::{Events, HostError};
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, Time};
use wharf_wire::api;
use wharf_wire::host::exec as host;
use wharf_wire::host::{B64, exec::SignalName};

use super::computer::{Approach, Computer, Wants};
use super::exec::{event, record, stream_of};
use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{
    At, Auth, Flag, Halt, Json, Keyed, ProcessPath, Query, SessionPath, Upgrade, last_event_id,
    wants_event_stream,
};
use crate::problem::Problem;
use crate::stream::{self as streams, Record, Records};

pub(super) fn show(p: host::ProcessInfo) -> api::Process {
    api::Process {
        id: p.id,
        pid: p.pid,
        argv: p.argv,
        cwd: p.cwd,
        user: p.user,
        state: if p.running { api::ProcessState::Running } else { api::ProcessState::Exited },
        exit_code: p.exit.exit_code,
        signal: p.exit.signal,
        timed_out: p.timed_out,
        stdin_open: p.stdin_open,
        stdout_bytes: p.stdout_bytes,
        stderr_bytes: p.stderr_bytes,
        started_at: Time::from_millis(i64::try_from(p.started_at_ms).unwrap_or(i64::MAX)),
        duration_ms: p.duration_ms,
    }
}

/// List processes
///
/// Those started with `background`, running or ended, since the session's computer came up. All on one page.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/processes", tag = "processes",
    responses((status = 200, body = api::Page<api::Process>)))]
pub(crate) async fn list_processes(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
) -> Result<Json<api::Page<api::Process>>, Problem> {
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit_processes(&at.session, Verb::List).await?;
    if !permit.row().ready() {
        return Ok(Json(api::Page { items: Vec::new(), next_cursor: None }));
    }
    let mut computer = Approach::begin(&app, &mut scope, permit, Wants::AsIs).await?.arrive().await?;
    drop(scope);
    let found = computer.ask(|host| async move { host.processes().await }).await?;
    Ok(Json(api::Page { items: found.into_iter().map(show).collect(), next_cursor: None }))
}

/// Opens the computer of the session for a look at one of its processes.
async fn look(app: &App, caller: &wharf_store::Caller, at: &ProcessPath) -> Result<Computer, Error> {
    let mut scope = app.store.scope(caller, &at.at.space).await?;
    let permit = scope.sessions().permit_processes(&at.at.session, Verb::Get).await?;
    if !permit.row().ready() {
        return Err(Error::not_found("process", at.process));
    }
    let approach = Approach::begin(app, &mut scope, permit, Wants::AsIs).await?;
    drop(scope);
    approach.arrive().await
}

/// Get a process
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/processes/{process}", tag = "processes",
    responses((status = 200, body = api::Process)))]
pub(crate) async fn get_process(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ProcessPath>,
) -> Result<Json<api::Process>, Problem> {
    let mut computer = look(&app, &caller, &at).await?;
    let found = computer.ask(|host| async move { host.process(at.process).await }).await?;
    Ok(Json(show(found)))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct OutputQuery {
    /// Which stream; `stdout` when absent. Not with `follow`, which has both.
    #[param(value_type = Option<String>, pattern = "^(stdout|stderr)$")]
    stream: Option<api::OutputStream>,
    /// The first byte wanted of the stream; with `follow`, of stdout.
    #[param(maximum = 9_007_199_254_740_991_u64)]
    offset: Option<u64>,
    /// With `follow`: the first byte wanted of stderr.
    #[param(maximum = 9_007_199_254_740_991_u64)]
    stderr_offset: Option<u64>,
    /// Sends the output as it comes, until the process ends. The same with `Accept: text/event-stream`.
    #[param(value_type = Option<bool>)]
    follow: Flag,
}

/// Read a process's output
///
/// A piece of it from `offset` on, or all that comes with `follow`. The newest output is kept; what was dropped shows
/// as a larger offset, or as a `gap`.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/processes/{process}/output", tag = "processes",
    params(OutputQuery),
    responses((status = 200, description = "A piece of output, or all of it as it comes.", content(
        (api::ProcessOutput = "application/json"), (api::ExecEvent = "text/event-stream")))))]
pub(crate) async fn process_output(
    State(app): State<App>,
    context: RequestContext,
    Auth { caller, .. }: Auth,
    At(at): At<ProcessPath>,
    Query(query): Query<OutputQuery>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let follow = query.follow.0 || upgrade.0.is_some() || wants_event_stream(&headers);
    if !follow {
        if query.stderr_offset.is_some() {
            let detail = "stderr_offset goes with follow; without it use stream=stderr and offset";
            return Err(Error::new(Code::InvalidField, detail).field("stderr_offset").into());
        }
        let stream = match query.stream {
            None | Some(api::OutputStream::Stdout) => host::Stream::Stdout,
            Some(api::OutputStream::Stderr) => host::Stream::Stderr,
            Some(api::OutputStream::Output) => {
                return Err(Error::new(Code::InvalidField, "stream is stdout or stderr")
                    .field("stream")
                    .into());
            }
        };
        let offset = query.offset.unwrap_or(0);
        let mut computer = look(&app, &caller, &at).await?;
        let piece =
            computer.ask(|host| async move { host.process_output(at.process, stream, offset).await }).await?;
        return Ok(Json(shown(piece)).into_response());
    }
    if query.stream.is_some() {
        return Err(Error::new(Code::InvalidField, "with follow both streams are sent")
            .field("stream")
            .into());
    }
    let resumed = match (query.offset, query.stderr_offset, last_event_id(&headers)) {
        (None, None, Some(id)) => places(id)?,
        (stdout, stderr, _) => [stdout.unwrap_or(0), stderr.unwrap_or(0)],
    };
    let mut computer = look(&app, &caller, &at).await?;
    let events = computer
        .ask(|host| async move { host.follow_process(at.process, resumed[0], resumed[1]).await })
        .await?;
    Ok(streams::answer(&app, context, upgrade, followed(computer, events, resumed)))
}

fn shown(o: host::Output) -> api::ProcessOutput {
    let (data, encoding) = api::Encoding::encode(&o.piece.into_bytes());
    api::ProcessOutput {
        stream: stream_of(o.stream),
        offset: o.offset,
        next_offset: o.next,
        data,
        encoding,
        end: o.end,
    }
}

/// `<stdout>-<stderr>`: how far a reader has come in both.
fn places(id: &str) -> Result<[u64; 2], Error> {
    id.split_once('-').and_then(|(out, err)| Some([out.parse().ok()?, err.parse().ok()?])).ok_or_else(|| {
        Error::new(Code::InvalidField, "that is not an id of this stream").field("Last-Event-ID")
    })
}

struct Followed {
    _computer: Computer,
    events: Events<host::ExecEvent>,
    places: [u64; 2],
    ended: bool,
}

fn followed(computer: Computer, events: Events<host::ExecEvent>, places: [u64; 2]) -> Records {
    let state = Followed { _computer: computer, events, places, ended: false };
    stream::unfold(state, |mut state| async move {
        if state.ended {
            return None;
        }
        let next = state.next().await;
        state.ended |= next.is_err();
        Some((next, state))
    })
    .boxed()
}

impl Followed {
    async fn next(&mut self) -> Result<Record, Error> {
        let found = match self.events.next().await {
            Some(found) => event(found?),
            None => return Err(HostError::Broken("before the process had ended".to_owned()).into()),
        };
        let (stream, to) = match &found {
            api::ExecEvent::Output { stream, offset, data, encoding } => {
                (Some(*stream), offset + encoding.decode(data).map_or(0, |b| b.len() as u64))
            }
            api::ExecEvent::Gap { stream, to, .. } => (Some(*stream), *to),
            api::ExecEvent::Exit { .. } => {
                self.ended = true;
                (None, 0)
            }
            _ => (None, 0),
        };
        if let Some(stream) = stream {
            self.places[usize::from(stream == api::OutputStream::Stderr)] = to;
        }
        let mut record = record(&found)?;
        record.id = Some(format!("{}-{}", self.places[0], self.places[1]));
        Ok(record)
    }
}

/// Opens the computer for an act on a process, with the audit entry that says so.
async fn act(
    app: &App,
    caller: &wharf_store::Caller,
    at: &ProcessPath,
    claim: crate::extract::Claim,
    detail: serde_json::Value,
) -> Result<Computer, Error> {
    let mut scope = app.store.scope(caller, &at.at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.sessions().permit_processes(&at.at.session, Verb::Update).await?;
    if !permit.row().ready() {
        return Err(Error::not_found("process", at.process));
    }
    let (id, name) = (permit.row().id.uuid(), permit.row().name.to_string());
    scope.audit(Verb::Update, Resource::Processes, Some(id), Some(&name), detail);
    let approach = Approach::begin(app, &mut scope, permit, Wants::AsIs).await?;
    scope.commit_reply(204, &serde_json::Value::Null).await?;
    approach.arrive().await
}

/// Send a signal to a process's group
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/processes/{process}/signal", tag = "processes",
    request_body = api::SignalRequest, responses((status = 204)))]
pub(crate) async fn signal_process(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ProcessPath>,
    Keyed { key, body }: Keyed<api::SignalRequest>,
) -> Result<StatusCode, Halt> {
    let claim = key.claim(&app, &caller).await?;
    let number = body.signal.number();
    let detail = json!({"process": at.process, "signal": number});
    let mut computer = act(&app, &caller, &at, claim, detail).await?;
    let send = move |host: wharf_chassis::host_client::HostClient| async move {
        let signal = host::SignalRequest { signal: SignalName::Number(number), only_leader: false };
        host.signal_process(at.process, &signal).await
    };
    computer.ask(send).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Write to a process's stdin
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/processes/{process}/stdin", tag = "processes",
    request_body = api::StdinRequest, responses((status = 204)))]
pub(crate) async fn write_stdin(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ProcessPath>,
    Keyed { key, body }: Keyed<api::StdinRequest>,
) -> Result<StatusCode, Halt> {
    let bytes = body.encoding.decode(&body.data).map_err(|_| {
        Error::new(Code::InvalidField, "data is not standard base64 with padding").field("data")
    })?;
    let claim = key.claim(&app, &caller).await?;
    let detail = json!({"process": at.process, "bytes": bytes.len(), "close": body.close});
    let mut computer = act(&app, &caller, &at, claim, detail).await?;
    let write = |host: wharf_chassis::host_client::HostClient| {
        let input = host::StdinRequest { text: None, b64: Some(B64(bytes.clone())), close: body.close };
        async move { host.write_process(at.process, &input).await }
    };
    computer.ask(write).await?;
    Ok(StatusCode::NO_CONTENT)
}
