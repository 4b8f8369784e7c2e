//! Runs a command in a session.
//!
//! The audit entry is committed while the command runs and joined before the answer: it costs no time, and nothing is
//! answered that is not recorded. A caller who goes away kills a foreground command.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use wharf_chassis::host_client::{Events, HostError};
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, limits};
use wharf_store::Scope;
use wharf_store::sessions::SessionRow;
use wharf_wire::host::exec as host;
use wharf_wire::{api, host::B64, host::Env};

use super::computer::{Approach, Computer, Wants};
use super::processes;
use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{At, Auth, Claim, Halt, Json, Keyed, SessionPath, Upgrade, wants_event_stream};
use crate::stream::{self as streams, Record, Records};

/// Run a command
///
/// Answers when it ends, or as a stream with `Accept: text/event-stream`, or at once with `background: true` and the
/// process. A closed session is restored first. A caller who goes away ends a command in the foreground.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/exec", tag = "processes",
    request_body = api::ExecRequest,
    responses(
        (status = 200, description = "What it answered, or its output as it comes.", content(
            (api::ExecResult = "application/json"), (api::ExecEvent = "text/event-stream"))),
        (status = 201, description = "The process that runs in the background.", body = api::Process)))]
pub(crate) async fn exec(
    State(app): State<App>,
    context: RequestContext,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    headers: HeaderMap,
    Keyed { key, body }: Keyed<api::ExecRequest>,
) -> Result<Response, Halt> {
    let background = body.background;
    let request = host_request(body)?;
    let streamed = !background && wants_event_stream(&headers);
    let claim = match key.claim(&app, &caller).await {
        Err(Halt::Replay { body, .. }) if streamed => {
            return Ok(streams::answer(&app, context, Upgrade(None), told(&body)?));
        }
        claim => claim?,
    };
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Exec).await?;
    note(&mut scope, permit.row(), &request, background);
    let approach = Approach::begin(&app, &mut scope, permit, Wants::Running).await?;

    if background {
        let (mut computer, ()) = committed(scope, approach).await?;
        let info = computer
            .ask(|host| {
                let request = request.clone();
                async move { host.start_process(&request).await }
            })
            .await?;
        let reply = processes::show(info);
        keep(&app, &caller, &at, claim, 201, &reply).await?;
        return Ok((StatusCode::CREATED, Json(reply)).into_response());
    }
    if streamed {
        let (mut computer, ()) = committed(scope, approach).await?;
        let events = computer
            .ask(|host| {
                let request = request.clone();
                async move { host.exec_stream(&request).await }
            })
            .await?;
        let ended = Ended { app: app.clone(), caller, at, claim };
        return Ok(streams::answer(&app, context, Upgrade(None), records(computer, events, ended)));
    }
    let result = if approach.ready() {
        let mut computer = approach.arrive().await?;
        let run = computer.ask(|host| {
            let request = request.clone();
            async move { host.exec(&request).await }
        });
        let (result, ()) = tokio::try_join!(run, scope.commit())?;
        result
    } else {
        let (mut computer, ()) = committed(scope, approach).await?;
        computer
            .ask(|host| {
                let request = request.clone();
                async move { host.exec(&request).await }
            })
            .await?
    };
    let reply = show(result);
    keep(&app, &caller, &at, claim, 200, &reply).await?;
    Ok(Json(reply).into_response())
}

/// The wish is recorded before anyone waits for it.
async fn committed(scope: Scope, approach: Approach) -> Result<(Computer, ()), Error> {
    if approach.ready() {
        return tokio::try_join!(approach.arrive(), scope.commit());
    }
    scope.commit().await?;
    Ok((approach.arrive().await?, ()))
}

/// Keeps the answer for a repetition of the request, where it came with a key.
async fn keep<T: serde::Serialize>(
    app: &App,
    caller: &wharf_store::Caller,
    at: &SessionPath,
    claim: Claim,
    status: u16,
    reply: &T,
) -> Result<(), Error> {
    if claim.0.is_none() {
        return Ok(());
    }
    let mut scope = app.store.scope(caller, &at.space).await?;
    claim.attach(&mut scope);
    scope.commit_reply(status, reply).await
}

/// Arguments may hold secrets: the log has the program alone.
fn note(scope: &mut Scope, row: &SessionRow, request: &host::ExecRequest, background: bool) {
    let program = request.argv.as_ref().and_then(|argv| argv.first());
    let detail = json!({"program": program, "shell": request.command.is_some(), "user": request.user, "background": background});
    scope.audit(Verb::Exec, Resource::Sessions, Some(row.id.uuid()), Some(row.name.as_str()), detail);
}

fn host_request(body: api::ExecRequest) -> Result<host::ExecRequest, Error> {
    let refuse = |field: &str, detail: &str| Err(Error::new(Code::InvalidField, detail).field(field));
    match (&body.argv, &body.command) {
        (Some(argv), None) if argv.is_empty() || argv[0].is_empty() => {
            return refuse("argv", "argv begins with the program");
        }
        (None, Some(command)) if command.trim().is_empty() => {
            return refuse("command", "there is no command in it");
        }
        (Some(_), None) | (None, Some(_)) => {}
        _ => return refuse("argv", "give either argv or command"),
    }
    if body.timeout_seconds.is_some_and(|s| !(1..=limits::EXEC_TIMEOUT_MAX_SECONDS).contains(&s)) {
        return refuse("timeout_seconds", "timeout_seconds is 1 to 86400 (EXEC_TIMEOUT_MAX_SECONDS)");
    }
    if body.stdin_open && !body.background {
        return refuse("stdin_open", "only a background process can have its stdin left open");
    }
    let (stdin, stdin_b64) = match (body.stdin, body.stdin_encoding) {
        (None, _) => (None, None),
        (Some(text), api::Encoding::Utf8) => (Some(text), None),
        (Some(text), api::Encoding::Base64) => match api::Encoding::Base64.decode(&text) {
            Ok(bytes) => (None, Some(B64(bytes))),
            Err(_) => return refuse("stdin", "stdin is not standard base64 with padding"),
        },
    };
    let env = Env(body.env);
    if let Err(detail) = env.check() {
        return refuse("env", &detail);
    }
    let foreground = (!body.background).then_some(limits::EXEC_TIMEOUT_SECONDS);
    Ok(host::ExecRequest {
        argv: body.argv,
        command: body.command,
        cwd: body.cwd,
        env,
        user: body.user,
        stdin,
        stdin_b64,
        stdin_open: body.stdin_open,
        timeout_seconds: body.timeout_seconds.or(foreground),
        max_output_bytes: Some(limits::EXEC_OUTPUT_BYTES as u64),
    })
}

fn show(r: host::ExecResult) -> api::ExecResult {
    let (stdout, stdout_encoding) = api::Encoding::encode(r.stdout());
    let (stderr, stderr_encoding) = api::Encoding::encode(r.stderr());
    api::ExecResult {
        exit_code: r.exit.exit_code,
        signal: r.exit.signal,
        timed_out: r.timed_out,
        stdout,
        stdout_encoding,
        stdout_truncated: r.stdout_truncated,
        stderr,
        stderr_encoding,
        stderr_truncated: r.stderr_truncated,
        duration_ms: r.duration_ms,
    }
}

pub(super) fn stream_of(stream: host::Stream) -> api::OutputStream {
    match stream {
        host::Stream::Stdout => api::OutputStream::Stdout,
        host::Stream::Stderr => api::OutputStream::Stderr,
        host::Stream::Output => api::OutputStream::Output,
    }
}

pub(super) fn event(event: host::ExecEvent) -> api::ExecEvent {
    match event {
        host::ExecEvent::Started { pid } => api::ExecEvent::Started { pid },
        host::ExecEvent::Output { stream, offset, piece } => {
            let (data, encoding) = api::Encoding::encode(&piece.into_bytes());
            api::ExecEvent::Output { stream: stream_of(stream), offset, data, encoding }
        }
        host::ExecEvent::Lost { stream, offset, bytes } => {
            api::ExecEvent::Gap { stream: stream_of(stream), from: offset, to: offset + bytes }
        }
        host::ExecEvent::Exit { exit, timed_out, duration_ms, .. } => {
            api::ExecEvent::Exit { exit_code: exit.exit_code, signal: exit.signal, timed_out, duration_ms }
        }
    }
}

pub(super) fn record(event: &api::ExecEvent) -> Result<Record, Error> {
    let name = match event {
        api::ExecEvent::Started { .. } => "started",
        api::ExecEvent::Output { .. } => "output",
        api::ExecEvent::Gap { .. } => "gap",
        api::ExecEvent::Exit { .. } => "exit",
        api::ExecEvent::Error { .. } => "error",
    };
    Record::of(None, name, event)
}

/// What is to be done when a streamed command has ended.
struct Ended {
    app: App,
    caller: wharf_store::Caller,
    at: SessionPath,
    claim: Claim,
}

struct Running {
    _computer: Computer,
    events: Events<host::ExecEvent>,
    /// Bytes told so far of stdout and stderr, for whoever repeats the request.
    told: [u64; 2],
    ended: Option<Ended>,
}

fn records(computer: Computer, events: Events<host::ExecEvent>, ended: Ended) -> Records {
    let running = Running { _computer: computer, events, told: [0; 2], ended: Some(ended) };
    stream::unfold(running, |mut running| async move {
        let next = running.next().await?;
        Some((next, running))
    })
    .boxed()
}

impl Running {
    async fn next(&mut self) -> Option<Result<Record, Error>> {
        self.ended.as_ref()?;
        let event = match self.events.next().await {
            Some(Ok(event)) => event,
            Some(Err(e)) => return Some(self.cut(e)),
            None => return Some(self.cut(HostError::Broken("before the command had ended".to_owned()))),
        };
        let event = self::event(event);
        if let api::ExecEvent::Output { stream, offset, data, encoding } = &event {
            let bytes = encoding.decode(data).map_or(0, |b| b.len() as u64);
            self.told[usize::from(*stream == api::OutputStream::Stderr)] = offset + bytes;
        }
        if matches!(event, api::ExecEvent::Exit { .. }) {
            let Ended { app, caller, at, claim } = self.ended.take()?;
            if let Err(e) = keep(&app, &caller, &at, claim, 200, &self.again(&event)).await {
                return Some(Err(e));
            }
        }
        Some(record(&event))
    }

    fn cut(&mut self, error: HostError) -> Result<Record, Error> {
        self.ended = None;
        Err(error.into())
    }

    /// What a repetition is told: that output is gone, and how the command ended.
    fn again(&self, exit: &api::ExecEvent) -> Vec<api::ExecEvent> {
        let gaps = [api::OutputStream::Stdout, api::OutputStream::Stderr]
            .into_iter()
            .zip(self.told)
            .filter(|(_, to)| *to > 0)
            .map(|(stream, to)| api::ExecEvent::Gap { stream, from: 0, to });
        gaps.chain([exit.clone()]).collect()
    }
}

/// The kept events of a streamed command, for a repetition of its request.
fn told(body: &serde_json::Value) -> Result<Records, Error> {
    let events: Vec<api::ExecEvent> = serde_json::from_value(body.clone()).map_err(|_| {
        Error::new(
            Code::IdempotencyMismatch,
            "the first request with this Idempotency-Key did not ask for a stream",
        )
    })?;
    Ok(stream::iter(events.into_iter().map(|e| record(&e))).boxed())
}
