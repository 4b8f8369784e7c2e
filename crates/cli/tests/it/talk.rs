//! Talking to a session: the turn is followed to its end, through a broken stream, and its outcome is the exit code.

use serde_json::{Value, json as value};

use crate::User;
use crate::peer::{Answer, Peer, Request, json, problem};

const TURN: &str = "0192d3a0-0000-7000-8000-00000000000a";

fn event(seq: i64, kind: &str, data: &Value) -> String {
    let data =
        value!({"seq": seq, "type": kind, "at": "2026-01-31T12:00:00.000Z", "turn": TURN, "data": data});
    format!("id: {seq}\nevent: {kind}\ndata: {data}\n\n")
}

fn stream(events: &str) -> Answer {
    Answer::Cut(format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{events}").into_bytes())
}

fn posted() -> Answer {
    json(
        202,
        &value!({"seq": 4, "role": "user", "content": [{"type": "text", "text": "ls"}], "turn": TURN, "state": "queued",
            "created_at": "2026-01-31T12:00:00.000Z"}),
    )
}

async fn send(last: String) -> (u8, String, Vec<Request>) {
    let peer = Peer::script(vec![
        posted(),
        stream(&(event(5, "turn.started", &value!({})) + "id: 6\ndata: {\"cut")),
        stream(&(event(6, "turn.output", &value!({"stream": "stdout", "text": "hello\n"})) + &last)),
    ])
    .await;
    let (code, said) = User::at(&peer.url).run(&["session", "send", "demo", "ls"]).await;
    (code, said, peer.seen())
}

#[tokio::test]
async fn a_turn_that_is_done_is_a_success_and_is_followed_without_a_gap() {
    let (code, said, seen) = send(event(7, "turn.done", &value!({"exit_code": 0}))).await;
    assert_eq!(code, 0, "{said}");
    let asked: Vec<_> = seen[1..].iter().map(|r| r.header("last-event-id").unwrap()).collect();
    assert_eq!(asked, ["4", "5"]);
    let body: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(body, value!({"content": [{"type": "text", "text": "ls"}]}));
}

#[tokio::test]
async fn a_script_that_failed_and_a_turn_that_failed_are_failures() {
    assert_eq!(send(event(7, "turn.done", &value!({"exit_code": 3, "is_error": true}))).await.0, 1);
    assert_eq!(send(event(7, "turn.failed", &value!({"reason": "timeout"}))).await.0, 1);
    assert_eq!(send(event(7, "turn.cancelled", &value!({}))).await.0, 1);
}

#[tokio::test]
async fn another_turns_end_is_not_this_ones() {
    let other = event(6, "turn.done", &value!({})).replace(TURN, "0192d3a0-0000-7000-8000-00000000000b");
    assert_eq!(send(other + &event(7, "turn.failed", &value!({"reason": "x"}))).await.0, 1);
}

#[tokio::test]
async fn nothing_to_say_is_not_sent() {
    let peer = Peer::script(vec![]).await;
    let (code, _) = User::at(&peer.url).run(&["session", "send", "demo", "  "]).await;
    assert_eq!((code, peer.seen().len()), (2, 0));
}

fn exec_stream(events: &[Value]) -> Answer {
    let frame = |e: &Value| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap());
    stream(&events.iter().map(frame).collect::<Vec<_>>().concat())
}

async fn exec(events: &[Value]) -> (u8, String) {
    let peer = Peer::script(vec![exec_stream(events)]).await;
    User::at(&peer.url).run(&["session", "exec", "demo", "--", "x"]).await
}

#[tokio::test]
async fn the_exit_code_of_a_command_is_ours() {
    let started = value!({"type": "started", "pid": 7});
    let exit = |code: Value, signal: Value, timed_out: bool| value!({"type": "exit", "exit_code": code, "signal": signal, "timed_out": timed_out, "duration_ms": 1});
    let output =
        value!({"type": "output", "stream": "stdout", "offset": 0, "data": "//4=", "encoding": "base64"});
    assert_eq!(exec(&[started.clone(), output, exit(value!(0), Value::Null, false)]).await.0, 0);
    assert_eq!(exec(&[started.clone(), exit(value!(42), Value::Null, false)]).await.0, 42);
    assert_eq!(exec(&[exit(Value::Null, value!(9), false)]).await.0, 137);
    assert_eq!(exec(&[exit(Value::Null, value!(9), true)]).await.0, 124);
    let (code, said) = exec(&[started]).await;
    assert_eq!(code, 6, "a command whose end was not seen has no exit code: {said}");
}

#[tokio::test]
async fn a_command_is_asked_for_as_it_was_written() {
    let peer = Peer::script(vec![problem(404, "not_found", false, vec![])]).await;
    let line = [
        "session", "exec", "demo", "-u", "root", "-e", "A=b=c", "-t", "2m", "-C", "/srv", "--", "echo",
        "--space", "a b",
    ];
    assert_eq!(User::at(&peer.url).run(&line).await.0, 3);
    let seen = &peer.seen()[0];
    assert_eq!(seen.line, "POST /v1/spaces/lab/sessions/demo/exec HTTP/1.1");
    assert_eq!(seen.header("accept"), Some("text/event-stream"));
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(body["argv"], value!(["echo", "--space", "a b"]));
    assert_eq!(
        (&body["user"], &body["timeout_seconds"], &body["cwd"]),
        (&value!("root"), &value!(120), &value!("/srv"))
    );
    assert_eq!(body["env"], value!({"A": "b=c"}));
}
