//! Trying again: when it may help, as long as nothing was said, and not for ever.

use std::time::{Duration, Instant};

use serde_json::json;

use super::lab::Lab;
use super::peer::Peer;
use super::streams::{END, START, WORDS, anthropic, ask, openai};

const OVERLOADED: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";

#[tokio::test]
async fn a_provider_that_is_busy_once_is_asked_again() {
    let peer = Peer::new(|n, _, mut line| async move {
        match n {
            0 => line.answer("429 Too Many Requests", &["retry-after-ms: 30"], "{}").await,
            // Hangs up without a word.
            1 => {}
            _ => {
                line.json(
                    "200 OK",
                    &json!({"content": [], "usage": {"input_tokens": 3, "output_tokens": 4}}),
                )
                .await;
            }
        }
    })
    .await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    let answer = lab.post("/anthropic/v1/messages", &ask(false)).await;
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap();
    let bodies: Vec<_> = peer.heard().into_iter().map(|h| h.body).collect();
    assert_eq!(bodies.len(), 3);
    assert!(bodies.iter().all(|b| *b == bodies[0]), "the same each time");
    assert_eq!(lab.requests().await, ["done 3 3/4"], "counted once");
}

#[tokio::test]
async fn a_stream_that_begins_with_overload_is_asked_for_again() {
    let peer = Peer::new(|n, _, mut line| async move {
        line.stream().await;
        if n == 0 {
            line.chunk(OVERLOADED).await;
        } else {
            for piece in [START, WORDS, END] {
                line.chunk(piece).await;
            }
        }
        line.end().await;
    })
    .await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    let text = lab.post("/anthropic/v1/messages", &ask(true)).await.text().await.unwrap();
    assert_eq!(text, format!("{START}{WORDS}{END}"));
    assert_eq!(lab.requests().await, ["done 2 25/15"]);
}

/// What providers that speak like OpenAI begin a stream with when they cannot answer it.
const BUSY: [(&str, &[&str]); 3] = [
    (
        "/openai/v1/chat/completions",
        &["data: {\"error\":{\"message\":\"busy\",\"type\":\"server_error\",\"code\":null}}\n\n"],
    ),
    (
        "/openai/v1/responses",
        // In two pieces, the first of which says nothing yet.
        &[
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"status\":\"in_progress\"}}\n\n",
            "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\",\"message\":\"\"}}}\n\n",
        ],
    ),
    (
        "/openai/v1/responses",
        &[
            "event: error\ndata: {\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"slow down\"}\n\n",
        ],
    ),
];
const CHAT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n";
const RESPONSE: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{}}\n\n\
    event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}\n\n";

#[tokio::test]
async fn so_is_a_chat_or_a_response_whose_first_word_is_that_the_provider_is_busy() {
    for (path, busy) in BUSY {
        let good = if path.ends_with("responses") { RESPONSE } else { CHAT };
        let peer = Peer::new(move |n, _, mut line| async move {
            line.stream().await;
            if n == 0 {
                for piece in busy {
                    line.chunk(piece).await;
                    // So that they are two pieces to who reads.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            } else {
                line.chunk(good).await;
            }
            line.end().await;
        })
        .await;
        let lab = Lab::new().await;
        lab.provider("openai", openai(&peer.url())).await;
        let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}});
        let text = lab.post(path, &body).await.text().await.unwrap();
        assert_eq!(text, good, "{busy:?}");
        assert_eq!(lab.requests().await, ["done 2 3/4"], "{busy:?}");
    }
}

#[tokio::test]
async fn when_the_tries_are_used_up_the_providers_answer_is_given() {
    let peer = Peer::new(|_, _, mut line| async move {
        line.answer("529 Overloaded", &["retry-after: 0", "content-type: application/json"], "{\"n\": 1}")
            .await;
    })
    .await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    let answer = lab.post("/anthropic/v1/messages", &ask(false)).await;
    assert_eq!(answer.status(), 529);
    assert_eq!(answer.text().await.unwrap(), "{\"n\": 1}");
    assert_eq!(peer.heard().len(), 3);
    assert_eq!(lab.requests().await, ["failed 3 0/0"]);
}

#[tokio::test]
async fn a_provider_that_asks_for_much_patience_is_not_waited_for() {
    let peer = Peer::new(|_, _, mut line| async move {
        line.answer("429 Too Many Requests", &["retry-after: 3600"], "{}").await;
    })
    .await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    let begun = Instant::now();
    let answer = lab.post("/anthropic/v1/messages", &ask(false)).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (429, &"3600".parse().unwrap()));
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(peer.heard().len(), 1);
}

#[tokio::test]
async fn a_provider_that_is_away_is_said_to_be() {
    let lab = Lab::new().await;
    // Nobody listens there: the port was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    lab.provider("anthropic", anthropic(&format!("http://{free}"))).await;
    lab.change("anthropic", |spec| spec.retries = 1).await;
    let answer = lab.post("/anthropic/v1/messages", &ask(false)).await;
    assert_eq!(answer.status(), 502);
    let error = answer.json().await;
    assert_eq!(error["error"]["type"], "api_error");
    assert!(error["error"]["message"].as_str().unwrap().contains(&free.to_string()), "{error}");
    assert_eq!(lab.requests().await, ["failed 2 0/0"]);
}

#[tokio::test]
async fn a_private_address_is_refused_and_the_setting_that_allows_it_is_named() {
    let peer = Peer::always("200 OK", json!({})).await;
    let lab = Lab::with(wharf_domain::quota::Quotas::default(), &[]).await;
    lab.provider("local", json!({"protocol": "openai", "base_url": peer.url(), "retries": 2})).await;
    let answer = lab.post("/local/v1/chat/completions", &json!({"model": "m", "messages": []})).await;
    assert_eq!(answer.status(), 403);
    let error = answer.json().await;
    let said = error["error"]["message"].as_str().unwrap();
    assert!(said.contains("gateway.allow_private"), "{error}");
    assert!(peer.heard().is_empty());
    assert_eq!(lab.requests().await, ["failed 1 0/0"], "asked once: it will not change by itself");
}
