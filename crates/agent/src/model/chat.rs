//! OpenAI Chat Completions, streaming, and what is compatible with it.
//!
//! Tools may answer with text only there: their pictures follow in a message of the user. What a model thought is shown where a
//! server tells it, and never sent back: the protocol has no place for it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::traits;
use super::{Answer, Call, Delta, Failure, Reader, Request, Stop, Thinking};
use super::{json as parse, number, text, tool_input, torn};
use crate::block::{Block, Message, Part, Tokens, ToolUse};
use crate::images::Images;
use crate::sse;

pub fn call(request: &Request<'_>) -> Call {
    let mut body = Map::new();
    body.insert("model".into(), request.model.into());
    body.insert("stream".into(), true.into());
    body.insert("stream_options".into(), json!({"include_usage": true}));
    // Reasoning models take only the newer name; servers that are merely compatible mostly know the older one.
    let limit = if traits::reasons(request.model) { "max_completion_tokens" } else { "max_tokens" };
    body.insert(limit.into(), request.max_tokens.into());
    if let Some(effort) = request.effort
        && request.thinking != Thinking::Unsaid
    {
        body.insert("reasoning_effort".into(), effort.as_str().into());
    }
    if !request.tools.is_empty() {
        let tools: Vec<Value> = request
            .tools
            .iter()
            .map(|t| {
                json!({"type": "function",
                    "function": {"name": t.name, "description": t.description, "parameters": t.schema}})
            })
            .collect();
        body.insert("tools".into(), tools.into());
    }
    let mut messages = Vec::with_capacity(request.messages.len() + 1);
    if !request.system.is_empty() {
        messages.push(json!({"role": "system", "content": request.system}));
    }
    for message in request.messages {
        push(message, request.images, &mut messages);
    }
    body.insert("messages".into(), messages.into());
    Call {
        path: format!("/{}/v1/chat/completions", request.provider),
        headers: Vec::new(),
        body: Value::Object(body),
    }
}

fn push(message: &Message, images: &Images, out: &mut Vec<Value>) {
    match message {
        Message::User { results, content } => {
            let mut shown: Vec<Value> = Vec::new();
            for (used, result) in results {
                let mut said = String::new();
                for part in &result.content {
                    match part {
                        Part::Text { text } => said.push_str(text),
                        Part::Image { .. } => {
                            said.push_str("[the picture follows]");
                            shown.push(json!({"type": "text", "text": format!("Picture of {} ({}):", used.name, used.id)}));
                            shown.push(part_of(part, images));
                        }
                    }
                }
                if result.is_error {
                    said.insert_str(0, "Error: ");
                }
                out.push(json!({"role": "tool", "tool_call_id": result.id, "content": said}));
            }
            shown.extend(content.iter().map(|p| part_of(p, images)));
            if let [only] = shown.as_slice()
                && let Some(text) = only.get("text")
            {
                out.push(json!({"role": "user", "content": text}));
            } else if !shown.is_empty() {
                out.push(json!({"role": "user", "content": shown}));
            }
        }
        Message::Assistant(blocks) => {
            let (mut said, mut calls) = (String::new(), Vec::new());
            for block in blocks {
                match block {
                    Block::Text { text } => said.push_str(text),
                    Block::ToolUse(used) => calls.push(json!({"id": used.id, "type": "function",
                        "function": {"name": used.name, "arguments": arguments(used)}})),
                    Block::Thinking { .. } | Block::Opaque { .. } => {}
                }
            }
            let mut message = json!({"role": "assistant", "content": said});
            if !calls.is_empty() {
                if said.is_empty() {
                    message["content"] = Value::Null;
                }
                message["tool_calls"] = calls.into();
            }
            out.push(message);
        }
    }
}

pub fn arguments(used: &ToolUse) -> String {
    used.input.to_string()
}

fn part_of(part: &Part, images: &Images) -> Value {
    match part {
        Part::Text { text } => json!({"type": "text", "text": text}),
        Part::Image { image } => match images.base64(image) {
            Some(data) => json!({"type": "image_url",
                "image_url": {"url": format!("data:{};base64,{data}", image.media_type)}}),
            None => json!({"type": "text", "text": crate::images::GONE}),
        },
    }
}

#[derive(Default)]
struct Draft {
    id: String,
    name: String,
    input: String,
}

#[derive(Default)]
pub struct Reading {
    said: String,
    thought: String,
    calls: BTreeMap<u64, Draft>,
    tokens: Tokens,
    model: Option<String>,
    stop: Option<Stop>,
    refusal: String,
}

impl Reader for Reading {
    fn event(&mut self, event: &sse::Event, said: &mut Vec<Delta>) -> Result<(), Failure> {
        if event.data.trim() == "[DONE]" {
            return Ok(());
        }
        let value = parse(event)?;
        if let Some(error) = value.get("error").filter(|e| !e.is_null()) {
            let why = match error.get("message").and_then(Value::as_str) {
                Some(why) => why.to_owned(),
                None => error.to_string(),
            };
            return Err(super::retry::told(&why, error));
        }
        if self.model.is_none() {
            self.model = value.get("model").and_then(Value::as_str).map(str::to_owned);
        }
        if value.get("usage").is_some_and(Value::is_object) {
            let cached = number(&value, "/usage/prompt_tokens_details/cached_tokens");
            self.tokens = Tokens {
                input: number(&value, "/usage/prompt_tokens").saturating_sub(cached),
                output: number(&value, "/usage/completion_tokens"),
                cached,
            };
        }
        let Some(choice) = value.pointer("/choices/0") else { return Ok(()) };
        let more = text(choice, "/delta/content");
        if !more.is_empty() {
            self.said.push_str(more);
            said.push(Delta::Text(more.to_owned()));
        }
        for pointer in ["/delta/reasoning_content", "/delta/reasoning"] {
            let more = text(choice, pointer);
            if !more.is_empty() {
                self.thought.push_str(more);
                said.push(Delta::Thinking(more.to_owned()));
                break;
            }
        }
        self.refusal.push_str(text(choice, "/delta/refusal"));
        for (at, call) in
            choice.pointer("/delta/tool_calls").and_then(Value::as_array).into_iter().flatten().enumerate()
        {
            let index = call.get("index").and_then(Value::as_u64).unwrap_or(at as u64);
            let is_new = !self.calls.contains_key(&index);
            let draft = self.calls.entry(index).or_default();
            if let Some(id) = call.get("id").and_then(Value::as_str)
                && !id.is_empty()
            {
                id.clone_into(&mut draft.id);
            }
            draft.name.push_str(text(call, "/function/name"));
            draft.input.push_str(text(call, "/function/arguments"));
            if is_new {
                said.push(Delta::Tool { id: draft.id.clone(), name: draft.name.clone() });
            }
        }
        match text(choice, "/finish_reason") {
            "" => {}
            "length" => self.stop = Some(Stop::Cut),
            "content_filter" => {
                self.stop = Some(Stop::Refused("the provider's content filter ended the answer".into()));
            }
            "tool_calls" | "function_call" => self.stop = Some(Stop::Tools),
            _ => self.stop = Some(Stop::End),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Answer, Failure> {
        let mut stop = self.stop.take().ok_or_else(|| torn("the stream ended before `finish_reason`"))?;
        if stop == Stop::End && !self.refusal.is_empty() {
            stop = Stop::Refused(std::mem::take(&mut self.refusal));
        }
        let mut blocks = Vec::new();
        let thinking = std::mem::take(&mut self.thought);
        if !thinking.is_empty() {
            blocks.push(Block::Thinking { thinking, signature: String::new() });
        }
        let said = std::mem::take(&mut self.said);
        if !said.is_empty() {
            blocks.push(Block::Text { text: said });
        }
        let calls = std::mem::take(&mut self.calls);
        let count = calls.len();
        for (at, (index, draft)) in calls.into_iter().enumerate() {
            let (input, broken) = tool_input(&draft.input);
            // Of an answer that was cut only the last call can be torn.
            if stop == Stop::Cut && broken.is_some() && at + 1 == count {
                continue;
            }
            // Some servers give no ids.
            let id = if draft.id.is_empty() { format!("call_{index}") } else { draft.id };
            blocks.push(Block::ToolUse(ToolUse { id, name: draft.name, input, broken }));
        }
        // Some servers say `stop` although they called tools.
        if stop == Stop::End && count > 0 {
            stop = Stop::Tools;
        }
        Ok(Answer { blocks, stop, tokens: self.tokens, model: self.model.take() })
    }
}
