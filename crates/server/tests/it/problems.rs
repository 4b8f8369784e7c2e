//! Wrong input gets a problem that says what to do. The texts are what people read: reviewed as snapshots.

use std::fmt::Write as _;

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::lab::{Answer, Lab};

fn shown(answer: Answer) -> String {
    let mut body = answer.json();
    assert!(
        body["request_id"].as_str().is_some_and(|id| Some(id) == answer.header("x-request-id")),
        "{body}"
    );
    body.as_object_mut().unwrap().remove("request_id");
    body.as_object_mut().unwrap().remove("type");
    body.as_object_mut().unwrap().remove("title");
    serde_json::to_string_pretty(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_is_told_what_is_wrong() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let sessions = "/v1/spaces/lab/sessions";
    let raw = |text: &str, media: &str| {
        admin
            .request(Method::POST, sessions)
            .header("content-type", media)
            .body(Body::from(text.to_owned()))
            .unwrap()
    };
    let mut all = String::new();
    let mut add = |title: &str, answer: Answer| {
        let _ = write!(all, "# {title}\n{}\n\n", shown(answer));
    };
    add("an unknown field", admin.post(sessions, json!({"nam": "x"})).await);
    add("an unknown field further in", admin.post(sessions, json!({"resources": {"memory": 5}})).await);
    add(
        "a field of the wrong type",
        admin.post(sessions, json!({"resources": {"memory_mib": "much"}})).await,
    );
    add("a number out of range", admin.post(sessions, json!({"resources": {"memory_mib": 3}})).await);
    add("a name that is none", admin.post(sessions, json!({"name": "Upper Case"})).await);
    add("a word that is none", admin.post(sessions, json!({"agent": {"kind": "shel"}})).await);
    add("an agent without a program", admin.post(sessions, json!({"agent": {"kind": "command"}})).await);
    add("an image that is not there", admin.post(sessions, json!({"image": "nothing"})).await);
    add(
        "hosts to allow where none is asked for",
        admin.post(sessions, json!({"network": {"egress": "none", "allow": ["example.org"]}})).await,
    );
    add("a secret that nobody could inject", admin.post(sessions, json!({"secrets": ["key"]})).await);
    add("a character nobody can keep", admin.post(sessions, json!({"metadata": {"a": ["b", "\0"]}})).await);
    add("a fork of nothing", admin.post(sessions, json!({"from": {}})).await);
    add("a fork of what is not there", admin.post(sessions, json!({"from": {"session": "gone"}})).await);
    add("a missing field", admin.post("/v1/users", json!({"name": "u"})).await);
    add("a short password", admin.post("/v1/users", json!({"name": "u", "password": "short"})).await);
    add("no JSON", admin.send(raw("{\"name\": \n  nope}", "application/json")).await);
    add("half of JSON", admin.send(raw("{\"name\":", "application/json")).await);
    add("another media type", admin.send(raw("name=x", "application/x-www-form-urlencoded")).await);
    add("an unknown parameter", admin.get("/v1/spaces/lab/sessions?lable=a").await);
    add("a parameter out of range", admin.get("/v1/users?limit=501").await);
    add("a parameter that is no number", admin.get("/v1/users?limit=many").await);
    add("a parameter given twice", admin.get("/v1/users?limit=1&limit=2").await);
    add("a cursor of nobody", admin.get("/v1/users?cursor=abc").await);
    add("a label that is none", admin.get("/v1/users?labels=a%20b").await);
    add("a path that is no name", admin.get("/v1/spaces/No%20Name").await);
    add("a path that is not there", admin.get("/v1/spces").await);
    add("a method that is not there", admin.call(Method::PUT, "/v1/users", None, &[]).await);
    add("a space that is not there", admin.get("/v1/spaces/nowhere/sessions").await);
    add(
        "a version that is none",
        admin.call(Method::PATCH, "/v1/spaces/lab", Some(json!({})), &[("if-match", "7")]).await,
    );
    add(
        "a version that is past",
        admin.call(Method::PATCH, "/v1/spaces/lab", Some(json!({})), &[("if-match", "\"7\"")]).await,
    );
    add("a space twice", admin.post("/v1/spaces", json!({"name": "lab"})).await);
    add(
        "a role nobody has",
        admin.post("/v1/role-bindings", json!({"role": "boss", "principal": "user/admin"})).await,
    );
    add("a rule that cannot match", admin.post("/v1/roles", json!({"name": "r", "rules": [{"groups": ["core"], "resources": ["sesions"], "verbs": ["get"]}]})).await);
    add("an exec of nothing", admin.post("/v1/spaces/lab/sessions/s/exec", json!({})).await);
    add("a position of nothing", admin.get("/v1/spaces/lab/events?after=zero").await);
    add("no credential", lab.nobody().get("/v1/users").await);
    add("a credential of nobody", lab.with_token("wharf_nobody").get("/v1/users").await);
    add(
        "a wrong password",
        lab.nobody().post("/v1/auth/login", json!({"username": "admin", "password": "guess"})).await,
    );
    insta::assert_snapshot!("problems", all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_names_it() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let long = "x".repeat(7 * 1024 * 1024);
    let problem =
        admin.post("/v1/spaces/lab/sessions", json!({"setup": long})).await.refused(413, "too_large");
    assert!(problem["detail"].as_str().unwrap().contains("BODY_BYTES"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_internal_stays_inside() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    lab.store.close().await;
    let answer = admin.get("/v1/users").await;
    assert!(answer.header("retry-after").is_some());
    let problem: Value = answer.refused(503, "unavailable");
    assert_eq!(problem["retryable"], true);
    assert!(!problem.to_string().to_lowercase().contains("pool"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_there_names_those_that_are() {
    let lab = Lab::new().await;
    let answer = lab.nobody().call(Method::PUT, "/v1/users", None, &[]).await;
    assert_eq!(answer.header("allow"), Some("GET,HEAD,POST"));
    answer.refused(405, "method_not_allowed");
}
