//! A session's life over the API.

use http::Method;
use serde_json::json;

use crate::lab::{Lab, until};

const SESSIONS: &str = "/v1/spaces/lab/sessions";

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_made_answers_closes_comes_back_and_goes() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let one = format!("{SESSIONS}/desk");
    let said = admin
        .post(&format!("{one}/messages?wait=done"), json!({"content": "echo hello > note; cat note"}))
        .await
        .expect(202);
    assert_eq!(said["state"], "done", "{said}");
    assert_eq!(said["author"], "admin");
    assert_eq!(said["replies"][0]["role"], "agent");
    assert!(said["replies"][0]["content"][0]["text"].as_str().unwrap().contains("hello"), "{said}");

    admin.call(Method::POST, &format!("{one}/close"), None, &[]).await.expect(202);
    until(|| async { admin.get(&one).await.expect(200)["state"] == "closed" }).await;
    let restored =
        admin.call(Method::POST, &format!("{one}/restore?wait=ready"), None, &[]).await.expect(202);
    assert_eq!(restored["state"], "idle");
    let out = admin.post(&format!("{one}/exec"), json!({"argv": ["cat", "note"]})).await.expect(200);
    assert_eq!(out["stdout"], "hello\n");

    let stats = admin.get(&format!("{one}/stats")).await.expect(200);
    assert_eq!((stats["state"].as_str(), stats["disk_bytes"].as_u64()), (Some("idle"), Some(4096)));
    admin.delete(&one).await.expect(202);
    admin.get(&one).await.refused(404, "not_found");
    let id = restored["id"].as_str().unwrap();
    admin.delete(&format!("{SESSIONS}/{id}")).await.expect(202);
    // The name is free at once.
    lab.session(&admin, "desk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_never_lies() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let made = admin.post(SESSIONS, json!({"name": "desk"})).await.expect(201);
    assert_eq!(made["state"], "init", "nobody makes sessions run here");
    let get = tokio::spawn({
        let admin = admin.clone();
        async move { admin.get(&format!("{SESSIONS}/desk?wait=ready")).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!get.is_finished());
    // No longer wanted to run: there is nothing to wait for any more, and the answer says what is.
    admin.call(Method::POST, &format!("{SESSIONS}/desk/close"), None, &[]).await.expect(202);
    let settled = get.await.unwrap().expect(200);
    assert_eq!((settled["state"].as_str(), settled["desired"].as_str()), (Some("init"), Some("closed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_goes_its_own_way_and_knows_where_it_came_from() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "parent").await;
    let (parent, child) = (format!("{SESSIONS}/parent"), format!("{SESSIONS}/child"));
    admin
        .post(&format!("{parent}/messages?wait=done"), json!({"content": "echo one > file"}))
        .await
        .expect(202);
    let fork = admin.post(&format!("{parent}/fork?wait=ready"), json!({"name": "child"})).await.expect(201);
    assert_eq!(fork["state"], "idle", "{fork}");
    admin.post(&format!("{child}/exec"), json!({"command": "echo two >> file"})).await.expect(200);
    let read = |at: String| {
        let admin = admin.clone();
        async move {
            admin.post(&format!("{at}/exec"), json!({"argv": ["cat", "file"]})).await.expect(200)["stdout"]
                .clone()
        }
    };
    assert_eq!(read(child.clone()).await, "one\ntwo\n");
    assert_eq!(read(parent.clone()).await, "one\n");
    let inherited = admin.get(&format!("{child}/messages")).await.expect(200);
    assert_eq!(inherited["items"][0]["content"][0]["text"], "echo one > file");
    let line = admin.get(&format!("{child}/lineage")).await.expect(200);
    assert_eq!(line["ancestors"][0]["name"], "parent");
    assert_eq!(line["session"]["from"]["session"], line["ancestors"][0]["id"]);
    let line = admin.get(&format!("{parent}/lineage")).await.expect(200);
    assert_eq!(line["descendants"][0]["name"], "child");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_outlives_its_session_and_becomes_another() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let one = format!("{SESSIONS}/desk");
    admin.post(&format!("{one}/exec"), json!({"command": "echo kept > file"})).await.expect(200);
    let snap =
        admin.post(&format!("{one}/snapshots?wait=ready"), json!({"name": "before"})).await.expect(201);
    assert_eq!((snap["state"].as_str(), snap["stall_micros"].as_u64()), (Some("ready"), Some(42)), "{snap}");
    let named = admin.get(&format!("{one}/snapshots/before")).await.expect(200);
    assert_eq!(named["id"], snap["id"]);
    let renamed = admin
        .patch(&format!("{one}/snapshots/before"), json!({"name": "after", "labels": {"a": "b"}}))
        .await
        .expect(200);
    assert_eq!((renamed["name"].as_str(), renamed["labels"]["a"].as_str()), (Some("after"), Some("b")));
    let session_id = snap["session"].as_str().unwrap().to_owned();
    admin.delete(&one).await.expect(202);
    let left = admin.get("/v1/spaces/lab/snapshots").await.expect(200);
    assert_eq!(left["items"][0]["id"], snap["id"]);
    let from = json!({"name": "again", "from": {"snapshot": snap["id"]}});
    let made = admin.post(&format!("{SESSIONS}?wait=ready"), from).await.expect(201);
    assert_eq!(made["from"]["snapshot"], snap["id"]);
    let out =
        admin.post(&format!("{SESSIONS}/again/exec"), json!({"argv": ["cat", "file"]})).await.expect(200);
    assert_eq!(out["stdout"], "kept\n");
    admin.delete(&format!("{SESSIONS}/{session_id}/snapshots/after")).await.expect(204);
    admin.get(&format!("{SESSIONS}/{session_id}/snapshots/after")).await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_changed_at_the_version_seen() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    let made = lab.session(&admin, "desk").await;
    let one = format!("{SESSIONS}/desk");
    let version = admin.get(&one).await.expect(200)["resource_version"].to_string();
    let patch = json!({"labels": {"a": "1"}, "metadata": {"x": {"y": 1}}, "resources": {"memory_mib": 555}, "instructions": "be kind"});
    let quoted = format!("\"{version}\"");
    let changed =
        admin.call(Method::PATCH, &one, Some(patch.clone()), &[("if-match", &quoted)]).await.expect(200);
    assert_eq!(changed["resources"]["memory_mib"], 555);
    assert_eq!(changed["resources"]["pids"], made["resources"]["pids"]);
    assert_eq!(changed["instructions"], "be kind");
    admin
        .call(Method::PATCH, &one, Some(patch), &[("if-match", &quoted)])
        .await
        .refused(412, "precondition_failed");
    let merged =
        admin.patch(&one, json!({"metadata": {"x": {"z": 2}}, "instructions": null})).await.expect(200);
    assert_eq!(merged["metadata"], json!({"x": {"y": 1, "z": 2}}));
    assert!(merged["instructions"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_turn_is_cancelled_and_the_next_runs() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let one = format!("{SESSIONS}/desk");
    let long = admin.post(&format!("{one}/messages"), json!({"content": "sleep 600"})).await.expect(202);
    let seq = long["seq"].as_i64().unwrap();
    let at = format!("{one}/messages/{seq}");
    until(|| async { admin.get(&at).await.expect(200)["state"] == "running" }).await;
    let next = admin
        .post(&format!("{one}/messages"), json!({"content": [{"type": "text", "text": "echo next"}]}))
        .await
        .expect(202);
    admin.call(Method::POST, &format!("{one}/cancel"), None, &[]).await.expect(202);
    until(|| async { admin.get(&at).await.expect(200)["state"] == "cancelled" }).await;
    let next = format!("{one}/messages/{}", next["seq"]);
    until(|| async { admin.get(&next).await.expect(200)["state"] == "done" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_in_pages() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    admin.post(SESSIONS, json!({"name": "desk", "prompt": "first"})).await.expect(201);
    let at = format!("{SESSIONS}/desk/messages");
    for text in ["second", "third"] {
        admin.post(&at, json!({"content": text})).await.expect(202);
    }
    let page = admin.get(&format!("{at}?limit=2")).await.expect(200);
    let texts = |p: &serde_json::Value| -> Vec<String> {
        p["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["content"][0]["text"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(texts(&page), ["first", "second"]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = admin.get(&format!("{at}?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!(texts(&rest), ["third"]);
    assert!(rest["next_cursor"].is_null());
    admin.post(&at, json!({"content": []})).await.refused(422, "invalid_field");
    admin.post(&at, json!({"content": ""})).await.refused(422, "invalid_field");
    admin.get(&format!("{at}/999")).await.refused(404, "not_found");
}
