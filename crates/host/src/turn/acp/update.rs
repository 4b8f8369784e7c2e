//! What an agent tells while it works, as events of the turn.
//!
//! Its words between two tool calls become one message. What is not known is shown as it came, by its own name.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use wharf_wire::host::turn::{Block, Said};

use super::{Stop, too_much};
use crate::turn::Turn;

/// What is being said.
#[derive(Default)]
pub struct Reply {
    text: String,
    blocks: Vec<Block>,
    /// What was told of calls that go on: those who ask whether one may run need not say it again.
    calls: BTreeMap<String, Map<String, Value>>,
}

/// Calls that are remembered at a time, and what of them.
const CALLS: usize = 64;
const TOLD: [&str; 4] = ["kind", "title", "rawInput", "locations"];

impl Reply {
    /// Ends the message that is being said, when there is one.
    pub fn flush(&mut self, turn: &Turn) -> Result<(), Stop> {
        self.end_text();
        let content = std::mem::take(&mut self.blocks);
        if content.is_empty() {
            return Ok(());
        }
        turn.say(Said::Message { content }).map_err(|_| too_much())
    }

    /// A request about a call, with what was told of the call before.
    pub fn complete(&self, mut params: Value) -> Value {
        let call = params.get_mut("toolCall").and_then(Value::as_object_mut);
        if let Some(call) = call
            && let Some(known) =
                call.get("toolCallId").and_then(Value::as_str).and_then(|id| self.calls.get(id))
        {
            for (key, value) in known {
                if call.get(key).is_none_or(Value::is_null) {
                    call.insert(key.clone(), value.clone());
                }
            }
        }
        params
    }

    /// Keeps what is told of a call until it is over.
    pub fn remember(&mut self, update: &Map<String, Value>) {
        let Some(id) = update.get("toolCallId").and_then(Value::as_str) else { return };
        if is_over(update) {
            self.calls.remove(id);
            return;
        }
        if self.calls.len() >= CALLS && !self.calls.contains_key(id) {
            self.calls.pop_first();
        }
        let known = self.calls.entry(id.to_owned()).or_default();
        for key in TOLD {
            if let Some(value) = update.get(key).filter(|value| !value.is_null()) {
                known.insert(key.to_owned(), value.clone());
            }
        }
    }

    fn end_text(&mut self) {
        if !self.text.is_empty() {
            self.blocks.push(Block::text(std::mem::take(&mut self.text)));
        }
    }

    pub fn update(&mut self, turn: &Turn, params: &Value) -> Result<(), Stop> {
        let Some(update) = params.get("update").and_then(Value::as_object) else {
            return Err(Stop::protocol("a session/update without an update"));
        };
        let kind = update.get("sessionUpdate").and_then(Value::as_str).unwrap_or_default();
        if matches!(kind, "tool_call" | "tool_call_update") {
            self.remember(update);
        }
        match kind {
            "agent_message_chunk" => self.chunk(turn, update.get("content")),
            "agent_thought_chunk" => {
                let text = update.get("content").and_then(|c| c.get("text")).and_then(Value::as_str);
                event(turn, "thinking", json!({"text": text.unwrap_or_default()}))
            }
            // The user's own words, replayed.
            "user_message_chunk" => Ok(()),
            "tool_call" => {
                self.flush(turn)?;
                event(turn, "tool_use", tool_use(update))?;
                if is_over(update) { event(turn, "tool_result", tool_result(update)) } else { Ok(()) }
            }
            "tool_call_update" if is_over(update) => event(turn, "tool_result", tool_result(update)),
            "tool_call_update" => event(turn, "tool_update", tool_use(update)),
            "" => Err(Stop::protocol("a session/update that does not say what it is")),
            other => {
                let mut data = update.clone();
                data.remove("sessionUpdate");
                event(turn, other, Value::Object(data))
            }
        }
    }

    fn chunk(&mut self, turn: &Turn, content: Option<&Value>) -> Result<(), Stop> {
        let Some(content) = content.and_then(Value::as_object) else {
            return Err(Stop::protocol("an agent_message_chunk without content"));
        };
        match content.get("type").and_then(Value::as_str) {
            Some("text") => {
                let text = content.get("text").and_then(Value::as_str).unwrap_or_default().to_owned();
                if text.is_empty() {
                    return Ok(());
                }
                self.text.push_str(&text);
                turn.say(Said::Text { text }).map_err(|_| too_much())
            }
            Some("image") => {
                self.end_text();
                let block = json!({"type": "image", "media_type": content.get("mimeType"), "data": content.get("data")});
                self.push(block)
            }
            Some(_) => {
                self.end_text();
                self.push(Value::Object(content.clone()))
            }
            None => Err(Stop::protocol("a content block without a type")),
        }
    }

    fn push(&mut self, block: Value) -> Result<(), Stop> {
        let Value::Object(block) = block else { return Ok(()) };
        self.blocks.push(Block::try_from(block).map_err(Stop::protocol)?);
        Ok(())
    }
}

fn event(turn: &Turn, name: &str, data: Value) -> Result<(), Stop> {
    turn.say(Said::Event { name: name.to_owned(), data }).map_err(|_| too_much())
}

fn is_over(update: &Map<String, Value>) -> bool {
    matches!(update.get("status").and_then(Value::as_str), Some("completed" | "failed"))
}

fn tool_use(update: &Map<String, Value>) -> Value {
    let mut data = json!({
        "id": update.get("toolCallId"),
        "name": update.get("title"),
        "input": update.get("rawInput"),
    });
    for key in ["kind", "status", "locations", "content"] {
        if let (Some(value), Value::Object(data)) = (update.get(key), &mut data) {
            data.insert(key.to_owned(), value.clone());
        }
    }
    data
}

fn tool_result(update: &Map<String, Value>) -> Value {
    let empty = Vec::new();
    let parts = update.get("content").and_then(Value::as_array).unwrap_or(&empty);
    let text: Vec<&str> = parts
        .iter()
        .filter_map(|p| p.get("content").and_then(|c| c.get("text")).and_then(Value::as_str))
        .collect();
    json!({
        "tool_use_id": update.get("toolCallId"),
        "content": text.join("\n"),
        "is_error": update.get("status").and_then(Value::as_str) == Some("failed"),
        "output": update.get("rawOutput"),
    })
}
