//! Commands that act: what is sent, what is refused before anything is sent, how several are treated.

use serde_json::{Value, json as value};

use crate::User;
use crate::peer::{Peer, Request, json, problem};

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

#[tokio::test]
async fn several_are_all_tried_and_the_first_failure_is_the_exit_code() {
    let peer = Peer::answering(|r| match r.line.split(' ').nth(1).unwrap().rsplit('/').next().unwrap() {
        "gone" => problem(404, "not_found", false, vec![]),
        "held" => problem(409, "in_use", false, vec![]),
        _ => json(202, &value!({})),
    })
    .await;
    let user = User::at(&peer.url);
    assert_eq!(user.run(&["session", "delete", "one", "gone", "held", "two", "--yes"]).await.0, 3);
    assert_eq!(peer.seen().len(), 4);
    assert_eq!(user.run(&["session", "delete", "held"]).await.0, 5);
}

#[tokio::test]
async fn several_are_not_deleted_without_a_yes_and_a_dry_run_deletes_nothing() {
    let peer = Peer::answering(|_| json(202, &value!({}))).await;
    let user = User::at(&peer.url);
    let (code, said) = user.run(&["session", "delete", "one", "two"]).await;
    assert_eq!(code, 2);
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(user.run(&["secret", "delete", "one", "two", "--dry-run"]).await.0, 0);
    assert_eq!(user.run(&["session", "create", "x", "--dry-run"]).await.0, 0);
    assert!(peer.seen().is_empty());
}

#[tokio::test]
async fn a_session_is_asked_for_as_it_was_described() {
    let peer = Peer::answering(|_| problem(422, "quota_exceeded", false, vec![])).await;
    let user = User::at(&peer.url);
    let setup = user.file("setup.sh", "apt-get update\n");
    let line = [
        "session",
        "create",
        "demo",
        "--wait",
        "--cpu",
        "1.5",
        "--memory",
        "2Gi",
        "--disk",
        "512",
        "--pids",
        "99",
        "-e",
        "A=1",
        "-l",
        "team=ml",
        "--idle-timeout",
        "never",
        "--turn-timeout",
        "2h",
        "--setup",
        &setup,
        "--prompt",
        "hi",
        "--image",
        "base",
        "--no-root",
        "--from-session",
        "old",
        "--include",
        "files",
        "--metadata",
        "{\"k\": [1]}",
    ];
    assert_eq!(user.run(&line).await.0, 1);
    let seen = &peer.seen()[0];
    assert_eq!(seen.line, "POST /v1/spaces/lab/sessions?wait=ready HTTP/1.1");
    assert_eq!(
        body(seen),
        value!({"name": "demo", "image": "base", "allow_root": false,
            "resources": {"cpu_millis": 1500, "memory_mib": 2048, "disk_mib": 512, "pids": 99},
            "env": {"A": "1"}, "labels": {"team": "ml"}, "idle_timeout_seconds": 0, "turn_timeout_seconds": 7200,
            "setup": "apt-get update\n", "prompt": [{"type": "text", "text": "hi"}], "metadata": {"k": [1]},
            "from": {"session": "old", "include": {"files": true, "messages": false}}})
    );
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_before_anything_is_sent() {
    let peer = Peer::script(vec![]).await;
    let user = User::at(&peer.url);
    for line in [
        vec!["session", "create", "Not_A_Name"],
        vec!["session", "create", "x", "--cpu", "much"],
        vec!["session", "create", "x", "--agent", "command"],
        vec!["session", "create", "x", "--include", "files"],
        vec!["session", "create", "x", "--metadata", "[1]"],
        vec!["session", "create", "x", "-l", "team"],
        vec!["session", "list", "--labels", "a b=c"],
        vec!["session", "cp", "a", "b"],
        vec!["session", "cp", "one:a", "two:b"],
        vec!["session", "cp", "one:/a/../b", "x"],
        vec!["session", "exec", "x"],
        vec!["session", "shell", "x"],
        vec!["binding", "create", "--role", "viewer", "--to", "user/a"],
        vec!["binding", "create", "--role", "viewer", "--to", "alice", "--everywhere"],
        vec!["role", "create", "r"],
        vec!["role", "create", "r", "--rule", "fly:sessions"],
        vec!["api", "POST", "spaces", "{broken"],
        vec!["api", "FETCH", "spaces"],
        vec!["can-i", "fly", "sessions"],
        vec!["login", "--password", "x"],
    ] {
        let (code, said) = user.run(&line).await;
        assert_eq!(code, 2, "{line:?}: {said}");
    }
    assert!(peer.seen().is_empty(), "{:?}", peer.seen());
}

#[tokio::test]
async fn a_secret_that_is_there_gets_a_new_value_and_the_value_is_sent_byte_for_byte() {
    let secret = value!({"id": "0192d3a0-0000-7000-8000-000000000000", "name": "key", "version": 2, "labels": {},
        "created_at": "2026-01-31T12:00:00.000Z", "updated_at": "2026-01-31T12:00:00.000Z", "resource_version": 2});
    let peer = Peer::answering(move |r| {
        if r.line.starts_with("POST") {
            problem(409, "already_exists", false, vec![])
        } else {
            json(200, &secret)
        }
    })
    .await;
    let user = User::at(&peer.url);
    let file = user.dir.path().join("v");
    std::fs::write(&file, [0xff, b'\n']).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(user.run(&["secret", "set", "key", "--file", file]).await.0, 0);
    let seen = peer.seen();
    assert_eq!(seen[1].line, "PATCH /v1/spaces/lab/secrets/key HTTP/1.1");
    assert_eq!(body(&seen[1]), value!({"value": "/wo=", "encoding": "base64"}));
    assert_eq!(user.run(&["secret", "set", "key", "--new", "--file", file]).await.0, 5);
    assert_eq!(user.run(&["secret", "set", "key", "--file", &user.file("empty", "")]).await.0, 2);
}

#[tokio::test]
async fn defaults_of_a_space_are_changed_without_losing_the_others_or_a_change_between() {
    let space = value!({"id": "0192d3a0-0000-7000-8000-000000000000", "name": "lab", "labels": {}, "quotas": {},
        "defaults": {"image": "base", "resources": {"cpu_millis": 500}}, "created_at": "2026-01-31T12:00:00.000Z",
        "updated_at": "2026-01-31T12:00:00.000Z", "resource_version": 5});
    let peer = Peer::answering(move |_| json(200, &space)).await;
    let line =
        ["space", "update", "lab", "--default-memory", "1Gi", "--quota", "sessions=none", "-l", "old-"];
    assert_eq!(User::at(&peer.url).run(&line).await.0, 0);
    let patch = peer.seen().pop().unwrap();
    assert_eq!(patch.header("if-match"), Some("\"5\""));
    assert_eq!(
        body(&patch),
        value!({"labels": {"old": null}, "quotas": {"sessions": null},
            "defaults": {"image": "base", "resources": {"cpu_millis": 500, "memory_mib": 1024}}})
    );
}

#[tokio::test]
async fn no_is_an_answer_and_an_exit_code() {
    let peer = Peer::script(vec![
        json(200, &value!({"allowed": true, "binding": "b", "role": "admin", "reason": "r"})),
        json(200, &value!({"allowed": false, "reason": "r"})),
    ])
    .await;
    let user = User::at(&peer.url);
    assert_eq!(user.run(&["can-i", "create", "sessions"]).await.0, 0);
    assert_eq!(
        body(&peer.seen()[0]),
        value!({"verb": "create", "group": "sessions", "resource": "sessions", "space": "lab"})
    );
    assert_eq!(user.run(&["access-review", "create", "users"]).await.0, 4);
    assert_eq!(body(&peer.seen()[1]), value!({"verb": "create", "group": "access", "resource": "users"}));
}

#[tokio::test]
async fn a_broken_chain_is_a_failure() {
    let peer = Peer::script(vec![
        json(200, &value!({"ok": true, "entries": 3, "unchained": 0, "head": "ab"})),
        json(200, &value!({"ok": false, "entries": 3, "unchained": 0, "fault": "entry 2 was changed"})),
    ])
    .await;
    let user = User::at(&peer.url);
    assert_eq!(user.run(&["audit", "verify"]).await.0, 0);
    let (code, said) = user.run(&["audit", "verify"]).await;
    assert_eq!(code, 1);
    assert!(said.contains("entry 2 was changed"), "{said}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (code, said) = User::at(&url).run(&["session", "list"]).await;
    assert_eq!(code, 6);
    assert!(said.contains(&url) && said.contains("wharf up"), "{said}");
}

#[tokio::test]
async fn a_provider_is_asked_for_as_it_was_described() {
    let peer = Peer::answering(|_| problem(422, "invalid_reference", false, vec![])).await;
    let user = User::at(&peer.url);
    let script = user.file("turns.json", r#"{"turns": [{"say": [{"type": "text", "text": "hi"}]}]}"#);
    let line = [
        "provider",
        "create",
        "anthropic",
        "--key-secret",
        "key",
        "--price",
        "claude-*=3,15,0.30,3.75",
        "--price",
        "x=.5,1",
        "--budget",
        "tokens_per_day=2_000_000",
        "--budget",
        "cost_per_session=2.50",
        "--model",
        "claude-*",
        "--header",
        "anthropic-beta=a=b",
        "--retries",
        "3",
    ];
    assert_eq!(user.run(&line).await.0, 2);
    let line = ["provider", "create", "demo", "--protocol", "scripted", "--script", &script];
    assert_eq!(user.run(&line).await.0, 2);
    let line = [
        "provider",
        "update",
        "anthropic",
        "--price",
        "x=none",
        "--budget",
        "cost_per_day=none",
        "--any-model",
        "--header",
        "a=",
    ];
    assert_eq!(user.run(&line).await.0, 2);
    let seen = peer.seen();
    assert_eq!(
        body(&seen[0]),
        value!({"name": "anthropic", "secret": "key", "models": ["claude-*"], "headers": {"anthropic-beta": "a=b"},
            "prices": {"claude-*": {"input_micro_usd": 3_000_000, "output_micro_usd": 15_000_000,
                                    "cached_micro_usd": 300_000, "cache_write_micro_usd": 3_750_000},
                       "x": {"input_micro_usd": 500_000, "output_micro_usd": 1_000_000}},
            "budget": {"tokens_per_day": 2_000_000, "cost_micro_usd_per_session": 2_500_000}, "retries": 3})
    );
    assert_eq!(body(&seen[1])["script"]["turns"][0]["say"][0]["text"], "hi");
    assert_eq!(
        body(&seen[2]),
        value!({"models": [], "prices": {"x": null}, "budget": {"cost_micro_usd_per_day": null}, "headers": {"a": null}})
    );
    for line in [
        vec!["provider", "create", "x", "--protocol", "gemini"],
        vec!["provider", "create", "x", "--price", "m=3"],
        vec!["provider", "create", "x", "--price", "m=3,x"],
        vec!["provider", "create", "x", "--budget", "cost_per_day=1.1234567"],
        vec!["provider", "create", "x", "--budget", "tokens_per_year=1"],
        vec!["provider", "create", "x", "--base-url", "nowhere"],
        vec!["provider", "update", "x", "--any-model", "--model", "m"],
        vec!["space", "usage", "--by", "week"],
    ] {
        let (code, said) = user.run(&line).await;
        assert_eq!(code, 2, "{line:?}: {said}");
    }
    assert_eq!(peer.seen().len(), 3);
}

#[tokio::test]
async fn a_connection_to_an_ssh_server_is_made_and_changed_by_what_is_said_of_it() {
    const PRINT: &str = "SHA256:XD4mm1PJhqLACObvMwjWspl0SEWTlFTkfAUcg4S2B6s";
    let shown = |inject: Value| {
        value!({ "id": "00000000-0000-0000-0000-000000000001", "name": "forge", "match": { "host": "git.example.org" },
            "inject": inject, "labels": {}, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
            "resource_version": 7 })
    };
    let was = value!({ "secret": "key", "ssh": { "user": "git", "host_keys": [PRINT], "push": false } });
    let answer = shown(was.clone());
    let peer = Peer::answering(move |_| json(200, &answer)).await;
    let user = User::at(&peer.url);
    let line = ["connection", "create", "forge", "--host", "git.example.org", "--key-secret", "key"];
    let with = |more: &[&'static str]| [&line[..], more].concat();
    let (code, said) = user.run(&with(&["--host-key", PRINT])).await;
    assert!(code == 2 && said.contains("--ssh"), "{code} {said}");
    let (code, said) = user.run(&with(&["--ssh", "--host-key", "forge"])).await;
    assert!(code == 2 && said.contains("ssh-keyscan"), "{code} {said}");
    let (code, said) = user.run(&with(&["--basic", "git", "--push"])).await;
    assert!(code == 2 && said.contains("--ssh"), "{code} {said}");
    assert!(peer.seen().is_empty());
    let (code, said) = user.run(&with(&["--ssh", "--ssh-user", "git", "--host-key", PRINT])).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(body(&peer.seen()[0])["inject"], was);
    // What is not said stays.
    let (code, said) = user.run(&["connection", "update", "forge", "--push"]).await;
    assert_eq!(code, 0, "{said}");
    let pushes = value!({ "secret": "key", "ssh": { "user": "git", "host_keys": [PRINT], "push": true } });
    assert_eq!(body(peer.seen().last().unwrap())["inject"], pushes);
    let (code, said) = user.run(&["connection", "update", "forge", "--path", "/team"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(body(peer.seen().last().unwrap()).get("inject"), None);
    let (code, said) = user.run(&["connection", "list"]).await;
    assert!(code != 0 || said.contains("ssh git"), "{said}");
}
