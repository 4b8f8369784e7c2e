//! OpenAI responses: <https://platform.openai.com/docs/api-reference/responses> and its streaming events.

use serde_json::{Value, json};
use wharf_domain::model::{ScriptBlock, Standing};

use super::{MODEL, Said, event, pieces, standing_of};

/// Kinds of items that the model said.
const SPOKEN: [&str; 4] = ["function_call", "reasoning", "computer_call", "custom_tool_call"];

pub(super) fn standing(body: &Value) -> Standing {
    let mut at = match &body["input"] {
        Value::Array(items) => {
            let said = items.iter().filter(|i| i["role"] != "system" && i["role"] != "developer");
            standing_of(said.map(|item| {
                let kind = item["type"].as_str().unwrap_or("message");
                (item["role"] == "assistant" || SPOKEN.contains(&kind), item)
            }))
        }
        said => standing_of(std::iter::once((false, said))),
    };
    // Going on from an answer of ours: its id tells how far it was.
    let before = body["previous_response_id"].as_str().and_then(|id| id.strip_prefix("resp_scripted_"));
    if let Some(place) = before.and_then(|id| id.split('_').next()?.parse::<usize>().ok()) {
        at.spoken = at.spoken.saturating_add(place).saturating_add(1);
    }
    at
}

fn item(said: &Said<'_>, n: usize, block: &ScriptBlock) -> Value {
    match block {
        ScriptBlock::Text { text } => json!({
            "id": said.id("msg", n), "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }),
        ScriptBlock::Thinking { text } => json!({
            "id": said.id("rs", n), "type": "reasoning", "summary": [{"type": "summary_text", "text": text}],
        }),
        ScriptBlock::ToolUse { name, input } => json!({
            "id": said.id("fc", n), "type": "function_call", "status": "completed", "call_id": said.id("call", n),
            "name": name, "arguments": json!(input).to_string(),
        }),
    }
}

fn response(said: &Said<'_>, done: bool) -> Value {
    let u = said.usage;
    let input = u.input_tokens + u.cached_tokens + u.cache_write_tokens;
    let output: Vec<Value> = said.turn.say.iter().enumerate().map(|(n, b)| item(said, n, b)).collect();
    let usage = json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": u.cached_tokens},
        "output_tokens": u.output_tokens, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input + u.output_tokens,
    });
    json!({
        "id": said.id("resp", 0), "object": "response", "created_at": 0, "model": MODEL,
        "status": if done { "completed" } else { "in_progress" },
        "output": if done { json!(output) } else { json!([]) },
        "usage": if done { usage } else { Value::Null },
        "error": null, "incomplete_details": null, "instructions": null, "metadata": {}, "parallel_tool_calls": true,
        "tool_choice": "auto", "tools": [], "temperature": null, "top_p": null,
    })
}

pub(super) fn whole(said: &Said<'_>) -> Value {
    response(said, true)
}

pub(super) fn events(said: &Said<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let mut number = 0;
    let mut say = |name: &str, mut data: Value| {
        data["sequence_number"] = json!(number);
        number += 1;
        out.push(event(name, data));
    };
    say("response.created", json!({"response": response(said, false)}));
    say("response.in_progress", json!({"response": response(said, false)}));
    for (n, block) in said.turn.say.iter().enumerate() {
        let whole = item(said, n, block);
        let id = whole["id"].clone();
        let at = |mut data: Value| {
            data["item_id"] = id.clone();
            data["output_index"] = json!(n);
            data
        };
        let mut begun = whole.clone();
        match block {
            ScriptBlock::Text { text } => {
                begun["content"] = json!([]);
                begun["status"] = json!("in_progress");
                say("response.output_item.added", json!({"output_index": n, "item": begun}));
                let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
                say("response.content_part.added", at(json!({"content_index": 0, "part": part("")})));
                for piece in pieces(text) {
                    say(
                        "response.output_text.delta",
                        at(json!({"content_index": 0, "delta": piece, "logprobs": []})),
                    );
                }
                say(
                    "response.output_text.done",
                    at(json!({"content_index": 0, "text": text, "logprobs": []})),
                );
                say("response.content_part.done", at(json!({"content_index": 0, "part": part(text)})));
            }
            ScriptBlock::Thinking { text } => {
                begun["summary"] = json!([]);
                say("response.output_item.added", json!({"output_index": n, "item": begun}));
                let part = |text: &str| json!({"type": "summary_text", "text": text});
                say(
                    "response.reasoning_summary_part.added",
                    at(json!({"summary_index": 0, "part": part("")})),
                );
                for piece in pieces(text) {
                    say(
                        "response.reasoning_summary_text.delta",
                        at(json!({"summary_index": 0, "delta": piece})),
                    );
                }
                say("response.reasoning_summary_text.done", at(json!({"summary_index": 0, "text": text})));
                say(
                    "response.reasoning_summary_part.done",
                    at(json!({"summary_index": 0, "part": part(text)})),
                );
            }
            ScriptBlock::ToolUse { name, input } => {
                begun["arguments"] = json!("");
                begun["status"] = json!("in_progress");
                say("response.output_item.added", json!({"output_index": n, "item": begun}));
                let arguments = json!(input).to_string();
                for piece in pieces(&arguments) {
                    say("response.function_call_arguments.delta", at(json!({"delta": piece})));
                }
                say(
                    "response.function_call_arguments.done",
                    at(json!({"arguments": arguments, "name": name})),
                );
            }
        }
        say("response.output_item.done", json!({"output_index": n, "item": whole}));
    }
    say("response.completed", json!({"response": response(said, true)}));
    out
}
