//! Files of a session, running or closed.

use axum::body::Body;
use http::Method;
use serde_json::json;

use crate::lab::{Answer, Caller, Lab, until};

const DESK: &str = "/v1/spaces/lab/sessions/desk";
const HOME: &str = "/v1/spaces/lab/sessions/desk/files/home/agent";

async fn put(caller: &Caller, path: &str, content: impl Into<Body>) -> Answer {
    caller.send(caller.request(Method::PUT, path).body(content.into()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_in_parts_listed_moved_and_deleted() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let file = format!("{HOME}/deep/a.txt");
    put(&admin, &file, "0123456789").await.refused(404, "not_found");
    let written = put(&admin, &format!("{file}?parents&mode=0600"), "0123456789").await.expect(200);
    assert_eq!((written["bytes"].as_u64(), written["size_bytes"].as_u64()), (Some(10), Some(10)));
    let stat = admin.get(&format!("{file}?stat")).await.expect(200);
    assert_eq!((stat["mode"].as_str(), stat["kind"].as_str()), (Some("0600"), Some("file")));
    assert_eq!(stat["path"], "/home/agent/deep/a.txt");

    let whole = admin.get(&file).await;
    assert_eq!((whole.status.as_u16(), whole.text().as_str()), (200, "0123456789"));
    assert_eq!(whole.header("content-length"), Some("10"));
    let part = admin.call(Method::GET, &file, None, &[("range", "bytes=2-4")]).await;
    assert_eq!((part.status.as_u16(), part.text().as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    let end = admin.call(Method::GET, &file, None, &[("range", "bytes=-3")]).await;
    assert_eq!(end.text(), "789");
    admin
        .call(Method::GET, &file, None, &[("range", "bytes=20-")])
        .await
        .refused(416, "range_not_satisfiable");
    admin.call(Method::GET, &file, None, &[("range", "lines=1-2")]).await.refused(400, "bad_request");

    admin.post(&file, json!({"op": "chmod", "mode": "0755"})).await.expect(204);
    admin.post(&format!("{HOME}/new/dir"), json!({"op": "mkdir", "parents": true})).await.expect(204);
    admin.post(&file, json!({"op": "move", "to": "/home/agent/new/b.txt"})).await.expect(204);
    let list = admin.get(&format!("{HOME}/new?list")).await.expect(200);
    let names: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b.txt", "dir"]);
    assert_eq!(list["items"][0]["mode"], "0755");
    let root = admin.get(&format!("{DESK}/files/?list")).await.expect(200);
    assert!(root["items"].as_array().unwrap().iter().any(|f| f["path"] == "/home"), "{root}");

    admin.delete(&format!("{HOME}/new")).await.refused(409, "invalid_state");
    let gone = admin.delete(&format!("{HOME}/new?recursive")).await.expect(200);
    assert_eq!(gone["entries"], 3);
    admin.get(&format!("{HOME}/new?stat")).await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_travels_as_an_archive() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    put(&admin, &format!("{HOME}/tree/x/one?parents"), "1").await.expect(200);
    put(&admin, &format!("{HOME}/tree/two"), "2").await.expect(200);
    let archive = admin.get(&format!("{HOME}/tree?tar")).await;
    assert_eq!((archive.status.as_u16(), archive.header("content-type")), (200, Some("application/x-tar")));
    admin.post(&format!("{HOME}/copy"), json!({"op": "mkdir"})).await.expect(204);
    let unpacked = put(&admin, &format!("{HOME}/copy?tar"), archive.bytes).await.expect(200);
    assert!(unpacked["members"].as_u64().unwrap() >= 3, "{unpacked}");
    let found = admin
        .post(&format!("{DESK}/exec"), json!({"command": "cd copy; find . -type f | sort | xargs cat"}))
        .await
        .expect(200);
    assert_eq!(found["stdout"].as_str().unwrap().len(), 2, "{found}");
    put(&admin, &format!("{HOME}/copy?tar"), "this is no archive").await.refused(400, "bad_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_closed_session_are_there_and_it_stays_closed() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    put(&admin, &format!("{HOME}/note"), "kept").await.expect(200);
    admin.call(Method::POST, &format!("{DESK}/close"), None, &[]).await.expect(202);
    until(|| async { admin.get(DESK).await.expect(200)["state"] == "closed" }).await;
    assert_eq!(admin.get(&format!("{HOME}/note")).await.text(), "kept");
    put(&admin, &format!("{HOME}/note"), "changed").await.expect(200);
    assert_eq!(admin.get(DESK).await.expect(200)["state"], "closed");
    admin.call(Method::POST, &format!("{DESK}/restore?wait=ready"), None, &[]).await.expect(202);
    let out = admin.post(&format!("{DESK}/exec"), json!({"argv": ["cat", "note"]})).await.expect(200);
    assert_eq!(out["stdout"], "changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_what_was_there() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    put(&admin, &format!("{HOME}/note"), "old").await.expect(200);
    let half = futures_util::stream::iter([
        Ok(bytes::Bytes::from_static(b"new")),
        Err(std::io::Error::other("the caller is gone")),
    ]);
    let answer = put(&admin, &format!("{HOME}/note"), Body::from_stream(half)).await;
    answer.refused(400, "bad_request");
    assert_eq!(admin.get(&format!("{HOME}/note")).await.text(), "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_passes_through() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let large: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    put(&admin, &format!("{HOME}/large"), large.clone()).await.expect(200);
    let back = admin.get(&format!("{HOME}/large")).await;
    assert!(back.bytes == large);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_file_is_in_the_log() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    put(&admin, &format!("{HOME}/note"), "x").await.expect(200);
    admin.delete(&format!("{HOME}/note")).await.expect(200);
    let log = admin.get("/v1/audit?resource=files").await.expect(200);
    let told: Vec<_> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["verb"].as_str(), e["detail"]["path"].as_str()))
        .collect();
    assert_eq!(
        told,
        [(Some("delete"), Some("/home/agent/note")), (Some("update"), Some("/home/agent/note"))]
    );
}
