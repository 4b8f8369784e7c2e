//! Kill -9 of everything at once, then `wharf up`: all sessions, messages and files are there, nothing is left over.

use std::process::Command;

use reqwest::Method;
use serde_json::json;

use crate::installation::{Installation, Runtime, SPACE, possible_on};
use crate::on_every_runtime;

on_every_runtime!(everything_is_there_after_everything_was_killed);

async fn everything_is_there_after_everything_was_killed(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let mut wharf = Installation::start_on(runtime).await;
    let sessions = format!("/v1/spaces/{SPACE}/sessions");
    for name in ["open", "shut"] {
        wharf.post(&format!("{sessions}?wait=ready"), json!({ "name": name, "image": "tiny" })).await;
        let content = format!("echo {name} > note; echo said {name}");
        let said =
            wharf.post(&format!("{sessions}/{name}/messages?wait=done"), json!({ "content": content })).await;
        assert_eq!(said["state"], "done", "{said}");
    }
    wharf.post(&format!("{sessions}/shut/close"), json!({})).await;
    let before = wharf.get(&format!("{sessions}/open/messages")).await;
    let pids: Vec<String> = wharf.parts().iter().map(|(_, pid)| pid.to_string()).collect();
    // Some may be gone already: their parent went first, or they were about to end.
    let _ = Command::new("kill").arg("-9").args(&pids).stderr(std::process::Stdio::null()).status().unwrap();
    wharf.wait_gone().await;
    let took = wharf.up().await;
    assert!(took.as_secs() < 10, "it took {took:?} to be ready again");
    assert_eq!(wharf.get(&format!("{sessions}/open/messages")).await, before, "the log differs");
    for name in ["open", "shut"] {
        let path = format!("{sessions}/{name}/files/home/agent/note");
        let (status, note) = wharf.call(Method::GET, &path, None, None).await.unwrap();
        assert!(status.is_success(), "{name}: {status}: {note}");
        assert_eq!(note, json!(format!("{name}\n")));
    }
    let again = json!({ "content": "cat note" });
    let said = wharf.post(&format!("{sessions}/open/messages?wait=done"), again).await;
    assert_eq!(said["replies"][0]["content"][0]["text"], "open\n", "{said}");
    wharf.finish();
}
