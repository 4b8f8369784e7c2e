//! A program in a real jail asks a model with nothing but an address, and everybody sees what it used.

use serde_json::json;

use crate::installation::{Installation, SPACE, possible};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_asks_a_model_and_message_session_and_space_show_what_it_used() {
    if !possible() {
        return;
    }
    let wharf = Installation::start().await;
    let space = format!("/v1/spaces/{SPACE}");
    let usage =
        json!({"input_tokens": 100, "output_tokens": 20, "cached_tokens": 5, "cache_write_tokens": 3});
    let turns = json!([{"say": [{"type": "text", "text": "a model said this"}], "usage": usage}]);
    let provider = json!({
        "name": "demo", "protocol": "scripted", "script": {"turns": turns},
        "prices": {"*": {"input_micro_usd": 1_000_000, "output_micro_usd": 2_000_000}},
        "budget": {"tokens_per_session": 128},
    });
    wharf.post(&format!("{space}/providers"), provider).await;
    // Not even an egress of none keeps a session from its models.
    let session = json!({"name": "one", "image": "tiny", "network": {"egress": "none"}});
    wharf.post(&format!("{space}/sessions?wait=ready"), session).await;
    let asks = |times: usize| {
        let line = "wget -q -O - --header 'content-type: application/json' \
            --post-data '{\"model\": \"any\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}' \
            http://gateway/demo/v1/messages 2>&1; echo \" ended $?\"\n";
        json!({"content": line.repeat(times)})
    };
    let said = wharf.post(&format!("{space}/sessions/one/messages?wait=done"), asks(1)).await;
    assert_eq!(said["state"], "done", "{said}");
    let reply = said["replies"][0]["content"][0]["text"].as_str().unwrap_or_default();
    assert!(reply.contains("a model said this") && reply.contains("ended 0"), "{said}");

    let message = wharf.get(&format!("{space}/sessions/one/messages/{}", said["seq"])).await;
    let used = &message["usage"];
    assert_eq!(used["requests"], 1, "{message}");
    assert_eq!(
        (&used["input_tokens"], &used["output_tokens"], &used["cached_tokens"]),
        (&json!(100), &json!(20), &json!(5))
    );
    assert_eq!((&used["model"], &used["cost_micro_usd"]), (&json!("scripted"), &json!(148)));

    // The session's budget is used up now, and the session learns it as an answer of its model.
    let refused = wharf.post(&format!("{space}/sessions/one/messages?wait=done"), asks(1)).await;
    let reply = refused["replies"][0]["content"][0]["text"].as_str().unwrap_or_default();
    assert!(reply.contains("429"), "{refused}");

    let session = wharf.get(&format!("{space}/sessions/one")).await;
    assert_eq!(
        (&session["usage"]["requests"], &session["usage"]["cost_micro_usd"]),
        (&json!(1), &json!(148))
    );
    let usage = wharf.get(&format!("{space}/usage?by=session,model")).await;
    assert_eq!(usage["model_tokens_per_day"]["used"], 128, "{usage}");
    assert_eq!(usage["models"]["lines"][0]["session_name"], "one", "{usage}");
    wharf.finish();
}
