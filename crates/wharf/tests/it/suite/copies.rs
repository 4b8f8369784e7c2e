//! Snapshots, forks, and where a session came from.

use reqwest::Method;
use serde_json::json;

use super::{PLANT, Place, TREE, until};
use crate::installation::SPACE;

pub async fn a_fork_of_a_running_session_has_its_files_and_goes_its_own_way(place: Place) {
    let parent = place.session("parent").await;
    parent.as_root(PLANT).await;
    assert_eq!(parent.answer("echo one > file; cat file").await, "one\n");
    // It writes on while it is copied, and is not asked to stop.
    let write = "i=0; while :; do echo $i >> count; i=$((i+1)); usleep 5000; done";
    parent.post("exec", json!({ "command": write, "background": true })).await;
    let tree = parent.as_root(TREE).await;
    let made = parent.post("fork?wait=ready", json!({ "name": "child" })).await;
    assert_eq!((&made["state"], &made["runtime"]), (&json!("idle"), &json!(place.runtime.name())), "{made}");
    let child = place.named("child");
    assert_eq!(child.as_root(TREE).await, tree);
    assert_eq!(child.ok("hostname; ps | grep -c '[u]sleep' || true").await, "child\n0");
    let whole = "seq 0 $(($(wc -l < count) - 1)) | cmp - count && wc -l < count";
    let count = |text: String| text.parse::<u64>().unwrap();
    let (at_fork, later) = (count(child.ok(whole).await), count(parent.ok("wc -l < count").await));
    assert!(at_fork > 0, "the copy holds what was written before it");
    until("the parent goes on", async || count(parent.ok("wc -l < count").await) > later.max(at_fork)).await;

    child.ok("echo two >> file").await;
    parent.ok("echo three >> file").await;
    assert_eq!(
        (child.ok("cat file").await, parent.ok("cat file").await),
        ("one\ntwo".into(), "one\nthree".into())
    );
    let inherited = child.get("messages").await;
    assert_eq!(inherited["items"][0]["content"][0]["text"], "echo one > file; cat file", "{inherited}");

    // Of a closed session, and of a fork's fork, whose line is told.
    child.close().await;
    child.post("fork?wait=ready", json!({ "name": "grandchild" })).await;
    let grandchild = place.named("grandchild");
    assert_eq!(child.state().await, "closed");
    parent.delete().await;
    child.delete().await;
    assert_eq!(grandchild.ok("cat file").await, "one\ntwo");
    assert_eq!(grandchild.as_root(TREE).await, tree);
    let line = grandchild.get("lineage").await;
    let names: Vec<_> =
        line["ancestors"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["child", "parent"], "{line}");
}

pub async fn a_snapshot_outlives_its_session_and_becomes_others(place: Place) {
    let one = place.session("original").await;
    one.as_root(PLANT).await;
    one.ok("echo then > file").await;
    let tree = one.as_root(TREE).await;
    let running = one.post("snapshots?wait=ready", json!({ "name": "running" })).await;
    assert_eq!(
        (&running["state"], &running["runtime"]),
        (&json!("ready"), &json!(place.runtime.name())),
        "{running}"
    );
    assert!(running["stall_micros"].as_u64().is_some_and(|n| n > 0), "it stood still for it: {running}");
    one.ok("echo now > file").await;
    one.close().await;
    let closed = one.post("snapshots?wait=ready", json!({ "name": "closed" })).await;
    assert_eq!(closed["state"], "ready", "{closed}");
    assert_eq!(one.state().await, "closed");
    one.delete().await;
    let sessions = format!("/v1/spaces/{SPACE}/sessions?wait=ready");
    for (name, snapshot, file) in
        [("first", &running, "then"), ("second", &running, "then"), ("third", &closed, "now")]
    {
        let body = json!({ "name": name, "from": { "snapshot": snapshot["id"] }, "idle_timeout_seconds": 0 });
        let made = place.wharf.post(&sessions, body).await;
        assert_eq!(
            (&made["state"], &made["runtime"]),
            (&json!("idle"), &json!(place.runtime.name())),
            "{made}"
        );
        let made = place.named(name);
        assert_eq!(made.ok("cat file").await, file);
        assert_eq!(made.as_root(TREE).await, tree);
        made.ok("echo mine > file").await;
    }
    for snapshot in [&running, &closed] {
        let path = format!(
            "/v1/spaces/{SPACE}/sessions/{}/snapshots/{}",
            snapshot["session"].as_str().unwrap(),
            snapshot["id"].as_str().unwrap()
        );
        let (status, said) = place.wharf.call(Method::DELETE, &path, None, None).await.unwrap();
        assert!(status.is_success(), "{said}");
    }
    // What came of a snapshot does not need it any more.
    let first = place.named("first");
    first.close().await;
    assert_eq!(first.ok("cat file").await, "mine");
}

pub async fn a_fork_takes_along_what_was_asked_for(place: Place) {
    let one = place.session_with("whole", json!({ "env": { "COLOUR": "red" } })).await;
    one.answer("echo hello > file").await;
    let snapshot = one.post("snapshots?wait=ready", json!({ "name": "then" })).await;
    one.ok("echo changed > file").await;
    for (name, body, file, messages) in [
        ("all-of-it", json!({}), "changed", 2),
        ("files-alone", json!({ "include": { "messages": false } }), "changed", 0),
        ("words-alone", json!({ "include": { "files": false } }), "none", 2),
        ("as-it-was", json!({ "snapshot": snapshot["id"] }), "hello", 2),
    ] {
        let mut body = body;
        body["name"] = json!(name);
        let made = one.post("fork?wait=ready", body).await;
        assert_eq!(made["state"], "idle", "{made}");
        let fork = place.named(name);
        assert_eq!(
            fork.ok("cat file 2>/dev/null || echo none; echo $COLOUR").await,
            format!("{file}\nred"),
            "{name}"
        );
        let kept = fork.get("messages").await["items"].as_array().unwrap().len();
        assert_eq!(kept, messages, "{name}");
        fork.delete().await;
    }
}
