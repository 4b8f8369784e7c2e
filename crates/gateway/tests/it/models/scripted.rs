//! The scripted provider over its three protocols: the same turns, the same count, nothing kept.

use serde_json::{Value, json};

use super::lab::Lab;

fn script() -> Value {
    json!({"turns": [
        {"say": [{"type": "thinking", "text": "Let me look."}, {"type": "text", "text": "I look at the files of this computer."},
                 {"type": "tool_use", "name": "bash", "input": {"command": "ls"}}],
         "usage": {"input_tokens": 100, "output_tokens": 20, "cached_tokens": 5, "cache_write_tokens": 3}},
        {"expect": "notes.txt", "say": [{"type": "text", "text": "There is one file."}]},
    ]})
}

async fn lab() -> Lab {
    let lab = Lab::new().await;
    lab.provider("demo", json!({"protocol": "scripted", "retries": 0, "script": script()})).await;
    lab
}

/// The data of all events of a stream.
fn events(text: &str) -> Vec<Value> {
    let data = text.split("\n\n").filter_map(|e| e.lines().find_map(|l| l.strip_prefix("data: ")));
    data.filter(|d| *d != "[DONE]").map(|d| serde_json::from_str(d).unwrap()).collect()
}

#[tokio::test]
async fn over_messages() {
    let lab = lab().await;
    let ask = |messages: Value, stream: bool| json!({"model": "any", "max_tokens": 9, "messages": messages, "stream": stream});
    let first = json!([{"role": "user", "content": "Which files are there?"}]);
    let answer = lab.post("/demo/v1/messages", &ask(first.clone(), false)).await;
    assert_eq!(answer.headers()["x-wharf-provider"], "scripted");
    let said = answer.json().await;
    assert_eq!((&said["model"], &said["stop_reason"]), (&json!("scripted"), &json!("tool_use")));
    assert_eq!(said["content"][0]["thinking"], "Let me look.");
    let call = &said["content"][2];
    assert_eq!((&call["name"], &call["input"]), (&json!("bash"), &json!({"command": "ls"})));
    assert_eq!(said["usage"]["cache_read_input_tokens"], 5);

    // The same as a stream, put together.
    let text = lab.post("/demo/v1/messages", &ask(first.clone(), true)).await.text().await.unwrap();
    let streamed = events(&text);
    let spoken: String = streamed.iter().filter_map(|e| e["delta"]["text"].as_str()).collect();
    assert_eq!(spoken, "I look at the files of this computer.");
    let arguments: String = streamed.iter().filter_map(|e| e["delta"]["partial_json"].as_str()).collect();
    assert_eq!(arguments, "{\"command\":\"ls\"}");
    assert_eq!(streamed.iter().filter(|e| e["delta"]["text"].is_string()).count(), 2, "in pieces");

    let result = json!([{"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "notes.txt"}]}]);
    let second = json!([first[0], {"role": "assistant", "content": said["content"]}, {"role": "user", "content": result}]);
    let said = lab.post("/demo/v1/messages", &ask(second, false)).await.json().await;
    assert_eq!(
        (&said["content"][0]["text"], &said["stop_reason"]),
        (&json!("There is one file."), &json!("end_turn"))
    );

    let report = lab.report().await;
    let line = &report.lines[0];
    assert_eq!(
        (line.provider.as_deref(), line.model.as_deref(), line.requests),
        (Some("demo"), Some("scripted"), 3)
    );
    assert_eq!((line.tokens.cached, line.tokens.cache_write), (10, 6));
}

#[tokio::test]
async fn over_chat_completions() {
    let lab = lab().await;
    let ask = |messages: Value, stream: bool| json!({"model": "any", "messages": messages, "stream": stream});
    let first = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which files are there?"}]);
    let said = lab.post("/demo/v1/chat/completions", &ask(first.clone(), false)).await.json().await;
    let choice = &said["choices"][0];
    assert_eq!((&said["model"], &choice["finish_reason"]), (&json!("scripted"), &json!("tool_calls")));
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"command\":\"ls\"}");
    assert_eq!(said["usage"]["prompt_tokens"], 108);

    let text = lab.post("/demo/v1/chat/completions", &ask(first.clone(), true)).await.text().await.unwrap();
    let spoken: String =
        events(&text).iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(spoken, "I look at the files of this computer.");
    assert!(!text.contains("prompt_tokens"), "nobody asked for it");
    assert_eq!(lab.requests().await, ["done 1 103/20", "done 1 103/20"]);

    let mut wrong = first.as_array().unwrap().clone();
    wrong.push(choice["message"].clone());
    wrong.push(json!({"role": "tool", "tool_call_id": "x", "content": "nothing here"}));
    let refused = lab.post("/demo/v1/chat/completions", &ask(json!(wrong), false)).await;
    assert_eq!(refused.status(), 400);
    let why = refused.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert!(why.contains("scripted") && why.contains("notes.txt") && why.contains("nothing here"), "{why}");
    assert_eq!(lab.requests().await[2], "failed 1 0/0");
}

#[tokio::test]
async fn over_responses_with_the_whole_conversation_or_from_the_answer_before() {
    let lab = lab().await;
    let said =
        lab.post("/demo/v1/responses", &json!({"model": "any", "input": "Which files?"})).await.json().await;
    assert_eq!((&said["model"], &said["status"]), (&json!("scripted"), &json!("completed")));
    let call = &said["output"][2];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("bash")));
    let output = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "notes.txt"});
    let mut whole = vec![json!({"role": "user", "content": "Which files?"})];
    whole.extend(said["output"].as_array().unwrap().iter().cloned());
    whole.push(output.clone());
    for body in [
        json!({"model": "any", "input": whole}),
        json!({"model": "any", "input": [output], "previous_response_id": said["id"]}),
    ] {
        let said = lab.post("/demo/v1/responses", &body).await.json().await;
        assert_eq!(said["output"][0]["content"][0]["text"], "There is one file.", "{said}");
    }
    let stream = json!({"model": "any", "input": "Which files?", "stream": true});
    let text = lab.post("/demo/v1/responses", &stream).await.text().await.unwrap();
    let streamed = events(&text);
    let numbers: Vec<u64> = streamed.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..streamed.len() as u64).collect::<Vec<_>>());
    assert_eq!(streamed.last().unwrap()["type"], "response.completed");
    assert_eq!(lab.requests().await.iter().filter(|r| r.starts_with("done 1 103/20")).count(), 2);
}

#[tokio::test]
async fn a_conversation_past_the_end_is_an_error_and_a_failure_is_played_as_written() {
    let lab = Lab::new().await;
    let turns =
        json!([{"say": [{"type": "text", "text": "one"}]}, {"fail": {"status": 529, "message": "busy"}}]);
    lab.provider("demo", json!({"protocol": "scripted", "retries": 0, "script": {"turns": turns}})).await;
    let said = |n: usize| {
        let mut messages = vec![json!({"role": "user", "content": "go"})];
        for _ in 0..n {
            messages.push(json!({"role": "assistant", "content": "said"}));
            messages.push(json!({"role": "user", "content": "go"}));
        }
        json!({"model": "any", "messages": messages})
    };
    assert_eq!(lab.post("/demo/v1/messages", &said(0)).await.status(), 200);
    let failed = lab.post("/demo/v1/messages", &said(1)).await;
    assert_eq!(failed.status(), 529);
    assert_eq!(failed.json().await["error"]["type"], "overloaded_error");
    let over = lab.post("/demo/v1/messages", &said(2)).await;
    assert_eq!(over.status(), 400);
    assert!(over.json().await["error"]["message"].as_str().unwrap().contains("2 turns"));
}

#[tokio::test]
async fn a_scripted_providers_budget_bites_like_any_other() {
    let lab = lab().await;
    lab.change("demo", |spec| spec.budget.tokens_per_session = Some(128)).await;
    let ask = json!({"model": "any", "messages": [{"role": "user", "content": "Which files are there?"}]});
    assert_eq!(lab.post("/demo/v1/messages", &ask).await.text().await.map(|_| ()).ok(), Some(()));
    let refused = lab.post("/demo/v1/messages", &ask).await;
    assert_eq!(refused.status(), 429);
    assert!(!refused.headers().contains_key("retry-after"), "no day brings it back");
    assert!(refused.json().await["error"]["message"].as_str().unwrap().contains("tokens_per_session"));
}
