//! The scripted provider: no model, a script replayed over the wire protocols of the others.
//!
//! Its place in the script is read from the request (see [`Standing`]), so it keeps nothing and survives everything. What
//! it says is counted, budgeted and passed on like any provider's answer. Its model is always named `scripted`.

mod anthropic;
mod chat;
mod responses;

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use wharf_domain::model::{Script, ScriptBlock, ScriptTurn, ScriptUsage, Standing};

use super::call::{self, Call, Kind};
use super::fault::{Dialect, Fault};
use crate::body::{Body, full, stream as body_of};

/// The model's name in every answer.
const MODEL: &str = "scripted";
/// Characters of one piece of streamed text.
const PIECE: usize = 24;

/// What one turn says, ready to be written in a protocol.
struct Said<'a> {
    turn: &'a ScriptTurn,
    usage: ScriptUsage,
    /// How often the model had spoken before: names ids, the same each time.
    place: usize,
}

impl Said<'_> {
    fn calls_tool(&self) -> bool {
        self.turn.say.iter().any(|b| matches!(b, ScriptBlock::ToolUse { .. }))
    }

    /// An id that is the same whenever the same turn is said again.
    fn id(&self, prefix: &str, block: usize) -> String {
        format!("{prefix}_scripted_{}_{block}", self.place)
    }
}

/// Answers a request of any of the three protocols.
pub(super) fn answer(script: &Script, dialect: Dialect, path: &str, call: &Call) -> Response<Body> {
    made(script, path, call).unwrap_or_else(|fault| fault.response(dialect))
}

fn made(script: &Script, path: &str, call: &Call) -> Result<Response<Body>, Fault> {
    let standing: fn(&Value) -> Standing = match call.kind {
        Kind::Messages => anthropic::standing,
        Kind::Chat => chat::standing,
        Kind::Responses => responses::standing,
        _ => return beside(path, call),
    };
    let body: Value = serde_json::from_slice(&call.body).map_err(|e| Fault::bad(e.to_string()))?;
    let at = standing(&body);
    let refuse = |text| Fault { retry: Some(false), ..Fault::bad(format!("scripted: {text}")) };
    let turn = script.next(&at).map_err(refuse)?;
    if let Some(fail) = &turn.fail {
        let status = StatusCode::from_u16(fail.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return Err(Fault::new(status, "scripted", format!("scripted: {}", fail.message)));
    }
    let said = Said { turn, usage: turn.usage.unwrap_or_else(|| counted(call, turn)), place: at.spoken };
    Ok(match (call.kind, call.stream) {
        (Kind::Messages, false) => whole(&said, anthropic::whole(&said)),
        (Kind::Messages, true) => streamed(&said, anthropic::events(&said)),
        (Kind::Chat, false) => whole(&said, chat::whole(&said)),
        (Kind::Chat, true) => streamed(&said, chat::events(&said)),
        (_, false) => whole(&said, responses::whole(&said)),
        (_, true) => streamed(&said, responses::events(&said)),
    })
}

/// What clients ask besides: which models there are, how many tokens a request has.
fn beside(path: &str, call: &Call) -> Result<Response<Body>, Fault> {
    let answer = if path.ends_with("/models") {
        let model = json!({"id": MODEL, "object": "model", "type": "model", "display_name": MODEL, "created": 0,
            "created_at": "1970-01-01T00:00:00Z", "owned_by": "wharf"});
        json!({"object": "list", "data": [model], "has_more": false, "first_id": MODEL, "last_id": MODEL})
    } else if path.ends_with("/count_tokens") || path.ends_with("/input_tokens") {
        json!({"input_tokens": call::guess(&call.body)})
    } else {
        let text = "a scripted provider answers messages, chat completions, responses, their token counts and models";
        return Err(Fault { retry: Some(false), ..Fault::new(StatusCode::NOT_FOUND, "not_scripted", text) });
    };
    Ok(json_response(&answer))
}

/// A quarter of the bytes, in and out.
fn counted(call: &Call, turn: &ScriptTurn) -> ScriptUsage {
    let bytes = |b: &ScriptBlock| match b {
        ScriptBlock::Text { text } | ScriptBlock::Thinking { text } => text.len(),
        ScriptBlock::ToolUse { name, input } => name.len() + json!(input).to_string().len(),
    };
    let said: usize = turn.say.iter().map(bytes).sum();
    ScriptUsage {
        input_tokens: call::guess(&call.body),
        output_tokens: (said as u64).div_ceil(4),
        ..ScriptUsage::default()
    }
}

fn json_response(body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn whole(said: &Said<'_>, body: Value) -> Response<Body> {
    let pause = said.turn.delay_ms;
    if pause == 0 {
        return json_response(&body);
    }
    let (head, _) = json_response(&body).into_parts();
    Response::from_parts(head, paced(vec![body.to_string()], pause, 0))
}

/// `events` are whole server-sent events.
fn streamed(said: &Said<'_>, events: Vec<String>) -> Response<Body> {
    let mut response = Response::new(paced(events, said.turn.delay_ms, said.turn.piece_delay_ms));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Pieces with a pause before the first and between any two.
fn paced(pieces: Vec<String>, before: u32, between: u32) -> Body {
    let frames = stream::unfold((pieces.into_iter(), before), move |(mut pieces, pause)| async move {
        let piece = pieces.next()?;
        if pause > 0 {
            tokio::time::sleep(Duration::from_millis(pause.into())).await;
        }
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(piece))), (pieces, between)))
    });
    body_of(StreamBody::new(frames))
}

/// One server-sent event with its name, which is also its type.
fn event(name: &str, mut data: Value) -> String {
    data["type"] = json!(name);
    format!("event: {name}\ndata: {data}\n\n")
}

/// Text in the pieces it is streamed in.
fn pieces(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut piece = String::new();
    for c in text.chars() {
        piece.push(c);
        if piece.len() >= PIECE && c.is_whitespace() || piece.len() >= 2 * PIECE {
            out.push(std::mem::take(&mut piece));
        }
    }
    if !piece.is_empty() {
        out.push(piece);
    }
    out
}

/// What a content says, as a script compares it: words, and `[image]` for images.
fn words(content: &Value) -> String {
    fn add(content: &Value, out: &mut String) {
        let mut say = |text: &str| {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(text);
        };
        match content {
            Value::String(text) => say(text),
            Value::Array(parts) => parts.iter().for_each(|p| add(p, out)),
            Value::Object(part) => match part.get("type").and_then(Value::as_str) {
                Some("image" | "image_url" | "input_image" | "computer_screenshot") => say("[image]"),
                _ => {
                    for key in ["text", "content", "output"] {
                        if let Some(inner) = part.get(key) {
                            add(inner, out);
                        }
                    }
                }
            },
            _ => {}
        }
    }
    let mut out = String::new();
    add(content, &mut out);
    out
}

/// Where a conversation of messages with roles stands: consecutive ones of the model are one turn of it.
fn standing_of<'a>(messages: impl Iterator<Item = (bool, &'a Value)>) -> Standing {
    let mut at = Standing::default();
    let mut before = false;
    for (model, content) in messages {
        if model {
            if !before {
                at.spoken += 1;
            }
            at.last.clear();
        } else {
            let said = words(content);
            if !at.last.is_empty() && !said.is_empty() {
                at.last.push('\n');
            }
            at.last.push_str(&said);
        }
        before = model;
    }
    at
}
