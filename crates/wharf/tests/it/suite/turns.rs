//! Messages, and what answers them.

use reqwest::Method;
use serde_json::json;

use super::{Place, reply, until};

pub async fn messages_are_answered_in_their_order_and_numbered_without_a_gap(place: Place) {
    let one = place.session("talk").await;
    let mut last = json!(null);
    for n in 0..6 {
        last = one
            .post("messages", json!({ "content": format!("sleep 0.1; echo {n} >> order; echo answer {n}") }))
            .await["seq"]
            .clone();
    }
    until("the last is answered", async || one.get(&format!("messages/{last}")).await["state"] == "done")
        .await;
    assert_eq!(one.ok("cat order | tr '\\n' ' '").await, "0 1 2 3 4 5");
    let messages = one.get("messages?limit=50").await;
    let replies: Vec<_> = messages["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["role"] == "agent")
        .map(|m| m["content"][0]["text"].as_str().unwrap().trim_end().to_owned())
        .collect();
    assert_eq!(replies, (0..6).map(|n| format!("answer {n}")).collect::<Vec<_>>());

    let failed = one.say("echo before; exit 7").await;
    assert!(failed.to_string().contains("before") && failed.to_string().contains('7'), "{failed}");
    // The log has no gap, and goes on anywhere.
    let log = async |after: usize| {
        let text = place.wharf.bytes(&one.at(&format!("events?after={after}&no_follow=true"))).await;
        let text = String::from_utf8(text).unwrap();
        text.lines()
            .filter_map(|l| l.strip_prefix("id: ").or(l.strip_prefix("id:"))?.trim().parse().ok())
            .collect::<Vec<usize>>()
    };
    one.is("idle").await;
    let all = log(0).await;
    // The first says where the reader stands.
    assert!(all.len() > 20 && all.iter().copied().eq(0..all.len()), "{all:?}");
    assert_eq!(log(11).await[..], all[11..]);
}

pub async fn a_running_turn_is_cancelled_with_all_it_started(place: Place) {
    let one = place.session("cancelled").await;
    let long = one.post("messages", json!({ "content": "echo so far; sleep 7201 & sleep 7201" })).await;
    let next = one.post("messages", json!({ "content": "echo next" })).await;
    let message = async |posted: &serde_json::Value| one.get(&format!("messages/{}", posted["seq"])).await;
    let sleeps = async || one.ok("ps | grep -c '[s]leep 7201' || true").await;
    until("it runs", async || message(&long).await["state"] == "running" && sleeps().await == "2").await;
    assert_eq!((one.state().await.as_str(), &message(&next).await["state"]), ("busy", &json!("queued")));
    one.post("cancel", json!({})).await;
    until("it is cancelled", async || message(&long).await["state"] == "cancelled").await;
    until("the next is answered", async || message(&next).await["state"] == "done").await;
    assert_eq!(sleeps().await, "0");
}

pub async fn a_turn_has_a_time_limit_of_its_own(place: Place) {
    let one = place.session_with("slow", json!({ "turn_timeout_seconds": 1 })).await;
    let said = one.say("echo so far; sleep 7202").await;
    assert_eq!(said["state"], "failed", "{said}");
    assert_eq!(one.ok("ps | grep -c '[s]leep 7202' || true").await, "0");
    assert_eq!(one.answer("echo soon").await, "soon\n");
}

/// Speaks the protocol of `command` agents in the shell: says how often it was asked, and hands on what is not its own.
const PROGRAM: &str = r#"cat > /home/agent/program <<'END'
n=0
while read -r line; do
    case "$line" in
        *'"type":"message"'*over*) printf '{"type":"handover","to":"second","content":[{"type":"text","text":"echo from the first"}]}\n' ;;
        *'"type":"message"'*) n=$((n+1)); printf '{"type":"text","text":"%s %s"}\n{"type":"done"}\n' "$1" $n ;;
    esac
done
END"#;

pub async fn programs_answer_too_and_are_addressed_by_name(place: Place) {
    let agent =
        |name: &str| json!({ "name": name, "kind": "command", "argv": ["sh", "/home/agent/program", name] });
    let more = json!({ "setup": PROGRAM, "agents": [agent("first"), { "name": "second", "kind": "shell" }, agent("third")] });
    let one = place.session_with("several", more).await;
    let to = async |name: &str, text: &str| {
        let said = one.post("messages?wait=done", json!({ "content": text, "to": name })).await;
        assert_eq!(said["state"], "done", "{said}");
        reply(&said)
    };
    // Its process is kept from turn to turn.
    assert_eq!(one.answer("hello").await, "first 1");
    assert_eq!(to("third", "hello").await, "third 1");
    assert_eq!(to("first", "hello").await, "first 2");
    assert_eq!(to("second", "echo shell").await, "shell\n");
    assert!(to("first", "over").await.contains("from the first"));
    let body = json!({ "content": "x", "to": "nobody" });
    let (status, problem) = one.call(Method::POST, "messages", body).await;
    assert_eq!(status, 422, "{problem}");
    one.close().await;
    assert_eq!(one.answer("hello").await, "first 1", "a new computer, a new process");
}

pub async fn a_message_wakes_a_closed_session_and_runs_once_under_its_key(place: Place) {
    let one = place.session("woken").await;
    one.close().await;
    let body = json!({ "content": "echo ran >> ran; cat ran" });
    let post = async || {
        let path = one.at("messages?wait=done");
        place.wharf.call(Method::POST, &path, Some(&body), Some("woken-key")).await.unwrap().1
    };
    let first = post().await;
    assert_eq!((first["state"].as_str(), reply(&first).as_str()), (Some("done"), "ran\n"), "{first}");
    assert_eq!(post().await["seq"], first["seq"]);
    assert_eq!(one.ok("cat ran").await, "ran");
    one.is("idle").await;
}
