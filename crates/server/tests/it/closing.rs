//! Calls that come while a session closes, on a machine that takes its time over it.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use wharf_domain::SessionId;
use wharf_ports::{Bus as _, Topic};

use crate::lab::{Caller, Lab, until};

const ONE: &str = "/v1/spaces/lab/sessions/desk";
/// What a close takes here, and less than any answer may that waits for one.
const SLOW: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(15);

async fn lab() -> (Lab, Caller) {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    admin.post(&format!("{ONE}/exec"), json!({"command": "echo kept > note"})).await.expect(200);
    lab.desk.stops_slowly(SLOW);
    (lab, admin)
}

/// Leaves something running that ends with the computer, and begins the close.
async fn closing(admin: &Caller) {
    let sleeper = json!({"argv": ["sleep", "1000"], "background": true});
    admin.post(&format!("{ONE}/exec"), sleeper).await.expect(201);
    let answer = admin.call(Method::POST, &format!("{ONE}/close"), None, &[]).await.expect(202);
    assert_eq!(answer["desired"], "closed", "{answer}");
}

async fn processes(admin: &Caller) -> usize {
    admin.get(&format!("{ONE}/processes")).await.expect(200)["items"].as_array().unwrap().len()
}

async fn state(admin: &Caller) -> (Value, Value) {
    let session = admin.get(ONE).await.expect(200);
    (session["state"].clone(), session["desired"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_restore_waits_for_the_close_before_it() {
    let (_lab, admin) = lab().await;
    for pause in [0, 200, 900, 1300] {
        closing(&admin).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let since = Instant::now();
        let restored =
            admin.call(Method::POST, &format!("{ONE}/restore?wait=ready"), None, &[]).await.expect(202);
        assert_eq!(
            (&restored["state"], &restored["desired"]),
            (&json!("idle"), &json!("running")),
            "{pause}"
        );
        assert!(since.elapsed() < PATIENCE);
        let out = admin.post(&format!("{ONE}/exec"), json!({"argv": ["cat", "note"]})).await.expect(200);
        assert_eq!(out["stdout"], "kept\n", "after {pause} ms");
        assert_eq!(processes(&admin).await, 0, "it was not closed in between");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_comes_in_a_close_is_run_after_it() {
    let (_lab, admin) = lab().await;
    for pause in [0, 300, 800, 1200] {
        closing(&admin).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let since = Instant::now();
        let out = admin.post(&format!("{ONE}/exec"), json!({"argv": ["cat", "note"]})).await.expect(200);
        assert_eq!(out["stdout"], "kept\n", "after {pause} ms");
        assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
        assert_eq!(processes(&admin).await, 0);
    }
    // A message does the same.
    closing(&admin).await;
    let said =
        admin.post(&format!("{ONE}/messages?wait=done"), json!({"content": "cat note"})).await.expect(202);
    assert_eq!(
        (&said["state"], &said["replies"][0]["content"][0]["text"]),
        (&json!("done"), &json!("kept\n"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_served_all_the_while_and_it_is_closed_in_the_end() {
    let (_lab, admin) = lab().await;
    let read = async |times: usize| {
        for n in 0..times {
            let since = Instant::now();
            let answer = admin.get(&format!("{ONE}/files/home/agent/note")).await;
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "kept\n"), "read {n}");
            assert!(since.elapsed() < PATIENCE, "read {n} took {:?}", since.elapsed());
        }
    };
    let publish = async || {
        let body = json!({"paths": ["/home/agent/note"]});
        admin.post(&format!("{ONE}/publish"), body).await.expect(201);
    };
    closing(&admin).await;
    tokio::join!(read(40), read(40), publish(), async {
        tokio::time::sleep(SLOW / 2).await;
        read(10).await;
    });
    until(|| async { state(&admin).await == (json!("closed"), json!("closed")) }).await;
    let put = admin.request(Method::PUT, &format!("{ONE}/files/home/agent/other"));
    admin.send(put.body("more".into()).unwrap()).await.expect(200);
    assert_eq!(state(&admin).await, (json!("closed"), json!("closed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_a_close_ends_is_told_so() {
    let (_lab, admin) = lab().await;
    let long = tokio::spawn({
        let admin = admin.clone();
        async move { admin.post(&format!("{ONE}/exec"), json!({"argv": ["sleep", "1000"]})).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    closing(&admin).await;
    let problem = long.await.unwrap().refused(409, "invalid_state");
    assert!(problem["detail"].as_str().unwrap().contains("closed under"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_that_begins_when_the_idle_time_is_nearly_over_keeps_the_session_open() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    let body = json!({"name": "desk", "idle_timeout_seconds": 10});
    let made = admin.post("/v1/spaces/lab/sessions?wait=ready", body).await.expect(201);
    let id: SessionId = made["id"].as_str().unwrap().parse().unwrap();
    lab.db.clock.advance(Duration::from_millis(9_700));
    // Uses are written down once a second; the deadline comes well before that.
    let path = format!("{ONE}/exec");
    let (out, ()) = tokio::join!(admin.post(&path, json!({"command": "sleep 0.6; echo done"})), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        lab.db.clock.advance(Duration::from_millis(500));
        lab.db.bus.wake(Topic::Session(id));
    });
    assert_eq!(out.expect(200)["stdout"], "done\n");
    assert_eq!(state(&admin).await, (json!("idle"), json!("running")));
}
