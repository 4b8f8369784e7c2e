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
