//! Planted secrets are looked for wherever one could leak: the database's files, logs, events, answers, arguments and
//! environment of every process, and the pool that holds sessions and snapshots.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::Command;

use reqwest::Method;
use serde_json::json;

use crate::egress::Beyond;
use crate::installation::{Installation, Outside, Part, Runtime, SPACE, possible_on, processes};
use crate::on_every_runtime;

on_every_runtime!(a_planted_secret_is_nowhere_but_in_its_reveal);

async fn a_planted_secret_is_nowhere_but_in_its_reveal(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let mut wharf = Installation::start_on(runtime).await;
    // Put together here, so that this file and the test's own memory map do not hold it as one word.
    let secret = ["CANARY", "f3a9c1", "secret"].join("-");
    let password = ["CANARY", "77be02", "password"].join("-");
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
    assert!(!problem.to_string().contains("CANARY"), "{problem}");
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
        assert!(!wharf.get(path).await.to_string().contains("CANARY"), "{path} shows it");
    }
    let own = std::process::id();
    for (pid, process) in processes().into_iter().filter(|(pid, _)| *pid != own) {
        assert!(!process.command.contains("CANARY"), "arguments of {pid} {}", process.name);
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&environment).contains("CANARY"),
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
    let volumes = match runtime {
        Runtime::Native => "/jail/",
        Runtime::Docker => "/engine/data/",
    };
    let grep = |word: &str| {
        let found = Command::new("grep").args(["-rlaF", word]).arg(wharf.dir()).output().unwrap();
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    let seen = grep("CONTROL-5d1e");
    assert!(
        seen.contains("/postgres/") && seen.contains(volumes),
        "what is written is found in {seen:?} only"
    );
    assert_eq!(grep("CANARY"), "", "files that hold it");
    wharf.finish();
}

on_every_runtime!(a_credential_at_work_for_a_session_is_nowhere_in_it);

/// The gateway adds it outside, so neither memory, environment, arguments nor files inside hold it, nor what comes of them.
async fn a_credential_at_work_for_a_session_is_nowhere_in_it(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let beyond = Beyond::start();
    let mut wharf = Installation::start_with(&Outside { runtime, ..beyond.outside() }).await;
    let secret = ["CANARY", "0b7d44", "credential"].join("-");
    let space = format!("/v1/spaces/{SPACE}");
    let host = format!("files.test:{}", beyond.plain);
    wharf.post(&format!("{space}/secrets"), json!({ "name": "key", "value": secret })).await;
    let rule = json!({ "name": "files", "match": { "host": host }, "inject": { "header": "x-key", "secret": "key" } });
    wharf.post(&format!("{space}/connections"), rule).await;
    let session =
        json!({ "name": "one", "image": "tiny", "network": { "egress": "allowlist", "allow": [host] } });
    wharf.post(&format!("{space}/sessions?wait=ready"), session).await;
    // Something that may be found, so that looking in the wrong place would show.
    let work = format!(
        "export MARK=CONTROL-77aa; cd; for i in 1 2 3 4 5; do wget -q -O page http://{host}/ && touch worked; done; sleep 600"
    );
    let exec = json!({ "argv": ["sh", "-c", work], "background": true });
    wharf.post(&format!("{space}/sessions/one/exec"), exec).await;
    let since = std::time::Instant::now();
    loop {
        let lines = wharf.get(&format!("{space}/sessions/one/egress")).await;
        let used = |l: &serde_json::Value| l["connection"] == "files" && l["status"] == 200;
        if lines["items"].as_array().unwrap().iter().filter(|l| used(l)).count() == 5 {
            break;
        }
        assert!(since.elapsed().as_secs() < 30, "{lines}\n{}", wharf.log());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let inside: Vec<_> =
        wharf.parts().into_iter().filter(|(part, _)| matches!(part, Part::Host | Part::Inside)).collect();
    assert!(inside.len() > 1, "{inside:?}");
    let mut control = 0;
    for (part, pid) in inside {
        control += usize::from(holds(pid, "CONTROL-77aa"));
        assert!(!holds(pid, &secret), "memory of {part:?} {pid}");
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(!contains(&environment, &secret), "environment of {part:?} {pid}");
    }
    assert!(control > 0, "not even the control was found in memory");
    wharf.post(&format!("{space}/sessions/one/snapshots?wait=ready"), json!({})).await;
    let tar = wharf.bytes(&format!("{space}/sessions/one/files/?tar")).await;
    assert!(contains(&tar, "home/agent/worked") && !contains(&tar, &secret), "the exported archive");
    wharf.stop();
    let found = Command::new("grep").args(["-rlaF", &secret]).arg(wharf.dir()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "files that hold it");
    wharf.finish();
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|w| w == word.as_bytes())
}

/// Whether a process has it in its memory: all that can be read and written, and so not the programs themselves.
fn holds(pid: u32, word: &str) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let Ok(mut memory) = std::fs::File::open(format!("/proc/{pid}/mem")) else { return false };
    maps.lines().any(|line| {
        let mut words = line.split_whitespace();
        let (Some((from, to)), Some(rights)) = (words.next().and_then(|w| w.split_once('-')), words.next())
        else {
            return false;
        };
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (from, to) = (number(from), number(to));
        if !rights.starts_with("rw") || to - from > 256 << 20 || memory.seek(SeekFrom::Start(from)).is_err() {
            return false;
        }
        let mut bytes = Vec::new();
        let _ = memory.by_ref().take(to - from).read_to_end(&mut bytes);
        contains(&bytes, word)
    })
}
