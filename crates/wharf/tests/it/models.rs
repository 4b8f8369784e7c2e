//! Programs in a session ask a model with nothing but an address, and everybody sees what it used.

use std::path::{Path, PathBuf};
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::beyond::Session;
use crate::installation::{Installation, Runtime, SPACE, image_archive, possible_on};
use crate::on_every_runtime;

/// The vendors' own libraries. Their keys are dummies, their base URL is the gateway's.
const SDKS: &str = r#"
import sys
sys.path.insert(0, "/home/agent/sdks")
import anthropic, openai
claude = anthropic.Anthropic(base_url="http://gateway/demo", api_key="none")
ask = [{"role": "user", "content": "Hi"}]
whole = claude.messages.create(model="any", max_tokens=100, messages=ask)
print("messages:", whole.content[0].text, whole.usage.input_tokens)
with claude.messages.stream(model="any", max_tokens=100, messages=ask) as stream:
    print("stream:", "".join(stream.text_stream))
gpt = openai.OpenAI(base_url="http://gateway/demo/v1", api_key="none")
print("chat:", gpt.chat.completions.create(model="any", messages=ask).choices[0].message.content)
print("pieces:", "".join(c.choices[0].delta.content or "" for c in gpt.chat.completions.create(model="any", messages=ask, stream=True) if c.choices))
print("responses:", gpt.responses.create(model="any", input="Hi").output_text)
try:
    claude.messages.create(model="any", max_tokens=100, messages=ask)
except anthropic.RateLimitError as refused:
    print("refused:", "tokens_per_session" in str(refused))
"#;

/// The libraries and what they need, as an archive; made once for a build.
fn sdks() -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let archive = place.join("sdks-in-a-jail.tar");
    if !archive.exists() {
        let tree = tempfile::tempdir_in(place).unwrap();
        let done = |command: &mut Command| command.status().is_ok_and(|s| s.success());
        let fetched = done(
            Command::new("python3")
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--no-compile",
                    "--disable-pip-version-check",
                    "--target",
                ])
                .arg(tree.path().join("sdks"))
                .args(["anthropic==2.11.0", "openai==3.52.0"]),
        );
        let half = place.join(format!("sdks-{}.tar", std::process::id()));
        let made =
            fetched && done(Command::new("tar").arg("-C").arg(tree.path()).arg("-cf").arg(&half).arg("sdks"));
        let required = std::env::var("WHARF_TEST_REQUIRE").is_ok_and(|r| r.split(',').any(|w| w == "python"));
        assert!(made || !required, "WHARF_TEST_REQUIRE names python, but the libraries cannot be installed");
        if !made {
            eprintln!("skipped: the vendors' libraries cannot be installed");
            return None;
        }
        std::fs::rename(half, &archive).unwrap();
    }
    Some(archive)
}

on_every_runtime!(a_session_asks_a_model_and_message_session_and_space_show_what_it_used);

async fn a_session_asks_a_model_and_message_session_and_space_show_what_it_used(runtime: Runtime) {
    let (true, Some(archive), Some(sdks)) = (possible_on(runtime), image_archive("base"), sdks()) else {
        return;
    };
    let wharf = Installation::start_on(runtime).await;
    wharf.import(&archive, "base").await;
    let space = format!("/v1/spaces/{SPACE}");
    let usage =
        json!({ "input_tokens": 100, "output_tokens": 20, "cached_tokens": 5, "cache_write_tokens": 3 });
    let turns = json!([{ "say": [{ "type": "text", "text": "a model said this" }], "usage": usage }]);
    let provider = json!({
        "name": "demo", "protocol": "scripted", "script": { "turns": turns },
        "prices": { "*": { "input_micro_usd": 1_000_000, "output_micro_usd": 2_000_000 } },
        "budget": { "tokens_per_session": 700 },
    });
    wharf.post(&format!("{space}/providers"), provider).await;
    // Not even an egress of none keeps a session from its models.
    let session = Session::create(&wharf, "one", "base", json!({ "egress": "none" })).await;
    let tar = std::fs::read(sdks).unwrap();
    wharf.upload(&format!("{space}/sessions/one/files/home/agent?tar"), tar).await;

    let ask = "curl -sS http://gateway/demo/v1/messages -H 'content-type: application/json' \
        -d '{\"model\": \"any\", \"max_tokens\": 9, \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}'";
    let said =
        wharf.post(&format!("{space}/sessions/one/messages?wait=done"), json!({ "content": ask })).await;
    let reply = said["replies"][0]["content"][0]["text"].as_str().unwrap_or_default();
    assert!(reply.contains("a model said this"), "{said}");
    let message = wharf.get(&format!("{space}/sessions/one/messages/{}", said["seq"])).await;
    let used = &message["usage"];
    let of = |name: &str| used[name].as_u64().unwrap_or_else(|| panic!("{name}: {message}"));
    assert_eq!(
        [of("requests"), of("input_tokens"), of("output_tokens"), of("cached_tokens")],
        [1, 100, 20, 5]
    );
    assert_eq!((&used["model"], of("cost_micro_usd")), (&json!("scripted"), 148));

    session.ok(&format!("cat > sdks.py <<'END'{SDKS}END")).await;
    // Five more are answered; then the session's budget is used up.
    let (code, told) = session.run("python3 sdks.py").await;
    let wanted = "messages: a model said this 100\nstream: a model said this\nchat: a model said this\n\
        pieces: a model said this\nresponses: a model said this\nrefused: True";
    assert_eq!((code, told.as_str()), (0, wanted), "{}", wharf.log());

    let session = wharf.get(&format!("{space}/sessions/one")).await;
    assert_eq!(session["usage"]["requests"], 6, "{session}");
    let usage = wharf.get(&format!("{space}/usage?by=session,model")).await;
    assert_eq!(usage["model_tokens_per_day"]["used"], 768, "{usage}");
    let line: &Value = &usage["models"]["lines"][0];
    assert_eq!((&line["session_name"], &line["model"]), (&json!("one"), &json!("scripted")), "{usage}");
    wharf.call(Method::DELETE, &format!("{space}/sessions/one"), None, None).await.unwrap();
    wharf.finish();
}
