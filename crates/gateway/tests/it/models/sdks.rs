//! The vendors' own Python libraries with nothing but a base URL and a dummy key, through the proxy a session has.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::lab::Lab;
use super::peer::Peer;
use super::streams::{END, START, WORDS, anthropic, openai};

/// Pinned: a newer release may speak differently, and then the gateway is looked at on purpose.
const RELEASES: [&str; 2] = ["anthropic==2.11.0", "openai==3.52.0"];

const STORIES: [&str; 12] = [
    "anthropic_whole",
    "anthropic_stream",
    "anthropic_error",
    "anthropic_budget",
    "openai_whole",
    "openai_stream",
    "openai_budget",
    "no_provider",
    "broken_stream",
    "scripted_messages",
    "scripted_chat",
    "scripted_responses",
];

/// An environment of the build's own, made once.
fn python() -> Option<PathBuf> {
    let venv = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdks");
    let program = venv.join("bin/python");
    let ready = venv.join(RELEASES.join("-"));
    if !ready.exists() {
        let made =
            Command::new("python3").args(["-m", "venv"]).arg(&venv).status().is_ok_and(|s| s.success())
                && Command::new(venv.join("bin/pip"))
                    .args(["install", "--quiet"])
                    .args(RELEASES)
                    .status()
                    .is_ok_and(|s| s.success());
        let required = std::env::var("WHARF_TEST_REQUIRE").is_ok_and(|r| r.split(',').any(|w| w == "python"));
        assert!(made || !required, "WHARF_TEST_REQUIRE names python, but {RELEASES:?} cannot be installed");
        if !made {
            eprintln!("skipped: {RELEASES:?} cannot be installed");
            return None;
        }
        std::fs::write(ready, "").unwrap();
    }
    Some(program)
}

async fn claude() -> Peer {
    Peer::new(|_, heard, mut line| async move {
        let asked = heard.json();
        if asked["model"] == "refused" {
            let error = json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no such model"}});
            return line.json("400 Bad Request", &error).await;
        }
        if asked["stream"] == true {
            line.stream().await;
            for piece in [START, WORDS, END] {
                line.chunk(piece).await;
            }
            return line.end().await;
        }
        let message = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "end_turn",
            "stop_sequence": null, "content": [{"type": "text", "text": "Hello, you there"}],
            "usage": {"input_tokens": 25, "output_tokens": 15},
        });
        line.json("200 OK", &message).await;
    })
    .await
}

async fn gpt() -> Peer {
    Peer::new(|_, heard, mut line| async move {
        let asked = heard.json();
        let usage = json!({"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35});
        let around = |choices: serde_json::Value, usage: serde_json::Value| {
            json!({"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "gpt-x", "choices": choices, "usage": usage})
        };
        if asked["stream"] != true {
            let choice = json!({"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi yourself"}});
            return line.json("200 OK", &around(json!([choice]), usage)).await;
        }
        line.stream().await;
        for (text, finish) in [("Hi ", json!(null)), ("yourself", json!(null)), ("", json!("stop"))] {
            let choice = json!({"index": 0, "delta": {"content": text}, "finish_reason": finish});
            line.chunk(&format!("data: {}\n\n", around(json!([choice]), json!(null)))).await;
        }
        if asked["stream_options"]["include_usage"] == true {
            line.chunk(&format!("data: {}\n\n", around(json!([]), usage))).await;
        }
        line.chunk("data: [DONE]\n\n").await;
        line.end().await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vendors_own_libraries_work_with_a_base_url_alone() {
    let Some(python) = tokio::task::spawn_blocking(python).await.unwrap() else { return };
    let lab = Lab::new().await;
    let (claude, gpt) = (claude().await, gpt().await);
    let broken = Peer::new(|_, _, mut line| async move {
        line.stream().await;
        line.chunk(START).await;
    })
    .await;
    lab.provider("anthropic", anthropic(&claude.url())).await;
    lab.provider("openai", openai(&gpt.url())).await;
    lab.provider("broken", anthropic(&broken.url())).await;
    let turns = json!([
        {"say": [{"type": "thinking", "text": "Let me look."}, {"type": "text", "text": "I look."},
                 {"type": "tool_use", "name": "bash", "input": {"command": "ls"}}]},
        {"expect": "notes.txt", "say": [{"type": "text", "text": "There is one file."}]},
    ]);
    lab.provider("demo", json!({"protocol": "scripted", "retries": 0, "script": {"turns": turns}})).await;
    let spent = json!({"turns": [{"say": [{"type": "text", "text": "no"}]}], "repeat": true});
    let none = json!({"tokens_per_day": 0});
    lab.provider("spent", json!({"protocol": "scripted", "retries": 0, "script": spent, "budget": none}))
        .await;
    let proxy = format!("http://127.0.0.1:{}", lab.proxy().await);
    let mut run = Command::new(python);
    run.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/models/sdks.py"))
        .args(STORIES)
        .env_clear()
        .env("HTTP_PROXY", &proxy)
        .env("http_proxy", &proxy)
        .env("NO_PROXY", "localhost,127.0.0.1,::1");
    let out = tokio::task::spawn_blocking(move || run.output().unwrap()).await.unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let wanted = STORIES.map(|s| format!("ok {s}\n")).concat();
    assert_eq!(said, wanted, "{wrong}");
    for (peer, header, key) in
        [(&claude, "x-api-key", "sk-canary"), (&gpt, "authorization", "Bearer sk-canary")]
    {
        for heard in peer.heard() {
            assert_eq!(heard.header(header), Some(key), "{heard:?}");
        }
    }
    let report = lab.report().await;
    let of = |name: &str| report.lines.iter().find(|l| l.provider.as_deref() == Some(name)).unwrap();
    assert_eq!((of("openai").tokens.input, of("openai").tokens.output), (90, 15));
    assert_eq!(report.lines.iter().filter(|l| l.provider.as_deref() == Some("anthropic")).count(), 2);
}
