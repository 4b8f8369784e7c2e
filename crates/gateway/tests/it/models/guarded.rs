//! Guardrails on what goes to a model and on what comes back.

use http::StatusCode;
use serde_json::{Value, json};
use wharf_domain::guard::Rule;
use wharf_domain::{Labels, NameOrId};
use wharf_store::NewPolicy;

use super::lab::{Lab, name};

impl Lab {
    async fn policy(&self, called: &str, rules: Value) {
        let rules: Vec<Rule> = serde_json::from_value(rules).unwrap();
        wharf_guard::check(&rules).unwrap();
        let system = self.store.system(wharf_store::Actor::Setup);
        let mut scope = self.store.scope(system.caller(), &NameOrId::Id(self.space)).await.unwrap();
        let permit = scope.policies().allow(&name(called)).await.unwrap();
        let new = NewPolicy { name: name(called), labels: Labels::default(), priority: 100, rules };
        scope.policies().create(&permit, new).await.unwrap();
        scope.commit().await.unwrap();
    }
}

async fn lab(script: Value) -> Lab {
    let lab = Lab::new().await;
    lab.provider("demo", json!({"protocol": "scripted", "retries": 0, "script": {"turns": script}})).await;
    lab
}

fn ask(text: &str, stream: bool) -> Value {
    json!({"model": "any", "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": text}]})
}

/// Words of a stream of Messages, put together.
fn words(stream: &str) -> String {
    let data = stream.split("\n\n").filter_map(|e| e.lines().find_map(|l| l.strip_prefix("data: ")));
    let events = data.map(|d| serde_json::from_str::<Value>(d).unwrap());
    events.filter_map(|e| e["delta"]["text"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn what_users_and_tools_say_is_redacted_on_its_way_and_what_the_model_said_is_not() {
    let lab = lab(json!([
        {"expect": "my key is [redacted] ok", "say": [{"type": "text", "text": "one"}]},
        {"expect": "result [redacted]", "say": [{"type": "text", "text": "two"}]},
    ]))
    .await;
    lab.policy("p", json!([{"phase": "input", "match": {"regex": "sk-[a-z]{8}"}, "action": "redact"}])).await;
    let said = lab.post("/demo/v1/messages", &ask("my key is sk-abcdefgh ok", false)).await.json().await;
    assert_eq!(said["content"][0]["text"], "one", "{said}");
    let second = json!({"model": "any", "max_tokens": 9, "messages": [
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "sk-abcdefgh is mine"}, {"type": "tool_use", "id": "t", "name": "bash", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "result sk-abcdefgh"}]}]},
    ]});
    let said = lab.post("/demo/v1/messages", &second).await.json().await;
    assert_eq!(said["content"][0]["text"], "two", "{said}");
}

#[tokio::test]
async fn a_request_that_a_rule_denies_is_refused_in_the_vendors_words() {
    let lab = lab(json!([{"say": [{"type": "text", "text": "fine"}]}])).await;
    lab.policy(
        "p",
        json!([{"phase": "input", "match": {"regex": "(?i)project x"}, "action": "deny", "reason": "not for models"}]),
    )
    .await;
    let answer = lab.post("/demo/v1/messages", &ask("tell of Project X", true)).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.headers()["x-should-retry"], "false");
    let said = answer.json().await;
    assert_eq!(said["error"]["message"], "not for models (policy p)");
    assert_eq!(lab.post("/demo/v1/messages", &ask("project y", false)).await.status(), StatusCode::OK);
    let chat = json!({"model": "any", "messages": [{"role": "user", "content": "project x"}]});
    let said = lab.post("/demo/v1/chat/completions", &chat).await.json().await;
    assert_eq!(said["error"]["code"], "guardrail");
}

#[tokio::test]
async fn an_answer_is_redacted_over_every_protocol_whole_or_streamed() {
    let lab = lab(json!([{"say": [{"type": "text", "text": "the number of the card is 4111 1111 1111 1111, keep it"}]}])).await;
    lab.policy(
        "p",
        json!([{"phase": "output", "match": {"regex": "(\\d{4} ){3}\\d{4}"}, "action": "redact"}]),
    )
    .await;
    let wanted = "the number of the card is [redacted], keep it";
    let said = lab.post("/demo/v1/messages", &ask("?", false)).await.json().await;
    assert_eq!(said["content"][0]["text"], wanted);
    let text = lab.post("/demo/v1/messages", &ask("?", true)).await.text().await.unwrap();
    assert_eq!(words(&text), wanted, "though no piece of the stream holds all of it");
    assert!(!text.contains("4111") && text.contains("event: message_stop"), "{text}");
    let chat = |stream: bool| json!({"model": "any", "stream": stream, "messages": [{"role": "user", "content": "?"}]});
    let said = lab.post("/demo/v1/chat/completions", &chat(false)).await.json().await;
    assert_eq!(said["choices"][0]["message"]["content"], wanted);
    let text = lab.post("/demo/v1/chat/completions", &chat(true)).await.text().await.unwrap();
    assert!(!text.contains("1111") && text.contains("[redacted]") && text.contains("[DONE]"), "{text}");
    let responses = |stream: bool| json!({"model": "any", "stream": stream, "input": "?"});
    let text = lab.post("/demo/v1/responses", &responses(false)).await.text().await.unwrap();
    assert!(!text.contains("1111") && text.contains("[redacted]"), "{text}");
    let text = lab.post("/demo/v1/responses", &responses(true)).await.text().await.unwrap();
    assert!(
        !text.contains("1111") && text.contains("[redacted]") && text.contains("response.completed"),
        "{text}"
    );
    // It was counted as it came.
    assert_eq!(lab.requests().await.iter().filter(|r| r.starts_with("done 1")).count(), 6);
}

#[tokio::test]
async fn an_answer_that_a_rule_denies_does_not_come_in() {
    let lab = lab(json!([{"say": [{"type": "text", "text": "rm -rf is my advice"}]}])).await;
    lab.policy("p", json!([{"phase": "output", "match": {"regex": "rm -rf"}, "action": "deny"}])).await;
    let answer = lab.post("/demo/v1/messages", &ask("?", true)).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.json().await["error"]["message"], "policy p forbids it");
}

const SECRET: &str = "4111 1111 1111 1111";

/// Everything that a stream of Messages makes, as a client's library puts it together: by the place of each block.
fn blocks(stream: &str) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    for data in stream.split("\n\n").filter_map(|e| e.lines().find_map(|l| l.strip_prefix("data: "))) {
        let event: Value = serde_json::from_str(data).unwrap();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(event["index"], blocks.len(), "{stream}");
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                let block = &mut blocks[usize::try_from(event["index"].as_u64().unwrap()).unwrap()];
                for (from, to) in [("text", "text"), ("thinking", "thinking"), ("partial_json", "json")] {
                    if let Some(piece) = event["delta"][from].as_str() {
                        block[to] = json!(format!("{}{piece}", block[to].as_str().unwrap_or_default()));
                    }
                }
            }
            _ => {}
        }
    }
    blocks
}

#[tokio::test]
async fn thoughts_and_arguments_are_judged_and_redacted_as_far_as_they_can_be() {
    let tool = json!({"type": "tool_use", "name": "pay", "input": {"card": SECRET, "quote": "a \"b\" \u{e9}", "n": 4}});
    let lab = lab(json!([{"say": [
        {"type": "thinking", "text": "harmless"}, {"type": "thinking", "text": format!("the card is {SECRET}, I think")},
        {"type": "text", "text": "I pay"}, tool,
    ]}]))
    .await;
    lab.policy(
        "p",
        json!([{"phase": "output", "match": {"regex": "(\\d{4} ){3}\\d{4}"}, "action": "redact"}]),
    )
    .await;
    let input = json!({"card": "[redacted]", "quote": "a \"b\" \u{e9}", "n": 4});

    // Signed, a thought goes as a whole; the others stay as they were signed.
    let said = lab.post("/demo/v1/messages", &ask("?", false)).await.json().await;
    let content = said["content"].as_array().unwrap();
    assert_eq!(content.len(), 3, "{said}");
    assert_eq!((&content[0]["thinking"], &content[0]["signature"]), (&json!("harmless"), &json!("scripted")));
    assert_eq!((&content[1]["text"], &content[2]["input"]), (&json!("I pay"), &input));
    let text = lab.post("/demo/v1/messages", &ask("?", true)).await.text().await.unwrap();
    let said = blocks(&text);
    assert_eq!(said.len(), 3, "{text}");
    assert_eq!((&said[0]["thinking"], &said[1]["text"]), (&json!("harmless"), &json!("I pay")));
    assert_eq!(serde_json::from_str::<Value>(said[2]["json"].as_str().unwrap()).unwrap(), input);
    assert!(!text.contains("4111"), "{text}");

    let chat = |stream: bool| json!({"model": "any", "stream": stream, "messages": [{"role": "user", "content": "?"}]});
    let said = lab.post("/demo/v1/chat/completions", &chat(false)).await.json().await;
    let arguments = said["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), input);
    let responses = |stream: bool| json!({"model": "any", "stream": stream, "input": "?"});
    for (path, body) in [
        ("chat/completions", chat(false)),
        ("chat/completions", chat(true)),
        ("responses", responses(false)),
        ("responses", responses(true)),
    ] {
        let text = lab.post(&format!("/demo/v1/{path}"), &body).await.text().await.unwrap();
        assert!(text.contains("[redacted]") && !text.contains("1111"), "{path}: {text}");
    }
}

#[tokio::test]
async fn a_thought_that_a_rule_denies_keeps_the_answer_out() {
    let lab = lab(json!([{"say": [{"type": "thinking", "text": "let us delete everything"}, {"type": "text", "text": "ok"}]}])).await;
    lab.policy("p", json!([{"phase": "output", "match": {"regex": "delete everything"}, "action": "deny"}]))
        .await;
    for stream in [false, true] {
        assert_eq!(lab.post("/demo/v1/messages", &ask("?", stream)).await.status(), StatusCode::FORBIDDEN);
        let body = json!({"model": "any", "stream": stream, "input": "?"});
        assert_eq!(lab.post("/demo/v1/responses", &body).await.status(), StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn an_answer_that_takes_long_begins_before_it_is_judged() {
    let lab = lab(json!([
        {"when": "slow", "delay_ms": 7000, "say": [{"type": "text", "text": "the word"}]},
        {"when": "bad", "delay_ms": 7000, "say": [{"type": "text", "text": "rm -rf"}]},
        {"say": [{"type": "text", "text": "never"}]},
    ]))
    .await;
    lab.policy("p", json!([{"phase": "output", "match": {"regex": "rm -rf"}, "action": "deny"}])).await;
    let slow = async {
        let begun = std::time::Instant::now();
        let mut answer = lab.post("/demo/v1/messages", &ask("slow", true)).await;
        assert!(begun.elapsed() < std::time::Duration::from_millis(6900), "{:?}", begun.elapsed());
        assert_eq!(answer.status(), StatusCode::OK);
        let first = answer.piece().await.unwrap().unwrap();
        assert!(first.starts_with("event: ping\n"), "{first:?}");
        let rest = answer.text().await.unwrap();
        assert_eq!(words(&rest), "the word");
    };
    let bad = async {
        let answer = lab.post("/demo/v1/messages", &ask("bad", true)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let text = answer.text().await.unwrap();
        assert!(!text.contains("rm -rf") && text.contains("policy p forbids it"), "{text}");
        assert!(text.contains("event: error") && text.contains("permission_error"), "{text}");
    };
    tokio::join!(slow, bad);
}

#[tokio::test]
async fn who_decides_about_a_request_is_told_where_it_is_not_shown_whole() {
    let lab = lab(json!([{"say": [{"type": "text", "text": "fine"}]}])).await;
    lab.policy("p", json!([{"phase": "input", "match": {"regex": "ask me"}, "action": "approve"}])).await;
    let long = format!("ask me {}", "y".repeat(2000));
    let patience = std::time::Duration::from_millis(1500);
    for text in ["ask me", &long] {
        let waits = async { lab.post("/demo/v1/messages", &ask(text, false)).await };
        assert!(tokio::time::timeout(patience, waits).await.is_err(), "nobody decided");
    }
    let subjects: Vec<Value> =
        sqlx::query_scalar("select subject from approvals order by length(subject::text)")
            .fetch_all(&mut lab.db.owner().await)
            .await
            .unwrap();
    assert_eq!(subjects[0], json!({"texts": ["ask me"]}));
    assert_eq!((&subjects[1]["truncated"], &subjects[1]["count"]), (&json!(true), &json!(1)));
}
