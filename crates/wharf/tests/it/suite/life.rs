//! Made, closed, back again, gone.

use std::process::Command;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;

use super::{PLANT, Place, TREE, until};
use crate::installation::processes;

pub async fn it_closes_and_comes_back_as_it_was(place: Place) {
    let one = place.session("life").await;
    one.as_root(PLANT).await;
    assert_eq!(one.answer("echo said > note; cat note").await, "said\n");
    one.post("exec", json!({ "argv": ["sleep", "7001"], "background": true })).await;
    let (tree, messages) = (one.as_root(TREE).await, one.get("messages").await);
    assert!(tree.contains("installed") && !tree.contains("yes is back"), "{tree}");
    // What a file system has not written yet it has not counted.
    one.as_root("sync").await;
    let stats = one.get("stats").await;
    let of = |stats: &serde_json::Value, what: &str| {
        stats[what].as_u64().unwrap_or_else(|| panic!("{what}: {stats}"))
    };
    for what in ["memory_bytes", "memory_limit_bytes", "pids", "disk_bytes", "cpu_usage_micros"] {
        assert!(of(&stats, what) > 0, "{what}: {stats}");
    }

    one.close().await;
    let stats = one.get("stats").await;
    assert_eq!(
        (&stats["state"], of(&stats, "memory_bytes"), of(&stats, "pids")),
        (&json!("closed"), 0, 0),
        "{stats}"
    );
    assert!(of(&stats, "disk_bytes") > 300_000, "a closed session costs what is on the disk: {stats}");
    one.restore().await;
    assert_eq!(one.as_root(TREE).await, tree);
    assert_eq!(one.get("messages").await, messages);
    assert_eq!(one.ok("cat note; ps | grep -c '[s]leep 7001' || true").await, "said\n0");

    // A command wakes it as well.
    one.close().await;
    assert_eq!(one.ok("cat note").await, "said");
    assert_eq!(one.state().await, "idle");

    one.delete().await;
    let (status, _) = place.wharf.call(reqwest::Method::GET, &one.path(), None, None).await.unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
    // The name is free at once, and what was under it is nobody's.
    let again = place.session("life").await;
    assert_eq!(again.ok("ls; ls /opt/tree 2>&1 | grep -c 'No such file'").await, "1");
}

pub async fn it_closes_by_itself_when_nobody_uses_it_and_wakes_when_somebody_does(place: Place) {
    let one = place.session_with("sleeper", json!({ "idle_timeout_seconds": 3 })).await;
    one.ok("echo kept > note").await;
    one.is("closed").await;
    assert_eq!(one.answer("cat note").await, "kept\n");
    // Longer than it stays open without a use.
    let busy = one.ok("sleep 6; echo slept");
    let looks = async {
        tokio::time::sleep(Duration::from_millis(4500)).await;
        one.state().await
    };
    let (slept, state) = tokio::join!(busy, looks);
    assert_eq!((slept.as_str(), state.as_str()), ("slept", "idle"));
    one.is("closed").await;
    assert_eq!(one.ok("cat note").await, "kept");
}

pub async fn setup_runs_once_and_the_environment_is_everywhere(place: Place) {
    let more = json!({ "env": { "COLOUR": "red" }, "setup": "echo once $COLOUR >> /home/agent/setup" });
    let one = place.session_with("furnished", more).await;
    assert_eq!(one.ok("cat setup; echo $COLOUR").await, "once red\nred");
    assert_eq!(one.answer("echo $COLOUR").await, "red\n");
    one.close().await;
    one.restore().await;
    assert_eq!(one.ok("cat setup; echo $COLOUR").await, "once red\nred");
}

pub async fn a_setup_that_fails_fails_the_session(place: Place) {
    let (one, made) = place.try_session("unfurnished", json!({ "setup": "echo no such tool; exit 3" })).await;
    assert_eq!(made["state"], "error", "{made}");
    assert!(made["state_reason"].as_str().is_some_and(|why| why.contains("no such tool")), "{made}");
    one.delete().await;
}

pub async fn what_was_changed_while_it_was_closed_counts_when_it_is_back(place: Place) {
    let one = place.session("before").await;
    one.as_root(PLANT).await;
    let tree = one.as_root(TREE).await;
    assert_eq!(one.ok("hostname").await, "before");
    one.close().await;
    let change = json!({ "name": "after", "resources": { "memory_mib": 96, "pids": 40 }, "labels": { "kind": "changed" } });
    let (status, changed) = one.patch(change).await;
    assert!(status.is_success(), "{changed}");
    let one = place.named("after");
    one.restore().await;
    assert_eq!(one.ok("hostname").await, "after");
    assert_eq!(one.as_root(TREE).await, tree);
    let stats = one.get("stats").await;
    assert_eq!(stats["memory_limit_bytes"], 96 << 20, "{stats}");
    // Twice is no different: on some runtimes another name means another container.
    one.close().await;
    one.patch(json!({ "name": "before" })).await;
    let one = place.named("before");
    one.restore().await;
    assert_eq!(one.ok("hostname").await, "before");
    assert_eq!(one.as_root(TREE).await, tree);
}

pub async fn a_computer_that_died_is_replaced_under_the_command(place: Place) {
    let one = place.session("mortal").await;
    one.ok("echo kept > note; sync").await;
    one.post("exec", json!({ "argv": ["sleep", "7002"], "background": true })).await;
    // From the process inside up to the first of its computer.
    let all = processes();
    let mut pid = *all.iter().find(|(_, p)| p.command.trim() == "sleep 7002").expect("it runs").0;
    while !all[&pid].init {
        pid = all[&pid].parent;
    }
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    until("the old computer is gone", async || !processes().contains_key(&pid)).await;
    assert_eq!(one.ok("cat note; ps | grep -c '[s]leep 7002' || true").await, "kept\n0");
    assert_eq!(one.answer("cat note").await, "kept\n");
}
