//! Calls the model until it answered: what passes is waited out, what does not is told apart.
//!
//! Bounded: so many attempts, pauses that double up to a minute, a provider's own word on when to come back up to five.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::{Answer, Call, Delta, Failure, reader};
use crate::http::Gateway;
use crate::sse;
use wharf_wire::api::ModelProtocol;

/// Attempts at one answer.
pub const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Longer than this nobody waits for a provider that said when to come back.
const AFTER_MAX: Duration = Duration::from_mins(5);
/// Silence within an answer after which nothing is held back.
const QUIET: Duration = Duration::from_millis(50);
/// Bytes of a refusal that are read.
const REFUSAL_BYTES: usize = 256 * 1024;

/// Hears of an answer while it comes.
pub trait Listener {
    fn said(&mut self, deltas: &[Delta]);
    /// Whether it holds something back to join it with what comes next.
    fn is_waiting(&self) -> bool {
        false
    }
    /// Nothing comes for a moment.
    fn quiet(&mut self) {}
    /// What was said of this answer is void: it is asked for again.
    fn again(&mut self, attempt: u32, why: &str, pause: Duration);
}

/// One answer.
pub async fn ask(
    gateway: &Gateway,
    protocol: ModelProtocol,
    call: &Call,
    listener: &mut impl Listener,
) -> Result<Answer, Failure> {
    let body = serde_json::to_vec(&call.body).map_err(|e| Failure::Final(e.to_string()))?;
    let mut attempt = 1;
    loop {
        match once(gateway, protocol, call, body.clone(), listener).await {
            Err(Failure::Passing { why, after }) => {
                if attempt >= ATTEMPTS {
                    return Err(Failure::Final(format!("{why} (tried {attempt} times)")));
                }
                if after.is_some_and(|a| a > AFTER_MAX) {
                    let seconds = after.unwrap_or_default().as_secs();
                    return Err(Failure::Final(format!(
                        "{why}; the provider asks to come back in {seconds} s"
                    )));
                }
                let pause = after.unwrap_or_else(|| back_off(attempt));
                listener.again(attempt, &why, pause);
                tokio::time::sleep(pause).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// Half of it is drawn by lot: many agents are turned away at the same moment.
fn back_off(attempt: u32) -> Duration {
    let full = (PAUSE * 2_u32.pow((attempt - 1).min(10))).min(PAUSE_MAX);
    let mut byte = [0_u8; 1];
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    full / 2 + full / 2 * u32::from(byte[0]) / 255
}

async fn once(
    gateway: &Gateway,
    protocol: ModelProtocol,
    call: &Call,
    body: Vec<u8>,
    listener: &mut impl Listener,
) -> Result<Answer, Failure> {
    let passing = |why: String| Failure::Passing { why, after: None };
    let mut headers = call.headers.clone();
    headers.push(("accept", "text/event-stream".to_owned()));
    let mut answer = gateway.send(Method::POST, &call.path, &headers, body).await.map_err(passing)?;
    if answer.status != 200 {
        let after = retry_after(&answer);
        let never = answer.header("x-should-retry") == Some("false");
        let body = answer.bytes(REFUSAL_BYTES).await.unwrap_or_default();
        return Err(refused(answer.status, &body, after, never));
    }
    if answer.header("content-type").is_some_and(|t| t.starts_with("application/json")) {
        let body = answer.bytes(REFUSAL_BYTES).await.unwrap_or_default();
        return Err(Failure::Final(format!("the provider does not stream: {}", message(&body))));
    }
    let (mut parser, mut reader) = (sse::Parser::default(), reader(protocol));
    let (mut events, mut deltas) = (Vec::new(), Vec::new());
    loop {
        let next = {
            let mut chunk = std::pin::pin!(answer.chunk());
            match tokio::time::timeout(QUIET, &mut chunk).await {
                Ok(next) => next,
                Err(_) => {
                    if listener.is_waiting() {
                        listener.quiet();
                    }
                    chunk.await
                }
            }
        };
        let Some(bytes) = next.map_err(passing)? else { break };
        parser.push(&bytes, &mut events).map_err(|_| passing("an event is too large".into()))?;
        for event in events.drain(..) {
            reader.event(&event, &mut deltas)?;
        }
        if !deltas.is_empty() {
            listener.said(&deltas);
            deltas.clear();
        }
    }
    reader.finish()
}

/// `retry-after-ms`, or `retry-after` in seconds. A date is not read: it would need a clock that is right.
fn retry_after(answer: &crate::http::Answer) -> Option<Duration> {
    if let Some(millis) = answer.header("retry-after-ms").and_then(|v| v.trim().parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(millis / 1000.0).ok();
    }
    let seconds = answer.header("retry-after")?.trim().parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// What a body says went wrong, in a line.
fn message(body: &[u8]) -> String {
    let told = serde_json::from_slice::<Value>(body).ok().and_then(|v| {
        ["/error/message", "/message", "/detail", "/error"]
            .iter()
            .find_map(|p| v.pointer(p).and_then(Value::as_str).map(str::to_owned))
    });
    told.unwrap_or_else(|| String::from_utf8_lossy(body).trim().chars().take(500).collect())
}

fn refused(status: u16, body: &[u8], after: Option<Duration>, never: bool) -> Failure {
    let value = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let why = format!("HTTP {status}: {}", message(body));
    let code = value.pointer("/error/code").and_then(Value::as_str).unwrap_or_default();
    match status {
        _ if never => Failure::Final(why),
        429 if code == "insufficient_quota" => Failure::Final(why),
        408 | 409 | 425 | 429 | 500.. => Failure::Passing { why, after },
        413 => Failure::Full(why),
        _ => refusal(&why),
    }
}

/// An error within a stream, by its code or type.
pub fn told(why: &str, error: &Value) -> Failure {
    let kind =
        ["code", "type"].iter().find_map(|k| error.get(*k).and_then(Value::as_str)).unwrap_or_default();
    let status = error.get("code").and_then(Value::as_u64).unwrap_or_default();
    let passes = ["server_error", "rate_limit", "overloaded", "timeout", "vector_store_timeout"];
    let why = if kind.is_empty() { why.to_owned() } else { format!("{kind}: {why}") };
    if passes.iter().any(|p| kind.contains(p)) || status == 429 || (500..600).contains(&status) {
        return Failure::Passing { why, after: None };
    }
    refusal(&why)
}

/// A refusal that will be the same next time, unless something is changed: what, is told by its words.
pub fn refusal(why: &str) -> Failure {
    let lower = why.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| lower.contains(w));
    let why = why.to_owned();
    if has(&[
        "prompt is too long",
        "context_length_exceeded",
        "maximum context length",
        "context window",
        "exceed context limit",
        "request_too_large",
        "too many tokens",
    ]) {
        Failure::Full(why)
    } else if has(&["computer_20", "computer_toolset", "bash_20250124", "text_editor_20", "toolset_name"])
        || (has(&["anthropic-beta"]) && has(&["computer-use"]))
    {
        Failure::Tools(why)
    } else if has(&["thinking", "signature", "encrypted_content", "reasoning"]) {
        Failure::Thinking(why)
    } else {
        Failure::Final(why)
    }
}

#[cfg(test)]
mod tests;
