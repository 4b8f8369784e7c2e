//! Anthropic Messages, streaming: <https://platform.claude.com/docs/en/api/messages>.
//!
//! Thinking is given back with its signature as long as the provider takes it. Four cache breakpoints: tools, system, and the
//! ends of the last two messages of the user, so that every call finds what the one before it wrote.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use wharf_wire::api::ModelProtocol;

use super::traits::{self, Claude, Generation, Thinks};
use super::{Answer, BuiltIn, Call, Delta, Failure, Reader, Request, Stop, Thinking, ToolDef};
use super::{json as parse, number, text, tool_input, torn};
use crate::block::{Block, Message, Part, Tokens, ToolUse};
use crate::images::Images;
use crate::sse;

const VERSION: &str = "2023-06-01";
/// What the toolset calls itself in blocks.
const TOOLSET: &str = "computer";

pub fn call(request: &Request<'_>) -> Call {
    let claude = traits::claude(request.model).unwrap_or(traits::OTHER);
    let mut betas = Vec::new();
    let mut body = Map::new();
    body.insert("model".into(), request.model.into());
    body.insert("max_tokens".into(), request.max_tokens.into());
    body.insert("stream".into(), true.into());
    if !request.system.is_empty() {
        body.insert(
            "system".into(),
            json!([{"type": "text", "text": request.system, "cache_control": {"type": "ephemeral"}}]),
        );
    }
    if !request.tools.is_empty() {
        let mut tools: Vec<Value> =
            request.tools.iter().map(|t| tool(t, request.generation, &mut betas)).collect();
        if let Some(Value::Object(last)) = tools.last_mut() {
            last.insert("cache_control".into(), json!({"type": "ephemeral"}));
        }
        body.insert("tools".into(), tools.into());
    }
    think(request, claude, &mut body, &mut betas);
    body.insert("messages".into(), messages(request).into());
    let mut headers = vec![("anthropic-version", VERSION.to_owned())];
    betas.dedup();
    if !betas.is_empty() {
        headers.push(("anthropic-beta", betas.join(",")));
    }
    Call { path: format!("/{}/v1/messages", request.provider), headers, body: Value::Object(body) }
}

fn think(
    request: &Request<'_>,
    claude: Claude,
    body: &mut Map<String, Value>,
    betas: &mut Vec<&'static str>,
) {
    if let Some(effort) = request.effort {
        body.insert("output_config".into(), json!({"effort": effort.as_str()}));
        if claude.effort_beta {
            betas.push("effort-2025-11-24");
        }
    }
    if request.thinking == Thinking::Unsaid {
        return;
    }
    let thinking = match (claude.thinks, request.thinking_tokens) {
        (_, None) | (Thinks::Budget, Some(0)) => return,
        // What was thought before is needed to go on thinking with a budget.
        (Thinks::Budget, Some(_)) if request.thinking == Thinking::Forgotten => return,
        (Thinks::Budget, Some(n)) => {
            if claude.interleaved_beta {
                betas.push("interleaved-thinking-2025-05-14");
            }
            // The least the API takes is 1024.
            json!({"type": "enabled", "budget_tokens": n.max(1024)})
        }
        (Thinks::Adaptive, Some(0)) => json!({"type": "disabled"}),
        (Thinks::Adaptive, Some(_)) => json!({"type": "adaptive", "display": "summarized"}),
    };
    body.insert("thinking".into(), thinking);
}

fn tool(tool: &ToolDef, generation: Generation, betas: &mut Vec<&'static str>) -> Value {
    match (tool.built_in, generation) {
        (Some(BuiltIn::Bash), Generation::V20250124 | Generation::V20251124 | Generation::Toolset) => {
            json!({"type": "bash_20250124", "name": tool.name})
        }
        (Some(BuiltIn::Edit), Generation::V20250124 | Generation::V20251124 | Generation::Toolset) => {
            json!({"type": "text_editor_20250728", "name": tool.name})
        }
        (Some(BuiltIn::Computer(width, height)), Generation::V20250124) => {
            betas.push("computer-use-2025-01-24");
            json!({"type": "computer_20250124", "name": tool.name, "display_width_px": width, "display_height_px": height})
        }
        (Some(BuiltIn::Computer(width, height)), Generation::V20251124) => {
            betas.push("computer-use-2025-11-24");
            json!({"type": "computer_20251124", "name": tool.name, "display_width_px": width,
                "display_height_px": height, "enable_zoom": true})
        }
        (Some(BuiltIn::Computer(..)), Generation::Toolset) => json!({"type": "computer_toolset_20260801"}),
        (None, _) | (_, Generation::Described) => {
            json!({"name": tool.name, "description": tool.description, "input_schema": tool.schema})
        }
    }
}

fn messages(request: &Request<'_>) -> Vec<Value> {
    let mut messages: Vec<Value> = request.messages.iter().map(|m| message(m, request)).collect();
    let users: Vec<usize> = request
        .messages
        .iter()
        .enumerate()
        .filter(|(_, m)| matches!(m, Message::User { .. }))
        .map(|(i, _)| i)
        .collect();
    for at in users.iter().rev().take(2) {
        let last = messages[*at].get_mut("content").and_then(Value::as_array_mut).and_then(|c| c.last_mut());
        if let Some(Value::Object(last)) = last {
            last.insert("cache_control".into(), json!({"type": "ephemeral"}));
        }
    }
    messages
}

fn message(message: &Message, request: &Request<'_>) -> Value {
    match message {
        Message::User { results, content } => {
            let mut blocks: Vec<Value> = Vec::with_capacity(results.len() + content.len());
            for (used, result) in results {
                let content: Vec<Value> = result.content.iter().map(|p| part(p, request.images)).collect();
                let mut block = json!({"type": "tool_result", "tool_use_id": result.id, "content": content});
                if result.is_error {
                    block["is_error"] = true.into();
                }
                if is_member(used, request.generation) {
                    block["toolset_name"] = TOOLSET.into();
                }
                blocks.push(block);
            }
            blocks.extend(content.iter().map(|p| part(p, request.images)));
            json!({"role": "user", "content": blocks})
        }
        Message::Assistant(blocks) => {
            let blocks: Vec<Value> = blocks.iter().filter_map(|b| block(b, request)).collect();
            json!({"role": "assistant", "content": blocks})
        }
    }
}

/// Whether a call of the tool `computer` is told as a member of the toolset.
fn is_member(used: &ToolUse, generation: Generation) -> bool {
    generation == Generation::Toolset
        && used.name == TOOLSET
        && used.input.get("action").is_some_and(Value::is_string)
}

fn part(part: &Part, images: &Images) -> Value {
    match part {
        Part::Text { text } => json!({"type": "text", "text": text}),
        Part::Image { image } => match images.base64(image) {
            Some(data) => json!({"type": "image",
                "source": {"type": "base64", "media_type": image.media_type, "data": data}}),
            None => json!({"type": "text", "text": crate::images::GONE}),
        },
    }
}

fn block(block: &Block, request: &Request<'_>) -> Option<Value> {
    match block {
        Block::Text { text } => Some(json!({"type": "text", "text": text})),
        Block::ToolUse(used) if is_member(used, request.generation) => {
            let mut input = used.input.clone();
            let action = input.as_object_mut().and_then(|o| o.remove("action")).unwrap_or_default();
            Some(
                json!({"type": "tool_use", "id": used.id, "name": action, "toolset_name": TOOLSET, "input": input}),
            )
        }
        Block::ToolUse(used) => {
            Some(json!({"type": "tool_use", "id": used.id, "name": used.name, "input": used.input}))
        }
        _ if request.thinking != Thinking::Kept => None,
        Block::Thinking { thinking, signature } => (!signature.is_empty())
            .then(|| json!({"type": "thinking", "thinking": thinking, "signature": signature})),
        Block::Opaque { protocol: ModelProtocol::Anthropic, item } => Some(item.clone()),
        Block::Opaque { .. } => None,
    }
}

/// A block that is being put together.
enum Draft {
    Text(String),
    Thinking { thinking: String, signature: String },
    Tool { id: String, name: String, toolset: Option<String>, input: String, whole: Option<Value> },
    Opaque(Value),
}

#[derive(Default)]
pub struct Reading {
    drafts: BTreeMap<u64, (Draft, bool)>,
    tokens: Tokens,
    model: Option<String>,
    stop: Option<Stop>,
    is_over: bool,
}

impl Reading {
    /// Counts are cumulative: the last one told holds.
    fn usage(&mut self, usage: &Value) {
        let tell = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64);
        if let Some(read) = tell("/input_tokens") {
            self.tokens.input = read + tell("/cache_creation_input_tokens").unwrap_or_default();
            self.tokens.cached = tell("/cache_read_input_tokens").unwrap_or_default();
        }
        if let Some(written) = tell("/output_tokens") {
            self.tokens.output = written;
        }
    }

    fn begin(&mut self, event: &Value, said: &mut Vec<Delta>) {
        let block = event.get("content_block").cloned().unwrap_or_default();
        let of = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let draft = match block.get("type").and_then(Value::as_str).unwrap_or_default() {
            "text" => {
                let text = of("text");
                if !text.is_empty() {
                    said.push(Delta::Text(text.clone()));
                }
                Draft::Text(text)
            }
            "thinking" => Draft::Thinking { thinking: of("thinking"), signature: of("signature") },
            "tool_use" => {
                let toolset = block.get("toolset_name").and_then(Value::as_str).map(str::to_owned);
                let name = if toolset.as_deref() == Some(TOOLSET) { TOOLSET.to_owned() } else { of("name") };
                said.push(Delta::Tool { id: of("id"), name });
                let whole = block.get("input").filter(|i| i.as_object().is_some_and(|o| !o.is_empty()));
                Draft::Tool {
                    id: of("id"),
                    name: of("name"),
                    toolset,
                    input: String::new(),
                    whole: whole.cloned(),
                }
            }
            _ => Draft::Opaque(block),
        };
        self.drafts.insert(number(event, "/index"), (draft, false));
    }

    fn delta(&mut self, event: &Value, said: &mut Vec<Delta>) {
        let Some((draft, _)) = self.drafts.get_mut(&number(event, "/index")) else { return };
        match (draft, text(event, "/delta/type")) {
            (Draft::Text(all), "text_delta") => {
                let more = text(event, "/delta/text");
                all.push_str(more);
                said.push(Delta::Text(more.to_owned()));
            }
            (Draft::Thinking { thinking, .. }, "thinking_delta") => {
                let more = text(event, "/delta/thinking");
                thinking.push_str(more);
                said.push(Delta::Thinking(more.to_owned()));
            }
            (Draft::Thinking { signature, .. }, "signature_delta") => {
                signature.push_str(text(event, "/delta/signature"));
            }
            (Draft::Tool { input, .. }, "input_json_delta") => {
                input.push_str(text(event, "/delta/partial_json"));
            }
            _ => {}
        }
    }

    fn blocks(&mut self) -> Vec<Block> {
        let drafts = std::mem::take(&mut self.drafts);
        let mut blocks = Vec::with_capacity(drafts.len());
        for (draft, is_whole) in drafts.into_values() {
            match draft {
                Draft::Text(text) if !text.is_empty() => blocks.push(Block::Text { text }),
                Draft::Text(_) => {}
                Draft::Thinking { thinking, signature } => {
                    blocks.push(Block::Thinking { thinking, signature });
                }
                Draft::Opaque(item) => {
                    blocks.push(Block::Opaque { protocol: ModelProtocol::Anthropic, item });
                }
                // A call that was cut short is none: its input may be half of what was meant.
                Draft::Tool { .. } if !is_whole => {}
                Draft::Tool { id, name, toolset, input, whole } => {
                    let (mut value, broken) = match whole {
                        Some(whole) if input.is_empty() => (whole, None),
                        _ => tool_input(&input),
                    };
                    let mut called = name;
                    if toolset.as_deref() == Some(TOOLSET) {
                        value["action"] = std::mem::replace(&mut called, TOOLSET.to_owned()).into();
                    }
                    blocks.push(Block::ToolUse(ToolUse { id, name: called, input: value, broken }));
                }
            }
        }
        blocks
    }
}

impl Reader for Reading {
    fn event(&mut self, event: &sse::Event, said: &mut Vec<Delta>) -> Result<(), Failure> {
        let value = parse(event)?;
        match value.get("type").and_then(Value::as_str).unwrap_or_default() {
            "message_start" => {
                self.model = value.pointer("/message/model").and_then(Value::as_str).map(str::to_owned);
                if let Some(usage) = value.pointer("/message/usage") {
                    self.usage(usage);
                }
            }
            "content_block_start" => self.begin(&value, said),
            "content_block_delta" => self.delta(&value, said),
            "content_block_stop" => {
                if let Some((_, is_whole)) = self.drafts.get_mut(&number(&value, "/index")) {
                    *is_whole = true;
                }
            }
            "message_delta" => {
                if let Some(usage) = value.get("usage") {
                    self.usage(usage);
                }
                self.stop = match text(&value, "/delta/stop_reason") {
                    "" => self.stop.take(),
                    "tool_use" => Some(Stop::Tools),
                    "max_tokens" => Some(Stop::Cut),
                    "pause_turn" => Some(Stop::Paused),
                    "model_context_window_exceeded" => Some(Stop::Full),
                    "refusal" => Some(Stop::Refused(match text(&value, "/delta/stop_details/explanation") {
                        "" => "the model refused to answer".to_owned(),
                        why => why.to_owned(),
                    })),
                    _ => Some(Stop::End),
                };
            }
            "message_stop" => self.is_over = true,
            "error" => {
                let (kind, why) = (text(&value, "/error/type"), text(&value, "/error/message"));
                let why = format!("{kind}: {why}");
                return Err(match kind {
                    "overloaded_error" | "api_error" | "rate_limit_error" | "timeout_error" => {
                        Failure::Passing { why, after: None }
                    }
                    _ => super::retry::refusal(&why),
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Answer, Failure> {
        if !self.is_over {
            return Err(torn("the stream ended before `message_stop`"));
        }
        let stop = self.stop.clone().ok_or_else(|| torn("no reason was given for its end"))?;
        Ok(Answer { blocks: self.blocks(), stop, tokens: self.tokens, model: self.model.take() })
    }
}
