//! Guardrails on what goes to a model and on what it answers.
//!
//! Only what users and tools say is judged on its way in, not what the model itself said before. An answer is held back until all of
//! it is there, in spaces that have a rule for answers and in no others.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use wharf_domain::guard::{Action, ApprovalState, Phase};
use wharf_domain::{Code, Error, limits};
use wharf_guard::Judged;
use wharf_store::NewApproval;

use super::answer::Answer;
use super::call::{Call, Kind};
use super::fault::Fault;
use crate::asking::Asking;
use crate::body::{Body, full, stream as body_of};
use crate::gateway::Gateway;
use crate::guards::{Question, decided, refusal_of, short};
use crate::sessions::Session;

/// How long a request is held for somebody's yes before its client is told to come again.
const HELD: Duration = Duration::from_secs(240);
/// How long the head of a stream waits for its judgement, so that a refusal has its own status.
const SOON: Duration = Duration::from_secs(5);
/// Between two signs of life: clients give up after minutes of silence.
const AGAIN: Duration = Duration::from_secs(15);
/// Texts, and characters of each, that those are shown who decide.
const TEXTS: usize = 8;
const CHARS: usize = 1000;

fn refused(why: impl Into<String>) -> Fault {
    Fault { retry: Some(false), ..Fault::new(StatusCode::FORBIDDEN, "guardrail", why) }
}

/// Policies that cannot be read refuse like any rule.
fn fault(error: Error) -> Fault {
    if error.code == Code::Forbidden { refused(error.public) } else { error.into() }
}

/// What the rules say, and the texts as they were.
async fn judge(
    gateway: &Gateway,
    session: &Session,
    phase: Phase,
    texts: Vec<String>,
    bytes: usize,
    summary: &str,
) -> Result<(Judged, Vec<String>), Fault> {
    let asking = Asking::texts(phase, session, texts, Some(bytes as u64));
    let line = summary.to_owned();
    let judged = gateway.guards.judge_apart(session, asking, move |_, _| line).await.map_err(fault)?;
    Ok((judged.0, judged.1.into_texts()))
}

/// The request as it may go out.
pub(super) async fn input(gateway: &Gateway, session: &Session, call: Call) -> Result<Call, Fault> {
    let guards = &gateway.guards;
    if call.body.is_empty() || !guards.concern(session, Phase::Input).await? {
        return Ok(call);
    }
    let model = call.model.as_deref().unwrap_or("a model");
    let summary = format!("a request to {model}");
    let Ok(mut value) = serde_json::from_slice::<Value>(&call.body) else {
        // An upload, say: judged as the text it may be, and never changed.
        let text = String::from_utf8_lossy(&call.body).into_owned();
        let bytes = text.len();
        let (judged, texts) = judge(gateway, session, Phase::Input, vec![text], bytes, &summary).await?;
        if judged.texts.is_some() {
            return Err(refused(
                "the guardrails take something out of this request, and its body is no JSON",
            ));
        }
        settle(gateway, session, &judged, &texts, &summary).await?;
        return Ok(call);
    };
    let mut texts = Vec::new();
    said(call.kind, &mut value, &mut |text| texts.push(text.clone()));
    let bytes = texts.iter().map(String::len).sum();
    let (judged, texts) = judge(gateway, session, Phase::Input, texts, bytes, &summary).await?;
    settle(gateway, session, &judged, judged.texts.as_ref().unwrap_or(&texts), &summary).await?;
    let Some(new) = judged.texts else { return Ok(call) };
    let mut new = new.into_iter();
    said(call.kind, &mut value, &mut |text| {
        if let Some(new) = new.next() {
            *text = new;
        }
    });
    let body = serde_json::to_vec(&value).map_err(|e| Fault::bad(e.to_string()))?;
    Call::read(call.kind, Bytes::from(body))
}

/// Refuses, or waits for somebody's yes.
async fn settle(
    gateway: &Gateway,
    session: &Session,
    judged: &Judged,
    texts: &[String],
    summary: &str,
) -> Result<(), Fault> {
    let Some(ruling) = &judged.ruling else { return Ok(()) };
    let guards = &gateway.guards;
    if ruling.action != Action::Approve {
        guards.note(session, "deny", ruling, summary).await?;
        return Err(refused(ruling.words()));
    }
    let about: Vec<&str> = judged.about.iter().filter_map(|n| texts.get(*n)).map(String::as_str).collect();
    let who = format!(
        "input:{}:{}:{}",
        session.turn.map(|t| t.to_string()).unwrap_or_default(),
        ruling.policy,
        ruling.rule
    );
    // The last ones are what is new; the yes is for all that the rule is about, and for this model.
    let mut subject = json!({
        "texts": about.iter().skip(about.len().saturating_sub(TEXTS)).map(|t| short(t, CHARS)).collect::<Vec<_>>(),
    });
    if about.len() > TEXTS || about.iter().any(|t| t.chars().nth(CHARS).is_some()) {
        subject["truncated"] = json!(true);
        subject["count"] = json!(about.len());
    }
    let question = Question {
        key: NewApproval::key_of(&who, [summary].into_iter().chain(about.iter().copied())),
        phase: Phase::Input,
        tool: None,
        summary: summary.to_owned(),
        subject,
    };
    let approval = guards.ask(session, ruling, question).await?;
    let approval = decided(gateway, session.session, approval.id, Some(HELD)).await?;
    if approval.as_ref().is_some_and(|a| a.state == ApprovalState::Pending) {
        let fault = Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "awaiting_approval",
            "nobody has allowed this request yet",
        );
        return Err(Fault { retry_after: Some(1), retry: Some(true), ..fault });
    }
    refusal_of(approval.as_ref()).map_or(Ok(()), |why| Err(refused(why)))
}

/// What a request says that is not the model's own and not its instructions.
fn said(kind: Kind, body: &mut Value, see: &mut dyn FnMut(&mut String)) {
    match kind {
        Kind::Messages | Kind::Chat => {
            for message in body.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten() {
                if !own(message)
                    && let Some(content) = message.get_mut("content")
                {
                    parts(content, see);
                }
            }
        }
        Kind::Responses => match body.get_mut("input") {
            Some(Value::Array(items)) => {
                for item in items.iter_mut().filter(|i| !own(i)) {
                    for key in ["content", "output"] {
                        if let Some(content) = item.get_mut(key) {
                            parts(content, see);
                        }
                    }
                }
            }
            Some(input) => parts(input, see),
            None => {}
        },
        Kind::Completions => body.get_mut("prompt").into_iter().for_each(|p| parts(p, see)),
        Kind::Embeddings => body.get_mut("input").into_iter().for_each(|p| parts(p, see)),
        Kind::Free | Kind::Uncounted => parts(body, see),
    }
}

/// What the model said before, and what it was told to be.
fn own(message: &Value) -> bool {
    let is = |key: &str, words: &[&str]| {
        message.get(key).and_then(Value::as_str).is_some_and(|w| words.contains(&w))
    };
    is("role", &["assistant", "system", "developer"])
        || is("type", &["function_call", "reasoning", "computer_call"])
}

/// Every text of a content; pictures and other data are left alone.
fn parts(content: &mut Value, see: &mut dyn FnMut(&mut String)) {
    match content {
        Value::String(text) => see(text),
        Value::Array(all) => all.iter_mut().for_each(|p| parts(p, see)),
        Value::Object(part) => {
            let data = matches!(
                part.get("type").and_then(Value::as_str),
                Some(
                    "image"
                        | "image_url"
                        | "input_image"
                        | "input_file"
                        | "file"
                        | "input_audio"
                        | "computer_screenshot"
                )
            );
            if !data {
                let skip = [
                    "type",
                    "id",
                    "tool_use_id",
                    "tool_call_id",
                    "call_id",
                    "model",
                    "name",
                    "role",
                    "cache_control",
                ];
                for (key, value) in part.iter_mut().filter(|(k, _)| !skip.contains(&k.as_str())) {
                    let _ = key;
                    parts(value, see);
                }
            }
        }
        _ => {}
    }
}

/// The answer as it may come in. A stream's client hears within seconds that there will be one, and again and again until it
/// has been judged.
pub(super) async fn output(
    gateway: &Gateway,
    session: &Session,
    call: &Call,
    response: Response<Body>,
) -> Result<Response<Body>, Fault> {
    if !call.kind.counted()
        || !response.status().is_success()
        || !gateway.guards.concern(session, Phase::Output).await?
    {
        return Ok(response);
    }
    if response.headers().get(CONTENT_ENCODING).is_some_and(|e| e != "identity") {
        return Err(refused("the answer is compressed, and the guardrails have to read it"));
    }
    let streams = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|t| t.to_str().ok())
        .is_some_and(|t| t.starts_with("text/event-stream"));
    let (mut head, body) = response.into_parts();
    let summary = format!("an answer of {}", call.model.as_deref().unwrap_or("a model"));
    let judged = judged(gateway.clone(), session.clone(), body, streams, summary);
    if !streams {
        let (bytes, changed) = judged.await?;
        if changed {
            head.headers.remove(CONTENT_LENGTH);
        }
        return Ok(Response::from_parts(head, full(bytes)));
    }
    head.headers.remove(CONTENT_LENGTH);
    let judged = async move { judged.await.map(|(bytes, _)| bytes) };
    Ok(Response::from_parts(head, held(call.kind, judged).await?))
}

/// The bytes of an answer that may come in, and whether they are others than came.
async fn judged(
    gateway: Gateway,
    session: Session,
    mut body: Body,
    streams: bool,
    summary: String,
) -> Result<(Bytes, bool), Fault> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let broke =
            |e| Fault::new(StatusCode::BAD_GATEWAY, "provider_broke", format!("the answer broke off: {e}"));
        let Ok(data) = frame.map_err(broke)?.into_data() else { continue };
        if all.len() + data.len() > limits::GUARD_BYTES {
            let most = limits::GUARD_BYTES;
            return Err(refused(format!(
                "the answer has more than {most} bytes (GUARD_BYTES) and cannot be judged"
            )));
        }
        all.extend_from_slice(&data);
    }
    drop(body);
    let all = all.freeze();
    let mut answer = if streams { Answer::streamed(&all) } else { Answer::whole(&all) }
        .ok_or_else(|| refused("the answer cannot be read, and the guardrails have to read it"))?;
    let (texts, bytes) = answer.texts();
    let (judged, _) = judge(&gateway, &session, Phase::Output, texts, bytes, &summary).await?;
    if let Some(ruling) = &judged.ruling {
        gateway.guards.note(&session, "deny", ruling, &summary).await?;
        return Err(refused(ruling.words()));
    }
    let Some(texts) = judged.texts else { return Ok((all, false)) };
    answer.put(texts);
    Ok((Bytes::from(answer.bytes()), true))
}

/// The body of a stream that is being judged. Where that is soon done it is that, or the refusal with its status; where not, the
/// stream begins with what clients pass over until there is more to say.
pub(super) async fn held(
    kind: Kind,
    judged: impl Future<Output = Result<Bytes, Fault>> + Send + 'static,
) -> Result<Body, Fault> {
    let mut judged = Box::pin(judged);
    if let Ok(done) = tokio::time::timeout(SOON, judged.as_mut()).await {
        return done.map(full);
    }
    let pass_over = match kind {
        Kind::Messages => "event: ping\ndata: {\"type\": \"ping\"}\n\n",
        _ => ": the answer is being judged\n\n",
    };
    let frames = stream::unfold((Some(judged), true), move |(judged, first)| async move {
        let mut judged = judged?;
        let pause = if first { Duration::ZERO } else { AGAIN };
        Some(match tokio::time::timeout(pause, judged.as_mut()).await {
            Err(_) => (Bytes::from_static(pass_over.as_bytes()), (Some(judged), false)),
            Ok(Ok(bytes)) => (bytes, (None, false)),
            Ok(Err(fault)) => (Bytes::from(fault.event(kind)), (None, false)),
        })
    });
    let frames = frames.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    Ok(body_of(StreamBody::new(frames)))
}
