//! Commands in a session.

use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::lab::{Lab, until};

const DESK: &str = "/v1/spaces/lab/sessions/desk";

#[tokio::test(flavor = "multi_thread")]
async fn a_command_answers_with_what_it_wrote_and_how_it_ended() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let exec = format!("{DESK}/exec");
    let out = admin
        .post(&exec, json!({"command": "cat; echo oops >&2; echo $COLOUR; exit 3", "stdin": "in\n", "env": {"COLOUR": "red"}}))
        .await
        .expect(200);
    assert_eq!(out["exit_code"], 3);
    assert_eq!(out["stdout"], "in\nred\n");
    assert_eq!(out["stderr"], "oops\n");
    assert_eq!(out["timed_out"], false);
    let bytes = admin.post(&exec, json!({"argv": ["printf", "\\377"]})).await.expect(200);
    assert_eq!((bytes["stdout"].as_str(), bytes["stdout_encoding"].as_str()), (Some("/w=="), Some("base64")));
    let late = admin.post(&exec, json!({"argv": ["sleep", "60"], "timeout_seconds": 1})).await.expect(200);
    assert_eq!(late["timed_out"], true);
    let log = admin.get("/v1/audit?verb=exec").await.expect(200);
    assert_eq!(log["items"].as_array().unwrap().len(), 3);
    assert!(!log.to_string().contains("COLOUR"), "arguments and environment may hold secrets");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_session_is_restored_by_a_command() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    admin.call(Method::POST, &format!("{DESK}/close"), None, &[]).await.expect(202);
    until(|| async { admin.get(DESK).await.expect(200)["state"] == "closed" }).await;
    let out = admin.post(&format!("{DESK}/exec"), json!({"argv": ["echo", "back"]})).await.expect(200);
    assert_eq!(out["stdout"], "back\n");
    assert_eq!(admin.get(DESK).await.expect(200)["state"], "idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computer_that_died_is_replaced_under_the_command() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    let made = lab.session(&admin, "desk").await;
    admin.post(&format!("{DESK}/exec"), json!({"command": "echo kept > file"})).await.expect(200);
    lab.desk.kill(made["id"].as_str().unwrap().parse().unwrap());
    let out = admin.post(&format!("{DESK}/exec"), json!({"argv": ["cat", "file"]})).await.expect(200);
    assert_eq!(out["stdout"], "kept\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_streams_while_the_command_runs() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let body = json!({"command": "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two"});
    let mut events = admin.stream(Method::POST, &format!("{DESK}/exec"), Some(body), &[]).await;
    assert_eq!(events.next().await.unwrap().event, "started");
    assert_eq!(events.next().await.unwrap().data["data"], "one\n");
    admin.post(&format!("{DESK}/exec"), json!({"argv": ["touch", "go"]})).await.expect(200);
    assert_eq!(events.next().await.unwrap().data["data"], "two\n");
    let exit = events.next().await.unwrap();
    assert_eq!((exit.event.as_str(), exit.data["exit_code"].as_i64()), ("exit", Some(0)));
    assert!(events.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_ends_the_command() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let exec = format!("{DESK}/exec");
    let body = json!({"command": "echo $$ > pid; sleep 600"});
    let streamed = admin.stream(Method::POST, &exec, Some(body.clone()), &[]).await;
    let alive = || async {
        let check = json!({"command": "[ -s pid ] && kill -0 $(cat pid)"});
        admin.post(&exec, check).await.expect(200)["exit_code"] == 0
    };
    until(alive).await;
    drop(streamed);
    until(|| async { !alive().await }).await;
    admin.post(&exec, json!({"argv": ["rm", "pid"]})).await.expect(200);
    let waiting = tokio::spawn({
        let (admin, exec) = (admin.clone(), exec.clone());
        async move { admin.post(&exec, body).await }
    });
    until(alive).await;
    waiting.abort();
    until(|| async { !alive().await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_in_the_background_is_read_fed_and_ended() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let body = json!({"argv": ["cat"], "background": true, "stdin_open": true});
    let process = admin.post(&format!("{DESK}/exec"), body).await.expect(201);
    let at = format!("{DESK}/processes/{}", process["id"]);
    assert_eq!(process["state"], "running");
    let mut follow = admin.events(&format!("{at}/output?follow")).await;
    admin.post(&format!("{at}/stdin"), json!({"data": "first\n"})).await.expect(204);
    let first = follow.up_to("output").await.pop().unwrap();
    assert_eq!(first.data["data"], "first\n");
    admin
        .post(&format!("{at}/stdin"), json!({"data": "c2Vjb25kCg==", "encoding": "base64"}))
        .await
        .expect(204);
    let mut resumed = admin
        .stream(
            Method::GET,
            &format!("{at}/output"),
            None,
            &[("last-event-id", first.id.as_deref().unwrap())],
        )
        .await;
    assert_eq!(resumed.up_to("output").await.pop().unwrap().data["data"], "second\n");
    let piece = admin.get(&format!("{at}/output?offset=6")).await.expect(200);
    assert_eq!((piece["data"].as_str(), piece["next_offset"].as_u64()), (Some("second\n"), Some(13)));
    admin.post(&format!("{at}/signal"), json!({"signal": "TERM"})).await.expect(204);
    let exit = follow.up_to("exit").await.pop().unwrap();
    assert_eq!(exit.data["signal"], 15);
    let listed = admin.get(&format!("{DESK}/processes")).await.expect(200);
    assert_eq!(listed["items"][0]["state"], "exited");
    admin.get(&format!("{DESK}/processes/4711")).await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_under_a_key_runs_once() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let body = json!({"command": "echo run >> runs; cat runs"});
    let (exec, key) = (format!("{DESK}/exec"), [("idempotency-key", "k")]);
    let run = || admin.call(Method::POST, &exec, Some(body.clone()), &key);
    let first = run().await.expect(200);
    assert_eq!(first["stdout"], "run\n");
    assert_eq!(run().await.expect(200), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn using_a_session_keeps_it_open() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    let body = json!({"name": "desk", "idle_timeout_seconds": 60});
    admin.post("/v1/spaces/lab/sessions?wait=ready", body).await.expect(201);
    let busy = admin
        .stream(Method::POST, &format!("{DESK}/exec"), Some(json!({"argv": ["sleep", "600"]})), &[])
        .await;
    // Longer than a tick of the uses, then a long time in small steps.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        lab.db.clock.advance(Duration::from_secs(10));
    }
    assert_eq!(admin.get(DESK).await.expect(200)["state"], "idle", "in use for two minutes");
    drop(busy);
}
