//! Planted secrets are looked for wherever one could leak: the database's files, logs, events, answers, arguments and
//! environment of every process, and the pool that holds sessions and snapshots.

use std::process::Command;

use reqwest::Method;
use serde_json::json;

use crate::installation::{Installation, Runtime, SPACE, possible_on, processes};
use crate::on_every_runtime;

on_every_runtime!(a_planted_secret_is_nowhere_but_in_its_reveal);

async fn a_planted_secret_is_nowhere_but_in_its_reveal(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let mut wharf = Installation::start_on(runtime).await;
    // Put together here, so that this file and the test's own memory map do not hold it as one word.
    // Two may run at a time: each looks for its own.
    let canary = format!("CANARY-{}", runtime.name());
    let canary = canary.as_str();
    let secret = [canary, "f3a9c1", "secret"].join("-");
    let password = [canary, "77be02", "password"].join("-");
    let space = format!("/v1/spaces/{SPACE}");
    wharf.post(&format!("{space}/secrets"), json!({ "name": "key", "value": secret })).await;
    wharf.post("/v1/users", json!({ "name": "alice", "password": password })).await;
    let (status, _) = wharf
        .call(
            Method::POST,
            "/v1/auth/login",
            Some(&json!({ "username": "alice", "password": format!("{password}x") })),
            None,
        )
        .await
        .unwrap();
    assert_eq!(status, 401);
    // A wrong request that carries it: the problem must not repeat it.
    let (status, problem) = wharf
        .call(
            Method::POST,
            &format!("{space}/secrets"),
            Some(&json!({ "name": "Bad Name", "value": secret })),
            None,
        )
        .await
        .unwrap();
    assert_eq!(status, 422);
    assert!(!problem.to_string().contains(canary), "{problem}");
    wharf.post(&format!("{space}/sessions?wait=ready"), json!({ "name": "one", "image": "tiny" })).await;
    wharf
        .post(
            &format!("{space}/sessions/one/messages?wait=done"),
            json!({ "content": "env; ls -laR /run /home" }),
        )
        .await;
    wharf.post(&format!("{space}/sessions/one/snapshots?wait=ready"), json!({})).await;
    let revealed = wharf.post(&format!("{space}/secrets/key/reveal"), json!({})).await;
    assert_eq!(revealed["value"], json!(secret));
    for path in [
        "/v1/audit?limit=500",
        "/v1/users",
        &format!("{space}/secrets"),
        &format!("{space}/sessions/one/messages"),
    ] {
        assert!(!wharf.get(path).await.to_string().contains(canary), "{path} shows it");
    }
    let own = std::process::id();
    for (pid, process) in processes().into_iter().filter(|(pid, _)| *pid != own) {
        assert!(!process.command.contains(canary), "arguments of {pid} {}", process.name);
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&environment).contains(canary),
            "environment of {pid} {}",
            process.name
        );
    }
    // Something that may be found, so that looking in the wrong place would show.
    wharf
        .post(
            &format!("{space}/sessions/one/messages?wait=done"),
            json!({ "content": "echo CONTROL-5d1e | tee seen; sync" }),
        )
        .await;
    // Stopped, so that all of the pool and the database is on the disk.
    wharf.stop();
    let grep = |word: &str| {
        let found = Command::new("grep").args(["-rlaF", word]).arg(wharf.dir()).output().unwrap();
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    let seen = grep("CONTROL-5d1e");
    assert!(
        seen.contains("/postgres/") && seen.contains(runtime.files()),
        "what is written is found in {seen:?} only"
    );
    assert_eq!(grep(canary), "", "files that hold it");
    wharf.finish();
}
