//! Guardrails on what goes to a model and on what it answers.
//!
//! Only what users and tools say is judged on its way in, not what the model itself said before. An answer is held back until all of
//! it is there, in spaces that have a rule for answers and in no others.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use wharf_domain::guard::{Action, ApprovalState, Phase};
use wharf_domain::{Code, Error, limits};
use wharf_guard::{Ask, Judged};
use wharf_store::NewApproval;

use super::call::{Call, Kind};
use super::fault::Fault;
use crate::body::{Body, full};
use crate::gateway::Gateway;
use crate::guards::{Question, decided, refusal_of, short};
use crate::sessions::Session;

/// How long a request is held for somebody's yes before its client is told to come again.
const HELD: Duration = Duration::from_secs(240);

fn refused(why: impl Into<String>) -> Fault {
    Fault { retry: Some(false), ..Fault::new(StatusCode::FORBIDDEN, "guardrail", why) }
}

/// Policies that cannot be read refuse like any rule.
fn fault(error: Error) -> Fault {
    if error.code == Code::Forbidden { refused(error.public) } else { error.into() }
}

async fn judge(
    gateway: &Gateway,
    session: &Session,
    phase: Phase,
    texts: Vec<String>,
    bytes: usize,
    summary: &str,
) -> Result<Judged, Fault> {
    let ask = || {
        let mut ask = Ask::new(phase, texts);
        ask.agents = session.agents.iter().map(String::as_str).collect();
        ask.bytes = Some(bytes as u64);
        ask
    };
    gateway.guards.judge(session, ask, summary).await.map_err(fault)
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
        let judged = judge(gateway, session, Phase::Input, vec![text.clone()], text.len(), &summary).await?;
        if judged.texts.is_some() {
            return Err(refused(
                "the guardrails take something out of this request, and its body is no JSON",
            ));
        }
        settle(gateway, session, &judged, &[text], &summary).await?;
        return Ok(call);
    };
    let mut texts = Vec::new();
    said(call.kind, &mut value, &mut |text| texts.push(text.clone()));
    let bytes = texts.iter().map(String::len).sum();
    let judged = judge(gateway, session, Phase::Input, texts.clone(), bytes, &summary).await?;
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
    let question = Question {
        key: NewApproval::key_of(&who, about.iter().copied()),
        phase: Phase::Input,
        tool: None,
        summary: summary.to_owned(),
        subject: json!({"texts": about.iter().take(8).map(|t| short(t, 1000)).collect::<Vec<_>>()}),
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

/// The answer as it may come in.
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
    let (mut head, mut body) = response.into_parts();
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
    let mut answer = if streams { Answer::streamed(&all) } else { Answer::whole(&all) }
        .ok_or_else(|| refused("the answer cannot be read, and the guardrails have to read it"))?;
    let texts = answer.texts();
    let summary = format!("an answer of {}", call.model.as_deref().unwrap_or("a model"));
    let bytes = texts.iter().map(String::len).sum();
    let judged = judge(gateway, session, Phase::Output, texts, bytes, &summary).await?;
    if let Some(ruling) = &judged.ruling {
        gateway.guards.note(session, "deny", ruling, &summary).await?;
        return Err(refused(ruling.words()));
    }
    let bytes = match judged.texts {
        None => all.freeze(),
        Some(texts) => {
            answer.put(&texts);
            head.headers.remove(CONTENT_LENGTH);
            Bytes::from(answer.bytes())
        }
    };
    Ok(Response::from_parts(head, full(bytes)))
}

/// An answer that is all there.
enum Answer {
    Whole(Value),
    /// Events as they came, with what they hold where that is JSON.
    Streamed(Vec<(String, Option<Value>)>),
}

impl Answer {
    fn whole(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Self::Whole)
    }

    fn streamed(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.replace("\r\n", "\n");
        let events = text.split_inclusive("\n\n").map(|event| {
            let data: Vec<&str> =
                event.lines().filter_map(|l| l.strip_prefix("data:")).map(str::trim_start).collect();
            (event.to_owned(), serde_json::from_str(&data.join("\n")).ok())
        });
        Some(Self::Streamed(events.collect()))
    }

    /// Texts in their order: of a stream, what its pieces of one block say together, then what it says as a whole.
    fn texts(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        match self {
            Self::Whole(value) => whole_texts(value, &mut |text| texts.push(text.clone())),
            Self::Streamed(events) => {
                let mut blocks: Vec<(String, String)> = Vec::new();
                for value in events.iter_mut().filter_map(|(_, v)| v.as_mut()) {
                    pieces(value, &mut |block, piece| match blocks.iter_mut().find(|(b, _)| *b == block) {
                        Some((_, text)) => text.push_str(piece),
                        None => blocks.push((block, piece.clone())),
                    });
                }
                texts.extend(blocks.into_iter().map(|(_, text)| text));
                for value in events.iter_mut().filter_map(|(_, v)| v.as_mut()) {
                    finals(value, &mut |text| texts.push(text.clone()));
                }
            }
        }
        texts
    }

    /// Puts texts back where [`Self::texts`] found them: a block's whole text into its first piece.
    fn put(&mut self, texts: &[String]) {
        let mut next = texts.iter();
        match self {
            Self::Whole(value) => whole_texts(value, &mut |text| {
                if let Some(new) = next.next() {
                    text.clone_from(new);
                }
            }),
            Self::Streamed(events) => {
                let mut seen: Vec<String> = Vec::new();
                for value in events.iter_mut().filter_map(|(_, v)| v.as_mut()) {
                    pieces(value, &mut |block, piece| {
                        if seen.contains(&block) {
                            piece.clear();
                        } else {
                            seen.push(block);
                            if let Some(new) = next.next() {
                                piece.clone_from(new);
                            }
                        }
                    });
                }
                for value in events.iter_mut().filter_map(|(_, v)| v.as_mut()) {
                    finals(value, &mut |text| {
                        if let Some(new) = next.next() {
                            text.clone_from(new);
                        }
                    });
                }
            }
        }
    }

    fn bytes(&self) -> String {
        match self {
            Self::Whole(value) => value.to_string(),
            Self::Streamed(events) => events
                .iter()
                .map(|(event, value)| match value {
                    None => event.clone(),
                    Some(value) => {
                        let others = event.lines().filter(|l| !l.is_empty() && !l.starts_with("data:"));
                        let data = format!("data: {value}");
                        let lines: Vec<&str> = others.chain([data.as_str(), "", ""]).collect();
                        lines.join("\n")
                    }
                })
                .collect(),
        }
    }
}

/// Texts of an answer that came at once: of Messages, chat completions, completions and responses.
fn whole_texts(value: &mut Value, see: &mut dyn FnMut(&mut String)) {
    for block in value.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
        text_of(block, see);
    }
    for choice in value.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::String(text)) = choice.get_mut("text") {
            see(text);
        }
        if let Some(content) = choice.get_mut("message").and_then(|m| m.get_mut("content")) {
            parts(content, see);
        }
    }
    for item in value.get_mut("output").and_then(Value::as_array_mut).into_iter().flatten() {
        for part in item.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
            text_of(part, see);
        }
    }
}

fn text_of(block: &mut Value, see: &mut dyn FnMut(&mut String)) {
    for key in ["text", "refusal"] {
        if let Some(Value::String(text)) = block.get_mut(key) {
            see(text);
        }
    }
}

/// The piece of a text that an event brings, and of which.
fn pieces(event: &mut Value, see: &mut dyn FnMut(String, &mut String)) {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let index = |event: &Value, key: &str| event.get(key).map(ToString::to_string).unwrap_or_default();
    match kind.as_str() {
        "content_block_delta" => {
            let block = format!("block {}", index(event, "index"));
            if let Some(Value::String(text)) = event.get_mut("delta").and_then(|d| d.get_mut("text")) {
                see(block, text);
            }
        }
        "response.output_text.delta" | "response.refusal.delta" => {
            let block =
                format!("{} {} {}", kind, index(event, "output_index"), index(event, "content_index"));
            if let Some(Value::String(text)) = event.get_mut("delta") {
                see(block, text);
            }
        }
        _ => {
            for choice in event.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
                let block = format!("choice {}", index(choice, "index"));
                if let Some(Value::String(text)) = choice.get_mut("text") {
                    see(format!("{block} text"), text);
                }
                if let Some(Value::String(text)) = choice.get_mut("delta").and_then(|d| d.get_mut("content"))
                {
                    see(block, text);
                }
            }
        }
    }
}

/// Texts that an event of a stream brings whole.
fn finals(event: &mut Value, see: &mut dyn FnMut(&mut String)) {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    match kind.as_str() {
        "response.output_text.done" | "response.refusal.done" => text_of(event, see),
        "response.content_part.done" => event.get_mut("part").into_iter().for_each(|p| text_of(p, see)),
        "response.output_item.done" => {
            let content =
                event.get_mut("item").and_then(|i| i.get_mut("content")).and_then(Value::as_array_mut);
            content.into_iter().flatten().for_each(|p| text_of(p, see));
        }
        "response.completed" | "response.incomplete" => {
            event.get_mut("response").into_iter().for_each(|r| whole_texts(r, see));
        }
        "content_block_start" => event.get_mut("content_block").into_iter().for_each(|b| text_of(b, see)),
        _ => {}
    }
}
