//! One request to a program in a session and its answer.

use std::error::Error as _;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, Uri, Version};
use http_body_util::{LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use wharf_chassis::host_client::{HostClient, HostError};
use wharf_domain::{Code, Error, Name, limits};

use super::body::Answer;
use super::headers::{self, Came};
use super::patience::{Side, watched};
use super::relay::relay;
use crate::app::App;
use crate::metrics::Carrier;
use crate::routes::Computer;

const ANSWER: Duration = Duration::from_secs(limits::PORT_ANSWER_SECONDS);

const IDLE: Duration = Duration::from_secs(limits::PORT_IDLE_SECONDS);

/// How long a server that does not listen yet is waited for: at any time, and after a restore.
const LISTEN: Duration = Duration::from_secs(limits::PORT_LISTEN_SECONDS);
const WAKE: Duration = Duration::from_secs(limits::PORT_WAKE_SECONDS);

/// Somebody at a port, let in.
pub(crate) struct Visit {
    pub computer: Computer,
    pub port: u16,
    /// Their place among those who use the session's ports.
    pub place: OwnedSemaphorePermit,
}

/// How the answer stands towards the caller.
pub(crate) enum Front<'f> {
    /// At the API's own address, below this prefix.
    Path(&'f str),
    /// At the port's host name; cookies of these names are Wharf's.
    Host(&'f [&'f str]),
}

/// What is held until an exchange is over.
type Held = (std::sync::Arc<wharf_store::sessions::Use>, OwnedSemaphorePermit);

/// Between two looks whether something listens. The kernel tells nobody outside of the session, so it is looked for.
const LOOK: Duration = Duration::from_millis(10);
const LOOK_MOST: Duration = Duration::from_millis(250);

/// A connection to the port. A server that is being started is waited for, longest where its session was just woken: its
/// programs ended with the computer they ran on. That nothing listens there is its own answer, and not the host's absence.
pub(crate) async fn connect(
    computer: &mut Computer,
    port: u16,
) -> Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + use<>, Error> {
    let begun = Instant::now();
    let woken = computer.restored_for().and_then(|up| WAKE.checked_sub(up));
    let patience = woken.unwrap_or_default().max(LISTEN);
    let mut pause = LOOK;
    loop {
        let opened = computer
            .ask(|host: HostClient| async move {
                match host.tunnel(port).await {
                    Err(HostError::Refused(fault)) if fault.code == Code::Unavailable => {
                        Ok(Err(fault.detail))
                    }
                    other => other.map(Ok),
                }
            })
            .await?;
        let why = match opened {
            Ok(stream) => return Ok(stream),
            Err(why) => why,
        };
        let Some(left) = patience.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
            return Err(silent(computer.name(), port, woken.is_some()).because(why));
        };
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(LOOK_MOST);
    }
}

fn silent(session: &Name, port: u16, woken: bool) -> Error {
    let detail = if woken {
        let seconds = limits::PORT_WAKE_SECONDS;
        format!(
            "nothing listens on port {port} of session {session}, which has just come back: its programs ended when it was closed, and \
             nothing starts them again by itself; start the server (wharf session exec {session} --background -- …) or ask the \
             session's agent to. After a restore a request waits {seconds} s for it (limit PORT_WAKE_SECONDS)"
        )
    } else {
        let seconds = limits::PORT_LISTEN_SECONDS;
        format!(
            "nothing listens on port {port} of session {session}; start a server there, on 127.0.0.1 or on every address. A request \
             waits {seconds} s for it (limit PORT_LISTEN_SECONDS)"
        )
    };
    Error::new(Code::BadGateway, detail)
}

fn unanswered(computer: &str, port: u16, error: hyper::Error) -> Error {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.is::<LengthLimitError>() {
            return too_large();
        }
        cause = inner.source();
    }
    let detail =
        format!("what listens on port {port} of session {computer} did not answer as an HTTP server does");
    Error::new(Code::BadGateway, detail).because(error)
}

fn overdue(late: Side, computer: &str, port: u16) -> Error {
    let detail = match late {
        Side::Program => format!(
            "what listens on port {port} of session {computer} did not begin to answer within {} s (limit PORT_ANSWER_SECONDS)",
            limits::PORT_ANSWER_SECONDS
        ),
        Side::Caller => format!(
            "nothing more of the body came for {} s (limit PORT_IDLE_SECONDS); send it without such a pause",
            limits::PORT_IDLE_SECONDS
        ),
    };
    Error::new(Code::Timeout, detail)
}

fn too_large() -> Error {
    let most = limits::PORT_BODY_BYTES;
    Error::new(Code::TooLarge, format!("the body is over {most} bytes (limit PORT_BODY_BYTES)"))
}

/// Passes a request on and its answer back. Credentials must have been taken out of it.
pub(crate) async fn exchange(
    app: &App,
    visit: Visit,
    came: &Came<'_>,
    front: Front<'_>,
    target: PathAndQuery,
    mut request: Request,
) -> Result<Response, Error> {
    let Visit { mut computer, port, place } = visit;
    let length =
        request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    if length.is_some_and(|length: u64| length > limits::PORT_BODY_BYTES) {
        return Err(too_large());
    }
    let upgrade = headers::upgrade_of(request.headers(), request.version());
    let waiting = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    headers::inward(&mut head.headers, came);
    if let Some(protocol) = &upgrade {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol.clone());
    }
    head.uri = Uri::from(target);
    head.version = Version::HTTP_11;
    // What the caller's connection carried along is none of the program's business.
    head.extensions = http::Extensions::new();
    let body = Limited::new(body, usize::try_from(limits::PORT_BODY_BYTES).unwrap_or(usize::MAX));
    let (body, patience) = watched(body, ANSWER, IDLE);

    let name = computer.name().to_string();
    let answered = async {
        let tunnel = connect(&mut computer, port).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(limits::PORT_HEAD_BYTES)
            .handshake(TokioIo::new(tunnel))
            .await
            .map_err(|e| unanswered(&name, port, e))?;
        // Ends with the answer's body, or with the upgraded connection.
        tokio::spawn(connection.with_upgrades());
        sender
            .send_request(http::Request::from_parts(head, body))
            .await
            .map_err(|e| unanswered(&name, port, e))
    };
    let mut response = tokio::select! {
        answer = answered => answer?,
        late = patience.over() => return Err(overdue(late, &name, port)),
    };
    let held: Held = (computer.in_use(), place);
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(UPGRADE).filter(|_| switched).cloned();
    let theirs = switched.then(|| hyper::upgrade::on(&mut response));
    let (mut head, body) = response.into_parts();
    head.extensions = http::Extensions::new();
    head.version = Version::HTTP_11;
    match front {
        Front::Path(prefix) => headers::outward_by_path(&mut head.headers, prefix, port),
        Front::Host(own) => headers::outward_by_host(&mut head.headers, own),
    }
    let Some(theirs) = theirs else {
        return Ok(Response::from_parts(head, Answer::of(body, held)));
    };
    let Some(ours) = waiting else {
        let detail =
            format!("what listens on port {port} of session {name} switched protocols although nobody asked");
        return Err(Error::new(Code::BadGateway, detail));
    };
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.extend(protocol.map(|p| (UPGRADE, p)));
    let (guard, stop) = (app.metrics.stream_begins(Carrier::WebSocket), app.stop.clone());
    tokio::spawn(async move {
        let _held = (held, guard);
        // A caller who went away before the switch needs nothing carried.
        if let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) {
            relay(TokioIo::new(ours), TokioIo::new(theirs), IDLE, stop).await;
        }
    });
    Ok(Response::from_parts(head, Body::empty()))
}
