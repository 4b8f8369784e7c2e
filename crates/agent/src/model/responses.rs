//! OpenAI Responses, streaming, without state at the provider: `store` is false and the whole conversation goes along.
//!
//! Reasoning comes back encrypted and is given back in its place, which is what keeps a model's thread through its tools.

use serde_json::{Map, Value, json};
use wharf_wire::api::ModelProtocol;

use super::chat::arguments;
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
    body.insert("store".into(), false.into());
    body.insert("max_output_tokens".into(), request.max_tokens.into());
    body.insert("prompt_cache_key".into(), request.key.into());
    if !request.system.is_empty() {
        body.insert("instructions".into(), request.system.into());
    }
    if request.thinking != Thinking::Unsaid && (traits::reasons(request.model) || request.effort.is_some()) {
        let mut reasoning = json!({"summary": "auto"});
        if let Some(effort) = request.effort {
            reasoning["effort"] = effort.as_str().into();
        }
        body.insert("reasoning".into(), reasoning);
        body.insert("include".into(), json!(["reasoning.encrypted_content"]));
    }
    if !request.tools.is_empty() {
        let tools: Vec<Value> = request
            .tools
            .iter()
            .map(|t| {
                json!({"type": "function", "name": t.name, "description": t.description,
                    "parameters": t.schema, "strict": false})
            })
            .collect();
        body.insert("tools".into(), tools.into());
    }
    let mut input = Vec::new();
    for message in request.messages {
        push(message, request, &mut input);
    }
    body.insert("input".into(), input.into());
    Call {
        path: format!("/{}/v1/responses", request.provider),
        headers: Vec::new(),
        body: Value::Object(body),
    }
}

fn push(message: &Message, request: &Request<'_>, out: &mut Vec<Value>) {
    match message {
        Message::User { results, content } => {
            for (_, result) in results {
                let mut parts: Vec<Value> = Vec::new();
                if result.is_error {
                    parts.push(json!({"type": "input_text", "text": "Error:"}));
                }
                parts.extend(result.content.iter().map(|p| part(p, request.images)));
                let output = match parts.as_slice() {
                    [only] if only.get("text").is_some() => only["text"].clone(),
                    _ => parts.into(),
                };
                out.push(json!({"type": "function_call_output", "call_id": result.id, "output": output}));
            }
            if !content.is_empty() {
                let parts: Vec<Value> = content.iter().map(|p| part(p, request.images)).collect();
                out.push(json!({"type": "message", "role": "user", "content": parts}));
            }
        }
        Message::Assistant(blocks) => {
            for block in blocks {
                match block {
                    Block::Text { text } => out.push(json!({"type": "message", "role": "assistant",
                        "content": [{"type": "output_text", "text": text}]})),
                    Block::ToolUse(used) => out.push(json!({"type": "function_call", "call_id": used.id,
                        "name": used.name, "arguments": arguments(used)})),
                    Block::Opaque { protocol: ModelProtocol::OpenaiResponses, item }
                        if request.thinking == Thinking::Kept =>
                    {
                        out.push(item.clone());
                    }
                    Block::Thinking { .. } | Block::Opaque { .. } => {}
                }
            }
        }
    }
}

fn part(part: &Part, images: &Images) -> Value {
    match part {
        Part::Text { text } => json!({"type": "input_text", "text": text}),
        Part::Image { image } => match images.base64(image) {
            Some(data) => json!({"type": "input_image",
                "image_url": format!("data:{};base64,{data}", image.media_type)}),
            None => json!({"type": "input_text", "text": crate::images::GONE}),
        },
    }
}

#[derive(Default)]
pub struct Reading {
    blocks: Vec<Block>,
    end: Option<(Stop, Tokens)>,
    model: Option<String>,
    refusal: String,
}

impl Reading {
    fn item(&mut self, item: &Value) {
        match item.get("type").and_then(Value::as_str).unwrap_or_default() {
            "message" => {
                for part in item.get("content").and_then(Value::as_array).into_iter().flatten() {
                    match text(part, "/type") {
                        "output_text" => {
                            self.blocks.push(Block::Text { text: text(part, "/text").to_owned() });
                        }
                        "refusal" => self.refusal.push_str(text(part, "/refusal")),
                        _ => {}
                    }
                }
            }
            "function_call" => {
                let (input, broken) = tool_input(text(item, "/arguments"));
                self.blocks.push(Block::ToolUse(ToolUse {
                    id: text(item, "/call_id").to_owned(),
                    name: text(item, "/name").to_owned(),
                    input,
                    broken,
                }));
            }
            // Without its encrypted part the provider could not take it back: it has stored nothing.
            "reasoning" if item.get("encrypted_content").is_some_and(Value::is_string) => {
                let mut item = item.clone();
                if let Some(item) = item.as_object_mut() {
                    item.remove("status");
                }
                self.blocks.push(Block::Opaque { protocol: ModelProtocol::OpenaiResponses, item });
            }
            _ => {}
        }
    }
}

fn tokens(response: &Value) -> Tokens {
    let cached = number(response, "/usage/input_tokens_details/cached_tokens");
    Tokens {
        input: number(response, "/usage/input_tokens").saturating_sub(cached),
        output: number(response, "/usage/output_tokens"),
        cached,
    }
}

impl Reader for Reading {
    fn event(&mut self, event: &sse::Event, said: &mut Vec<Delta>) -> Result<(), Failure> {
        if event.data.trim() == "[DONE]" {
            return Ok(());
        }
        let value = parse(event)?;
        match value.get("type").and_then(Value::as_str).unwrap_or_default() {
            "response.created" => {
                self.model = value.pointer("/response/model").and_then(Value::as_str).map(str::to_owned);
            }
            "response.output_text.delta" => said.push(Delta::Text(text(&value, "/delta").to_owned())),
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                said.push(Delta::Thinking(text(&value, "/delta").to_owned()));
            }
            "response.output_item.added" if text(&value, "/item/type") == "function_call" => {
                said.push(Delta::Tool {
                    id: text(&value, "/item/call_id").to_owned(),
                    name: text(&value, "/item/name").to_owned(),
                });
            }
            "response.output_item.done" => {
                if let Some(item) = value.get("item") {
                    self.item(item);
                }
            }
            "response.completed" => {
                let response = value.get("response").cloned().unwrap_or_default();
                self.end = Some((Stop::End, tokens(&response)));
            }
            "response.incomplete" => {
                let response = value.get("response").cloned().unwrap_or_default();
                let stop = match text(&response, "/incomplete_details/reason") {
                    "content_filter" => {
                        Stop::Refused("the provider's content filter ended the answer".into())
                    }
                    _ => Stop::Cut,
                };
                self.end = Some((stop, tokens(&response)));
            }
            "response.failed" => {
                let error = value.pointer("/response/error").cloned().unwrap_or_default();
                return Err(super::retry::told(text(&error, "/message"), &error));
            }
            "error" => {
                let error = value.get("error").filter(|e| e.is_object()).unwrap_or(&value);
                return Err(super::retry::told(text(error, "/message"), error));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Answer, Failure> {
        let (mut stop, tokens) =
            self.end.take().ok_or_else(|| torn("the stream ended before `response.completed`"))?;
        let mut blocks = std::mem::take(&mut self.blocks);
        if stop == Stop::Cut && matches!(blocks.last(), Some(Block::ToolUse(used)) if used.broken.is_some()) {
            blocks.pop();
        }
        if stop == Stop::End {
            if blocks.iter().any(|b| matches!(b, Block::ToolUse(_))) {
                stop = Stop::Tools;
            } else if !self.refusal.is_empty() {
                stop = Stop::Refused(std::mem::take(&mut self.refusal));
            }
        }
        Ok(Answer { blocks, stop, tokens, model: self.model.take() })
    }
}
