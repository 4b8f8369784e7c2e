//! One call of the model: what is asked, in which protocol, and what is made of the answer while it streams in.
//!
//! Nothing is acted on before an answer is whole, so a call that breaks may be repeated. What cannot be helped by repeating is
//! told apart here: a full context, a tool the model does not know, thinking it does not take, and the rest.

pub mod anthropic;
pub mod chat;
pub mod responses;
pub mod retry;
pub mod traits;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::Value;
use wharf_wire::api::{Effort, ModelProtocol};

use crate::block::{Block, Message, Tokens};
use crate::images::Images;
use crate::sse;
use traits::Generation;

/// A tool as the model is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolDef {
    pub name: String,
    pub description: String,
    /// JSON schema of its input.
    pub schema: Value,
    pub built_in: Option<BuiltIn>,
}

/// Tools that some models were trained on, and know without being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltIn {
    Bash,
    Edit,
    /// Width and height of the grid the model sees.
    Computer(u32, u32),
}

/// How thinking is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thinking {
    /// As configured, with all that was thought before.
    #[default]
    Kept,
    /// What was thought before is left out: the provider would not have it back.
    Forgotten,
    /// Nothing is said of thinking at all.
    Unsaid,
}

pub struct Request<'a> {
    pub protocol: ModelProtocol,
    pub provider: &'a str,
    pub model: &'a str,
    pub system: &'a str,
    pub messages: &'a [Message],
    pub tools: &'a [ToolDef],
    pub max_tokens: u32,
    pub thinking_tokens: Option<u32>,
    pub effort: Option<Effort>,
    /// Ties calls of one conversation together for caches.
    pub key: &'a str,
    pub images: &'a Images,
    pub generation: Generation,
    pub thinking: Thinking,
}

/// What goes to the provider.
#[derive(Debug, PartialEq)]
pub struct Call {
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    Text(String),
    Thinking(String),
    /// A call of a tool begins; its input is not there yet.
    Tool {
        id: String,
        name: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    End,
    Tools,
    /// The answer was cut at `max_tokens`.
    Cut,
    /// The provider wants to be asked again with what it said.
    Paused,
    /// The context is full.
    Full,
    Refused(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub blocks: Vec<Block>,
    pub stop: Stop,
    pub tokens: Tokens,
    /// As the provider calls it.
    pub model: Option<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// May be over the next time; `after` where the provider said when.
    Passing {
        why: String,
        after: Option<Duration>,
    },
    /// The conversation is longer than the model takes.
    Full(String),
    /// The provider does not know the built-in tools in this generation.
    Tools(String),
    /// It does not take the thinking it was given, or asked for.
    Thinking(String),
    Final(String),
}

/// Reads the events of one answer.
pub trait Reader: Send {
    fn event(&mut self, event: &sse::Event, said: &mut Vec<Delta>) -> Result<(), Failure>;
    /// The stream ended. Fails when the answer had not.
    fn finish(&mut self) -> Result<Answer, Failure>;
}

/// Writes the request.
pub fn call(request: &Request<'_>) -> Call {
    match request.protocol {
        ModelProtocol::Anthropic => anthropic::call(request),
        ModelProtocol::OpenaiChat => chat::call(request),
        ModelProtocol::OpenaiResponses => responses::call(request),
    }
}

pub fn reader(protocol: ModelProtocol) -> Box<dyn Reader> {
    match protocol {
        ModelProtocol::Anthropic => Box::new(anthropic::Reading::default()),
        ModelProtocol::OpenaiChat => Box::new(chat::Reading::default()),
        ModelProtocol::OpenaiResponses => Box::new(responses::Reading::default()),
    }
}

pub fn torn(what: &str) -> Failure {
    Failure::Passing { why: format!("the answer broke off: {what}"), after: None }
}

/// An event that should be JSON.
fn json(event: &sse::Event) -> Result<Value, Failure> {
    serde_json::from_str(&event.data).map_err(|e| {
        let begin: String = event.data.chars().take(120).collect();
        Failure::Passing { why: format!("the provider sent no JSON ({e}): {begin:?}"), after: None }
    })
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// Input of a tool as it was put together from pieces. A model may leave out the input of a tool that needs none.
fn tool_input(pieces: &str) -> (Value, Option<String>) {
    if pieces.trim().is_empty() {
        return (Value::Object(serde_json::Map::new()), None);
    }
    match serde_json::from_str::<Value>(pieces) {
        Ok(value @ Value::Object(_)) => (value, None),
        _ => (Value::Object(serde_json::Map::new()), Some(pieces.to_owned())),
    }
}
