//! Logging in, staying logged in, logging out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json as value;
use wharf_cli::context::FileLogin;
use wharf_client::{Client, TokenSource as _};
use wharf_domain::Time;

use crate::peer::{Answer, Peer, Request, json, problem};
use crate::{User, config_of, logged_in};

fn pair(n: usize) -> Answer {
    json(
        200,
        &value!({"access_token": format!("a{n}"), "refresh_token": format!("r{n}"), "token_type": "Bearer", "expires_in_seconds": 900}),
    )
}

fn server(request: &Request) -> Answer {
    let body = || serde_json::from_slice::<serde_json::Value>(&request.body).unwrap();
    let path = request.line.split([' ', '?']).nth(1).unwrap();
    match path {
        "/v1/auth/login" if body() == value!({"username": "alice", "password": "correct horse"}) => pair(1),
        "/v1/auth/login" => problem(401, "unauthenticated", false, vec![]),
        "/v1/auth/me" => json(
            200,
            &value!({"id": "0192d3a0-0000-7000-8000-000000000000", "principal": "user/alice", "grants": []}),
        ),
        "/v1/spaces" => json(
            200,
            &value!({"next_cursor": null, "items": [{"id": "0192d3a0-0000-7000-8000-000000000001", "name": "lab", "labels": {},
                "quotas": {}, "defaults": {}, "created_at": "2026-01-31T12:00:00.000Z", "updated_at": "2026-01-31T12:00:00.000Z",
                "resource_version": 1}]}),
        ),
        _ => json(200, &value!({})),
    }
}

#[tokio::test]
async fn a_login_is_remembered_with_the_only_space_and_without_the_password() {
    let peer = Peer::answering(server).await;
    let user = User::new();
    let file = user.file("password", "correct horse\n");
    let (code, said) = user.run(&["login", &peer.url, "--username", "alice", "--password-file", &file]).await;
    assert_eq!(code, 0, "{said}");
    let config = user.store().read().unwrap();
    let context = &config.contexts["local"];
    assert_eq!(config.current.as_deref(), Some("local"));
    assert_eq!((context.username.as_deref(), context.space.as_deref()), (Some("alice"), Some("lab")));
    assert_eq!(context.login.as_ref().unwrap().refresh_token, "r1");
    assert!(!std::fs::read_to_string(user.store().path().unwrap()).unwrap().contains("correct horse"));

    assert_eq!(user.run(&["logout"]).await.0, 0);
    let logout = peer.seen().pop().unwrap();
    assert_eq!(logout.line, "POST /v1/auth/logout HTTP/1.1");
    assert_eq!(logout.header("authorization"), Some("Bearer a1"));
    let text = std::fs::read_to_string(user.store().path().unwrap()).unwrap();
    assert!(!text.contains("a1") && !text.contains("r1"), "{text}");
    assert_eq!(user.run(&["space", "list"]).await.0, 4);
}

#[tokio::test]
async fn a_wrong_password_changes_nothing() {
    let peer = Peer::answering(server).await;
    let user = User::new();
    let file = user.file("password", "hunter2hunter2");
    let (code, said) = user.run(&["login", &peer.url, "--username", "alice", "--password-file", &file]).await;
    assert_eq!(code, 4, "{said}");
    assert!(!user.store().path().unwrap().exists());
    assert!(!said.contains("hunter2"));
}

#[tokio::test]
async fn an_api_token_from_a_file_is_kept_and_used() {
    let peer = Peer::answering(server).await;
    let user = User::new();
    let file = user.file("token", "wharf_abc\n");
    assert_eq!(user.run(&["login", &peer.url, "--token-file", &file, "--name", "ci"]).await.0, 0);
    assert_eq!(user.store().read().unwrap().contexts["ci"].token.as_deref(), Some("wharf_abc"));
    assert_eq!(user.run(&["whoami"]).await.0, 0);
    assert_eq!(peer.seen().last().unwrap().header("authorization"), Some("Bearer wharf_abc"));
}

/// Renews each refresh token once; a second use of one ends the login, as the real server has it.
async fn renewing() -> (Peer, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let n = count.clone();
    let peer = Peer::answering(move |request| {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let at = n.fetch_add(1, Ordering::SeqCst);
        if body["refresh_token"] == format!("r{at}") {
            pair(at + 1)
        } else {
            problem(401, "unauthenticated", false, vec![])
        }
    })
    .await;
    (peer, count)
}

fn expired(user: &User, url: &str) {
    user.store()
        .change(|c| {
            *c = config_of("one", vec![("one", logged_in(url, "a0", "r0", Time::from_millis(1_000)))]);
            Ok(())
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_that_run_at_once_renew_a_login_once() {
    let (peer, renewals) = renewing().await;
    let user = User::new();
    expired(&user, &peer.url);
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let login = FileLogin::new(user.store(), "one", Client::builder(&peer.url).build().unwrap());
            tokio::spawn(async move { login.token().await.map(|t| t.expose().to_vec()) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), b"a1");
    }
    assert_eq!(renewals.load(Ordering::SeqCst), 1);
    let login = user.store().read().unwrap().contexts["one"].login.clone().unwrap();
    assert_eq!((login.access_token.as_str(), login.refresh_token.as_str()), ("a1", "r1"));
}

#[tokio::test]
async fn a_login_the_server_ended_is_forgotten_and_says_so() {
    let peer = Peer::answering(|_| problem(401, "unauthenticated", false, vec![])).await;
    let user = User::new();
    expired(&user, &peer.url);
    let (code, said) = user.run(&["whoami"]).await;
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("wharf login"), "{said}");
    assert!(user.store().read().unwrap().contexts["one"].login.is_none());
}

#[tokio::test]
async fn a_server_that_is_away_does_not_cost_the_login() {
    let peer =
        Peer::answering(|_| problem(503, "unavailable", true, vec![("retry-after", "600".into())])).await;
    let user = User::new();
    expired(&user, &peer.url);
    assert_eq!(user.run(&["whoami"]).await.0, 6);
    assert_eq!(user.store().read().unwrap().contexts["one"].login.clone().unwrap().refresh_token, "r0");
}
