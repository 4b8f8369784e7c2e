//! Anthropic Messages: <https://docs.anthropic.com/en/api/messages> and its streaming events.

use serde_json::{Value, json};
use wharf_domain::model::{ScriptBlock, Standing};

use super::{MODEL, Said, event, pieces, standing_of};

pub(super) fn standing(body: &Value) -> Standing {
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    standing_of(messages.iter().map(|m| (m["role"] == "assistant", &m["content"])))
}

/// Signatures are opaque to clients, who hand them back.
const SIGNATURE: &str = "scripted";

fn block(said: &Said<'_>, n: usize, block: &ScriptBlock) -> Value {
    match block {
        ScriptBlock::Text { text } => json!({"type": "text", "text": text}),
        ScriptBlock::Thinking { text } => {
            json!({"type": "thinking", "thinking": text, "signature": SIGNATURE})
        }
        ScriptBlock::ToolUse { name, input } => {
            json!({"type": "tool_use", "id": said.id("toolu", n), "name": name, "input": input})
        }
    }
}

fn stop(said: &Said<'_>) -> &'static str {
    if said.calls_tool() { "tool_use" } else { "end_turn" }
}

fn usage(said: &Said<'_>, output: u64) -> Value {
    json!({
        "input_tokens": said.usage.input_tokens, "output_tokens": output,
        "cache_read_input_tokens": said.usage.cached_tokens,
        "cache_creation_input_tokens": said.usage.cache_write_tokens,
    })
}

fn message(said: &Said<'_>, content: Vec<Value>, stop_reason: Value, output: u64) -> Value {
    json!({
        "id": said.id("msg", 0), "type": "message", "role": "assistant", "model": MODEL, "content": content,
        "stop_reason": stop_reason, "stop_sequence": null, "usage": usage(said, output),
    })
}

pub(super) fn whole(said: &Said<'_>) -> Value {
    let content = said.turn.say.iter().enumerate().map(|(n, b)| block(said, n, b)).collect();
    message(said, content, json!(stop(said)), said.usage.output_tokens)
}

pub(super) fn events(said: &Said<'_>) -> Vec<String> {
    let mut out = vec![event("message_start", json!({"message": message(said, Vec::new(), Value::Null, 1)}))];
    for (n, said_block) in said.turn.say.iter().enumerate() {
        let mut start = block(said, n, said_block);
        let delta = |delta: Value| event("content_block_delta", json!({"index": n, "delta": delta}));
        let mut deltas = Vec::new();
        match said_block {
            ScriptBlock::Text { text } => {
                start["text"] = json!("");
                deltas.extend(
                    pieces(text).into_iter().map(|p| delta(json!({"type": "text_delta", "text": p}))),
                );
            }
            ScriptBlock::Thinking { text } => {
                start["thinking"] = json!("");
                start["signature"] = json!("");
                let thoughts = pieces(text).into_iter();
                deltas.extend(thoughts.map(|p| delta(json!({"type": "thinking_delta", "thinking": p}))));
                deltas.push(delta(json!({"type": "signature_delta", "signature": SIGNATURE})));
            }
            ScriptBlock::ToolUse { input, .. } => {
                start["input"] = json!({});
                let arguments = pieces(&json!(input).to_string()).into_iter();
                deltas
                    .extend(arguments.map(|p| delta(json!({"type": "input_json_delta", "partial_json": p}))));
            }
        }
        out.push(event("content_block_start", json!({"index": n, "content_block": start})));
        out.append(&mut deltas);
        out.push(event("content_block_stop", json!({"index": n})));
    }
    let delta = json!({"stop_reason": stop(said), "stop_sequence": null});
    out.push(event("message_delta", json!({"delta": delta, "usage": usage(said, said.usage.output_tokens)})));
    out.push(event("message_stop", json!({})));
    out
}
