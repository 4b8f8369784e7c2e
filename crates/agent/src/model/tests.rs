#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use wharf_wire::api::{Effort, ModelProtocol};

use super::traits::{self, Generation, Pictures, STANDARD, Thinks};
use super::{Answer, BuiltIn, Call, Delta, Failure, Request, Stop, Thinking, ToolDef, call, reader, retry};
use crate::block::{Block, Message, Part, ToolResult, ToolUse};
use crate::images::Images;
use crate::sse;

fn conversation(images: &Images) -> Vec<Message> {
    let picture = images.keep(b"\x89PNG pixels", "image/png", Some((1280, 800))).unwrap();
    let opaque = |protocol, item| Block::Opaque { protocol, item };
    let shot = ToolUse {
        id: "t1".into(),
        name: "computer".into(),
        input: json!({"action": "screenshot"}),
        broken: None,
    };
    let ls = ToolUse { id: "t2".into(), name: "bash".into(), input: json!({"command": "ls"}), broken: None };
    vec![
        Message::User { results: vec![], content: vec![Part::text("What is on the screen?")] },
        Message::Assistant(vec![
            Block::Thinking { thinking: "I should look.".into(), signature: "c2ln".into() },
            opaque(ModelProtocol::Anthropic, json!({"type": "redacted_thinking", "data": "abc"})),
            opaque(
                ModelProtocol::OpenaiResponses,
                json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "enc"}),
            ),
            Block::Text { text: "Let me look.".into() },
            Block::ToolUse(shot.clone()),
            Block::ToolUse(ls.clone()),
        ]),
        Message::User {
            results: vec![
                (
                    shot,
                    ToolResult {
                        id: "t1".into(),
                        content: vec![Part::Image { image: picture }],
                        is_error: false,
                    },
                ),
                (
                    ls,
                    ToolResult {
                        id: "t2".into(),
                        content: vec![Part::text("[exit code 2]")],
                        is_error: true,
                    },
                ),
            ],
            content: vec![],
        },
    ]
}

fn tools() -> Vec<ToolDef> {
    let def = |name: &str, built_in| ToolDef {
        name: name.into(),
        description: format!("The tool {name}."),
        schema: json!({"type": "object"}),
        built_in,
    };
    vec![
        def("bash", Some(BuiltIn::Bash)),
        def("str_replace_based_edit_tool", Some(BuiltIn::Edit)),
        def("computer", Some(BuiltIn::Computer(1280, 800))),
        def("files", None),
    ]
}

fn asked(protocol: ModelProtocol, model: &str, change: impl FnOnce(&mut Request<'_>)) -> Call {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path().join("images")).unwrap();
    let (messages, tools) = (conversation(&images), tools());
    let mut request = Request {
        protocol,
        provider: "lab",
        model,
        system: "Be brief.",
        messages: &messages,
        tools: &tools,
        max_tokens: 4096,
        thinking_tokens: None,
        effort: None,
        key: "session-agent",
        images: &images,
        generation: traits::claude(model).map_or(Generation::Described, |c| c.generation),
        thinking: Thinking::Kept,
    };
    change(&mut request);
    call(&request)
}

fn shown(call: &Call) -> serde_json::Value {
    json!({"path": call.path, "headers": call.headers, "body": call.body})
}

#[test]
fn requests_of_each_protocol_are_as_its_documentation_has_them() {
    let sonnet =
        asked(ModelProtocol::Anthropic, "claude-sonnet-4-5-20250929", |r| r.thinking_tokens = Some(2048));
    insta::assert_json_snapshot!("anthropic_budget", shown(&sonnet));
    let opus = asked(ModelProtocol::Anthropic, "claude-opus-4-7", |r| {
        r.thinking_tokens = Some(2048);
        r.effort = Some(Effort::High);
    });
    insta::assert_json_snapshot!("anthropic_adaptive", shown(&opus));
    let toolset = asked(ModelProtocol::Anthropic, "claude-sonnet-5", |_| {});
    insta::assert_json_snapshot!("anthropic_toolset", shown(&toolset));
    let chat = asked(ModelProtocol::OpenaiChat, "qwen3-vl", |_| {});
    insta::assert_json_snapshot!("openai_chat", shown(&chat));
    let responses = asked(ModelProtocol::OpenaiResponses, "gpt-5.2", |r| r.effort = Some(Effort::Low));
    insta::assert_json_snapshot!("openai_responses", shown(&responses));
}

#[test]
fn a_name_nobody_knows_does_not_make_a_setting_vanish() {
    let unknown = asked(ModelProtocol::Anthropic, "house-model-3", |r| {
        r.thinking_tokens = Some(2048);
        r.effort = Some(Effort::High);
    });
    assert_eq!(unknown.body["thinking"], json!({"type": "enabled", "budget_tokens": 2048}));
    assert_eq!(unknown.body["output_config"], json!({"effort": "high"}));
    let plain = asked(ModelProtocol::Anthropic, "house-model-3", |_| {});
    assert!(plain.body.get("thinking").is_none() && plain.body.get("output_config").is_none());
}

#[test]
fn what_a_provider_would_not_have_back_is_left_out() {
    let forgotten = asked(ModelProtocol::Anthropic, "claude-sonnet-4-5", |r| {
        r.thinking_tokens = Some(2048);
        r.thinking = Thinking::Forgotten;
    });
    let text = forgotten.body.to_string();
    assert!(!text.contains("thinking"), "{text}");
    let plain = asked(ModelProtocol::Anthropic, "claude-sonnet-5", |r| r.generation = Generation::Described);
    let text = plain.body.to_string();
    assert!(
        !text.contains("toolset")
            && text.contains("input_schema")
            && text.contains(r#""action":"screenshot""#)
    );
    assert!(plain.headers.iter().all(|(name, _)| *name != "anthropic-beta"));
}

fn read(protocol: ModelProtocol, stream: &str) -> (Result<Answer, Failure>, Vec<Delta>) {
    let (mut parser, mut events, mut said) = (sse::Parser::default(), Vec::new(), Vec::new());
    parser.push(stream.as_bytes(), &mut events).unwrap();
    let mut reader = reader(protocol);
    for event in &events {
        if let Err(failure) = reader.event(event, &mut said) {
            return (Err(failure), said);
        }
    }
    (reader.finish(), said)
}

fn stream(events: &[serde_json::Value]) -> String {
    let written =
        events.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap_or("x")));
    written.collect::<Vec<_>>().concat()
}

fn anthropic() -> Vec<serde_json::Value> {
    vec![
        json!({"type": "message_start", "message": {"id": "m", "model": "claude-sonnet-5",
            "usage": {"input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 100, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "ping"}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Let me "}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "look."}}),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "content_block_start", "index": 2,
            "content_block": {"type": "tool_use", "id": "t1", "name": "left_click", "toolset_name": "computer", "input": {}}}),
        json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{\"coordinate\": [1"}}),
        json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ", 2]}"}}),
        json!({"type": "content_block_stop", "index": 2}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 33}}),
        json!({"type": "message_stop"}),
    ]
}

#[test]
fn an_answer_of_anthropic_is_read_whole() {
    let (answer, said) = read(ModelProtocol::Anthropic, &stream(&anthropic()));
    let answer = answer.unwrap();
    insta::assert_debug_snapshot!("anthropic_answer", (&answer, &said));
}

#[test]
fn an_answer_of_chat_completions_is_read_whole() {
    let chunk = |delta: serde_json::Value, end: Option<&str>| json!({"model": "qwen3", "choices": [{"index": 0, "delta": delta, "finish_reason": end}]});
    let call = |id: Option<&str>, name: Option<&str>, arguments: &str| {
        chunk(
            json!({"tool_calls": [{"index": 0, "id": id, "function": {"name": name, "arguments": arguments}}]}),
            None,
        )
    };
    let events = [
        chunk(json!({"role": "assistant", "content": "", "reasoning_content": "hm"}), None),
        chunk(json!({"content": "I look."}), None),
        call(Some("c1"), Some("bash"), ""),
        call(None, None, "{\"command\":"),
        call(None, None, "\"ls\"}"),
        chunk(json!({}), Some("tool_calls")),
        json!({"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 40}}}),
    ];
    let mut text = events.iter().map(|e| format!("data: {e}\n\n")).collect::<Vec<_>>().concat();
    text.push_str("data: [DONE]\n\n");
    let (answer, said) = read(ModelProtocol::OpenaiChat, &text);
    insta::assert_debug_snapshot!("chat_answer", (&answer.unwrap(), &said));
}

#[test]
fn an_answer_of_responses_is_read_whole() {
    let events = [
        json!({"type": "response.created", "response": {"model": "gpt-5.2", "status": "in_progress"}}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "id": "rs_1"}}),
        json!({"type": "response.reasoning_summary_text.delta", "delta": "hm"}),
        json!({"type": "response.output_item.done", "output_index": 0,
            "item": {"type": "reasoning", "id": "rs_1", "status": "completed", "summary": [], "encrypted_content": "enc"}}),
        json!({"type": "response.output_text.delta", "delta": "I look."}),
        json!({"type": "response.output_item.done", "output_index": 1, "item": {"type": "message", "id": "msg_1",
            "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}}),
        json!({"type": "response.output_item.added", "output_index": 2,
            "item": {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "bash"}}),
        json!({"type": "response.function_call_arguments.delta", "delta": "{\"command\":\"ls\"}"}),
        json!({"type": "response.output_item.done", "output_index": 2, "item": {"type": "function_call", "id": "fc_1",
            "call_id": "c1", "name": "bash", "arguments": "{\"command\":\"ls\"}"}}),
        json!({"type": "response.completed", "response": {"usage": {"input_tokens": 50, "output_tokens": 9,
            "input_tokens_details": {"cached_tokens": 48}}}}),
    ];
    let (answer, said) = read(ModelProtocol::OpenaiResponses, &stream(&events));
    insta::assert_debug_snapshot!("responses_answer", (&answer.unwrap(), &said));
}

#[test]
fn an_answer_that_breaks_off_anywhere_is_none_and_may_be_asked_for_again() {
    let events = anthropic();
    for count in 0..events.len() {
        let (answer, _) = read(ModelProtocol::Anthropic, &stream(&events[..count]));
        assert!(matches!(answer, Err(Failure::Passing { .. })), "after {count} events: {answer:?}");
    }
    for protocol in [ModelProtocol::OpenaiChat, ModelProtocol::OpenaiResponses] {
        let (answer, _) = read(protocol, "data: {\"type\": \"response.created\", \"response\": {}}\n\n");
        assert!(matches!(answer, Err(Failure::Passing { .. })), "{answer:?}");
    }
}

#[test]
fn a_call_cut_at_the_greatest_length_is_no_call_but_a_whole_one_before_it_is() {
    let mut events = anthropic();
    let whole = events[10..14].to_vec();
    events.truncate(10);
    events.extend(whole);
    events.push(json!({"type": "content_block_start", "index": 3,
        "content_block": {"type": "tool_use", "id": "t2", "name": "bash", "input": {}}}));
    events.push(json!({"type": "content_block_delta", "index": 3,
        "delta": {"type": "input_json_delta", "partial_json": "{\"command\": \"rm -rf /tm"}}));
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {}}));
    events.push(json!({"type": "message_stop"}));
    let answer = read(ModelProtocol::Anthropic, &stream(&events)).0.unwrap();
    assert_eq!(answer.stop, Stop::Cut);
    let calls: Vec<&str> = answer
        .blocks
        .iter()
        .filter_map(|b| match b {
            Block::ToolUse(used) => Some(used.id.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(calls, ["t1"]);
}

#[test]
fn input_that_is_no_json_is_kept_and_told_apart() {
    let mut events = anthropic();
    events[12]["delta"]["partial_json"] = ", 2".into();
    let answer = read(ModelProtocol::Anthropic, &stream(&events)).0.unwrap();
    assert!(
        matches!(answer.blocks.last(), Some(Block::ToolUse(u)) if u.broken.as_deref() == Some("{\"coordinate\": [1, 2"))
    );
}

#[test]
fn failures_are_told_apart_by_what_can_be_done() {
    let overloaded = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let (answer, _) = read(ModelProtocol::Anthropic, &stream(&[overloaded]));
    assert!(matches!(answer, Err(Failure::Passing { .. })));
    assert!(matches!(retry::refusal("prompt is too long: 213423 tokens > 200000 maximum"), Failure::Full(_)));
    assert!(matches!(
        retry::refusal("tools.2: computer_toolset_20260801 is not supported"),
        Failure::Tools(_)
    ));
    assert!(matches!(
        retry::refusal("messages.1.content.0: Invalid `signature` in `thinking` block"),
        Failure::Thinking(_)
    ));
    assert!(matches!(retry::refusal("invalid x-api-key"), Failure::Final(_)));
    let failed = json!({"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "slow down"}}});
    assert!(matches!(
        read(ModelProtocol::OpenaiResponses, &stream(&[failed])).0,
        Err(Failure::Passing { .. })
    ));
    let later = Failure::Passing { why: String::new(), after: Some(Duration::from_secs(3)) };
    assert_ne!(later, Failure::Passing { why: String::new(), after: None });
}

#[test]
fn models_are_known_by_their_names() {
    let generation = |name: &str| traits::claude(name).unwrap().generation;
    assert_eq!(generation("claude-3-7-sonnet-20250219"), Generation::V20250124);
    assert_eq!(generation("claude-sonnet-4-20250514"), Generation::V20250124);
    assert_eq!(generation("claude-opus-4-5-20251101"), Generation::V20251124);
    assert_eq!(generation("claude-haiku-4-5"), Generation::V20250124);
    assert_eq!(generation("anthropic/claude-opus-4.6"), Generation::V20251124);
    assert_eq!(generation("claude-opus-5-5"), Generation::Toolset);
    assert_eq!(generation("claude-something-new"), Generation::Toolset);
    assert_eq!(traits::claude("claude-opus-4-7").unwrap().thinks, Thinks::Adaptive);
    assert_eq!(traits::claude("claude-sonnet-4-5").unwrap().thinks, Thinks::Budget);
    assert!(traits::claude("qwen3-vl").is_none());
    assert!(traits::reasons("o4-mini") && traits::reasons("gpt-5.2") && traits::reasons("gpt-6"));
    assert!(
        !traits::reasons("gpt-4.1") && !traits::reasons("gpt-5-chat-latest") && !traits::reasons("ollama")
    );
}

proptest! {
    #[test]
    fn pictures_always_fit_and_keep_their_proportions(width in 1_u32..6000, height in 1_u32..6000) {
        let (w, h) = STANDARD.fit(width, height);
        prop_assert!(w <= width && h <= height && w >= 1 && h >= 1);
        prop_assert!(w.max(h) <= STANDARD.long_edge);
        prop_assert!(w.div_ceil(28) * h.div_ceil(28) <= STANDARD.patches);
        let before = f64::from(width) * f64::from(h);
        let after = f64::from(height) * f64::from(w);
        prop_assert!((before - after).abs() <= f64::from(width.max(height)), "{width}x{height} became {w}x{h}");
    }

    #[test]
    fn no_stream_makes_a_reader_fall(text in "(data: (\\{\"type\":\"[a-z_.]{0,20}\",\"index\":[0-9]{1,3},\"choices\":\\[\\{\"delta\":[0-9]\\}\\]\\}|[a-z{}\\[\\]\"]{0,20})\n\n){0,8}") {
        for protocol in [ModelProtocol::Anthropic, ModelProtocol::OpenaiChat, ModelProtocol::OpenaiResponses] {
            let _ = read(protocol, &text);
        }
    }
}

#[test]
fn a_small_screen_is_shown_as_it_is() {
    assert_eq!(STANDARD.fit(1280, 800), (1280, 800));
    assert_eq!(Pictures { long_edge: 100, patches: 1000 }.fit(200, 100), (100, 50));
}
