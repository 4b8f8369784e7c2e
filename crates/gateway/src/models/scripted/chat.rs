//! OpenAI chat completions: <https://platform.openai.com/docs/api-reference/chat>. Thinking has no place in it and is left
//! out.

use serde_json::{Value, json};
use wharf_domain::model::{ScriptBlock, Standing};

use super::{MODEL, Said, pieces, standing_of};

pub(super) fn standing(body: &Value) -> Standing {
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let spoken = messages.iter().filter(|m| m["role"] != "system" && m["role"] != "developer");
    standing_of(spoken.map(|m| (m["role"] == "assistant", &m["content"])))
}

fn text(said: &Said<'_>) -> String {
    let texts = said.turn.say.iter().filter_map(|b| match b {
        ScriptBlock::Text { text } => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Calls of tools with their places.
fn calls(said: &Said<'_>) -> Vec<Value> {
    let calls = said.turn.say.iter().enumerate().filter_map(|(n, b)| match b {
        ScriptBlock::ToolUse { name, input } => Some(json!({
            "id": said.id("call", n), "type": "function",
            "function": {"name": name, "arguments": json!(input).to_string()},
        })),
        _ => None,
    });
    calls.collect()
}

fn finish(said: &Said<'_>) -> &'static str {
    if said.calls_tool() { "tool_calls" } else { "stop" }
}

fn usage(said: &Said<'_>) -> Value {
    let u = said.usage;
    // Here the cache is part of the input.
    let prompt = u.input_tokens + u.cached_tokens + u.cache_write_tokens;
    json!({
        "prompt_tokens": prompt, "completion_tokens": u.output_tokens, "total_tokens": prompt + u.output_tokens,
        "prompt_tokens_details": {"cached_tokens": u.cached_tokens},
    })
}

fn around(said: &Said<'_>, object: &str, choices: Value) -> Value {
    json!({"id": said.id("chatcmpl", 0), "object": object, "created": 0, "model": MODEL, "choices": choices})
}

pub(super) fn whole(said: &Said<'_>) -> Value {
    let (text, calls) = (text(said), calls(said));
    let mut message = json!({"role": "assistant", "content": if text.is_empty() { Value::Null } else { json!(text) },
        "refusal": null});
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    }
    let choice = json!({"index": 0, "message": message, "finish_reason": finish(said), "logprobs": null});
    let mut body = around(said, "chat.completion", json!([choice]));
    body["usage"] = usage(said);
    body
}

pub(super) fn events(said: &Said<'_>) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        let mut body = around(said, "chat.completion.chunk", choices);
        body["usage"] = usage;
        format!("data: {body}\n\n")
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]), Value::Null)
    };
    let mut out = vec![delta(json!({"role": "assistant", "content": ""}), Value::Null)];
    out.extend(pieces(&text(said)).into_iter().map(|p| delta(json!({"content": p}), Value::Null)));
    for (n, call) in calls(said).into_iter().enumerate() {
        let arguments = call["function"]["arguments"].as_str().unwrap_or_default().to_owned();
        let mut start = call;
        start["index"] = json!(n);
        start["function"]["arguments"] = json!("");
        out.push(delta(json!({"tool_calls": [start]}), Value::Null));
        for piece in pieces(&arguments) {
            let part = json!({"index": n, "function": {"arguments": piece}});
            out.push(delta(json!({"tool_calls": [part]}), Value::Null));
        }
    }
    out.push(delta(json!({}), json!(finish(said))));
    // Told always; the gateway keeps it from who did not ask.
    out.push(chunk(json!([]), usage(said)));
    out.push("data: [DONE]\n\n".to_owned());
    out
}
