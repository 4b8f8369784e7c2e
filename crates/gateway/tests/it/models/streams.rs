//! Answers on their way: piece by piece, byte for byte, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::lab::{Lab, SOON};
use super::peer::Peer;

pub const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-x\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":7,\"cache_read_input_tokens\":100,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
pub const WORDS: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello, you there\"}}\n\n";
pub const END: &str = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":15}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

pub fn anthropic(url: &str) -> Value {
    json!({
        "protocol": "anthropic", "base_url": url, "retries": 2,
        "prices": {"claude-*": {"input_micro_usd": 3_000_000, "output_micro_usd": 15_000_000, "cached_micro_usd": 300_000}},
    })
}

pub fn openai(url: &str) -> Value {
    json!({"protocol": "openai", "base_url": url, "retries": 2})
}

pub fn ask(stream: bool) -> Value {
    json!({"model": "claude-x", "max_tokens": 100, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
}

#[tokio::test]
async fn a_piece_arrives_before_the_next_is_sent_and_every_byte_as_it_was() {
    let go_on = Arc::new(Notify::new());
    let gate = go_on.clone();
    let peer = Peer::new(move |_, _, mut line| {
        let gate = gate.clone();
        async move {
            line.stream().await;
            line.chunk(START).await;
            gate.notified().await;
            // Cut in the middle of a line: nothing waits for its rest.
            line.chunk(&WORDS[..40]).await;
            gate.notified().await;
            line.chunk(&WORDS[40..]).await;
            line.chunk(END).await;
            line.end().await;
        }
    })
    .await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    let mut answer = lab.post("/anthropic/v1/messages", &ask(true)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["x-wharf-provider"], "anthropic");
    assert_eq!(answer.piece().await.unwrap().unwrap(), START);
    go_on.notify_one();
    assert_eq!(answer.piece().await.unwrap().unwrap(), WORDS[..40]);
    go_on.notify_one();
    let rest = answer.text().await.unwrap();
    assert_eq!(rest, format!("{}{END}", &WORDS[40..]));
    // On the disk before the end was told.
    assert_eq!(lab.requests().await, ["done 1 25/15"]);
    let report = lab.report().await;
    let line = &report.lines[0];
    assert_eq!((line.provider.as_deref(), line.model.as_deref()), (Some("anthropic"), Some("claude-x")));
    let t = line.tokens;
    assert_eq!((t.input, t.output, t.cached, t.cache_write), (25, 15, 100, 7));
    // 25 * 3 + 15 * 15 + 100 * 0.3 + 7 * 3 micro-dollars.
    assert_eq!(line.cost_micro_usd, 351);
}

#[tokio::test]
async fn the_key_is_put_in_outside_and_the_sessions_own_is_not_passed_on() {
    let usage = json!({"type": "message", "content": [], "usage": {"input_tokens": 3, "output_tokens": 4}});
    let peer = Peer::always("200 OK", usage).await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    let headers = [
        ("x-api-key", "dummy"),
        ("authorization", "Bearer dummy"),
        ("anthropic-version", "2023-06-01"),
        ("accept-encoding", "gzip, br"),
        ("content-type", "application/json"),
    ];
    let body = "{ \"model\":\"claude-x\",\"z\":1,  \"a\":2}";
    let answer = lab.send("/anthropic/v1/messages?beta=true", &headers, Some(body.to_owned())).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json().await["usage"]["output_tokens"], 4);
    let heard = &peer.heard()[0];
    assert_eq!(heard.line, "POST /v1/messages?beta=true HTTP/1.1");
    assert_eq!(heard.body, body.as_bytes(), "the body is passed on as it was spelt");
    assert_eq!(heard.header("x-api-key"), Some("sk-canary"));
    assert_eq!(heard.header("authorization"), None);
    assert_eq!(heard.header("accept-encoding"), Some("identity"));
    assert_eq!(heard.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(heard.header("host"), Some(peer.address.to_string().as_str()));
    assert_eq!(lab.requests().await, ["done 1 3/4"]);
}

#[tokio::test]
async fn the_turn_and_the_session_show_what_the_gateway_counted() {
    let usage = json!({"type": "message", "content": [], "usage": {"input_tokens": 3, "output_tokens": 4}});
    let peer = Peer::always("200 OK", usage).await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    let turn = lab.turn(1).await;
    for _ in 0..2 {
        lab.post("/anthropic/v1/messages", &ask(false)).await.text().await.unwrap();
    }
    let usage = lab.turn_usage(turn).await;
    assert_eq!(usage["requests"], 2, "{usage}");
    assert_eq!((usage["input_tokens"].as_u64(), usage["output_tokens"].as_u64()), (Some(6), Some(8)));
    assert_eq!(usage["model"], "claude-x");
    assert_eq!(lab.session_usage().await["cost_micro_usd"], 2 * (3 * 3 + 4 * 15));
}

fn chat_chunk(delta: &Value, finish: &Value) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
    format!(
        "data: {}\n\n",
        json!({"id": "c", "object": "chat.completion.chunk", "choices": [choice], "usage": null})
    )
}

async fn chat_peer() -> Peer {
    Peer::new(|_, heard, mut line| async move {
        line.stream().await;
        line.chunk(&chat_chunk(&json!({"content": "Hi"}), &Value::Null)).await;
        line.chunk(&chat_chunk(&json!({}), &json!("stop"))).await;
        if heard.json()["stream_options"]["include_usage"] == true {
            let usage = json!({"prompt_tokens": 30, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 20}});
            line.chunk(&format!("data: {}\n\n", json!({"choices": [], "usage": usage}))).await;
        }
        line.chunk("data: [DONE]\n\n").await;
        line.end().await;
    })
    .await
}

#[tokio::test]
async fn the_usage_of_a_chat_stream_is_asked_for_and_hidden_from_who_did_not() {
    let peer = chat_peer().await;
    let lab = Lab::new().await;
    lab.provider("openai", openai(&peer.url())).await;
    let body = json!({"model": "gpt", "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let text = lab.post("/openai/v1/chat/completions", &body).await.text().await.unwrap();
    assert!(!text.contains("prompt_tokens"), "{text}");
    assert!(text.contains("\"Hi\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(peer.heard()[0].json()["stream_options"], json!({"include_usage": true}));
    assert_eq!(peer.heard()[0].header("authorization"), Some("Bearer sk-canary"));
    assert_eq!(lab.requests().await, ["done 1 10/5"]);

    let mut body = body;
    body["stream_options"] = json!({"include_usage": true});
    let text = lab.post("/openai/v1/chat/completions", &body).await.text().await.unwrap();
    assert!(text.contains("prompt_tokens"), "{text}");
    assert_eq!(lab.requests().await.len(), 2);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_for_the_session_and_is_charged() {
    let peer = Peer::new(|n, _, mut line| async move {
        line.stream().await;
        line.chunk(START).await;
        line.chunk(WORDS).await;
        if n == 1 {
            // A proper end of the bytes, and none of the events.
            line.end().await;
        }
    })
    .await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    for n in 1..=2 {
        let answer = lab.post("/anthropic/v1/messages", &ask(true)).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.text().await.is_err(), "no client takes it for whole");
        let cut = "cut~ 1 25/4";
        lab.until_requests(&vec![cut; n]).await;
    }
    assert_eq!(peer.heard().len(), 2, "nothing is tried again once the session has seen a piece");
}

#[tokio::test]
async fn who_hangs_up_is_charged_what_was_seen_and_the_provider_is_told() {
    let told = Arc::new(AtomicBool::new(false));
    let flag = told.clone();
    let peer = Peer::new(move |_, _, mut line| {
        let flag = flag.clone();
        async move {
            line.stream().await;
            line.chunk(START).await;
            line.chunk(WORDS).await;
            line.hung_up().await;
            flag.store(true, Ordering::SeqCst);
        }
    })
    .await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    let mut answer = lab.post("/anthropic/v1/messages", &ask(true)).await;
    let mut seen = String::new();
    while !seen.contains("Hello") {
        seen.push_str(&answer.piece().await.unwrap().unwrap());
    }
    drop(answer);
    lab.until_requests(&["left~ 1 25/4"]).await;
    tokio::time::timeout(SOON, async {
        while !told.load(Ordering::SeqCst) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the provider's connection is closed");
}

#[tokio::test]
async fn who_hangs_up_before_there_is_an_answer_pays_for_what_the_model_had_to_read() {
    for stream in [false, true] {
        let heard = Arc::new(Notify::new());
        let (tell, gone) = (heard.clone(), Arc::new(Notify::new()));
        let closed = gone.clone();
        let peer = Peer::new(move |_, _, mut line| {
            let (tell, closed) = (tell.clone(), closed.clone());
            async move {
                tell.notify_one();
                line.hung_up().await;
                closed.notify_one();
            }
        })
        .await;
        let lab = Lab::new().await;
        lab.provider("anthropic", anthropic(&peer.url())).await;
        let body = ask(stream);
        tokio::select! {
            _ = lab.post("/anthropic/v1/messages", &body) => panic!("nobody answered it"),
            () = heard.notified() => {}
        }
        // A quarter of its bytes.
        let tokens = body.to_string().len().div_ceil(4);
        lab.until_requests(&[&format!("left~ 1 {tokens}/0")]).await;
        assert_eq!(lab.report().await.lines[0].cost_micro_usd, 3 * tokens as u64);
        tokio::time::timeout(SOON, gone.notified()).await.expect("the provider's connection is closed");
    }
}

#[tokio::test]
async fn who_hangs_up_while_nobody_works_for_him_pays_nothing() {
    let peer = Peer::new(|_, _, mut line| async move {
        line.answer("529 Overloaded", &["retry-after: 20"], "{}").await;
    })
    .await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    let body = ask(false);
    let refused = async {
        while peer.heard().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // The answer is on its way to the gateway, which then waits for twenty seconds.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    };
    tokio::select! {
        _ = lab.post("/anthropic/v1/messages", &body) => panic!("it has not been answered"),
        () = refused => {}
    }
    lab.until_requests(&["left 1 0/0"]).await;
}

#[tokio::test]
async fn what_costs_nothing_is_passed_on_and_not_counted() {
    let peer = Peer::always("200 OK", json!({"data": []})).await;
    let lab = Lab::new().await;
    lab.provider("openai", openai(&format!("{}/v1", peer.url()))).await;
    let answer = lab.send("/openai/v1/models", &[], None).await;
    assert_eq!(answer.json().await, json!({"data": []}));
    assert_eq!(peer.heard()[0].line, "GET /v1/models HTTP/1.1");
    assert!(lab.requests().await.is_empty());
}

#[tokio::test]
async fn errors_of_the_provider_come_through_and_cost_nothing() {
    let error = json!({"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: too many"}});
    let told = error.clone();
    let peer = Peer::always("400 Bad Request", told).await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    let answer = lab.post("/anthropic/v1/messages", &ask(false)).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.json().await, error);
    assert_eq!(lab.requests().await, ["failed 1 0/0"]);
    assert_eq!(peer.heard().len(), 1);
}
