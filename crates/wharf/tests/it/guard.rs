//! An agent in a session that needs somebody's yes: it waits through the death of the control plane and of its host, and does what was
//! allowed once.

use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::installation::{Installation, Part, Runtime, SPACE, possible_on};
use crate::on_every_runtime;

const SESSION: &str = "/v1/spaces/lab/sessions/s";

fn edit(path: &str) -> Value {
    let input = json!({"command": "create", "path": path, "file_text": "made\n"});
    json!([{"type": "tool_use", "name": "str_replace_based_edit_tool", "input": input}])
}

impl Installation {
    /// Asks until there is an answer that is wanted; errors of a control plane that is coming up are none.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            if let Ok((status, answer)) = self.call(Method::GET, path, None, None).await
                && status.is_success()
                && wanted(&answer)
            {
                return answer;
            }
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "{path} does not become what it should be: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn kill(&self, part: Part) {
        let pids: Vec<String> =
            self.parts().iter().filter(|(p, _)| *p == part).map(|(_, pid)| pid.to_string()).collect();
        assert!(Command::new("kill").arg("-9").args(&pids).status().unwrap().success(), "{part:?}: {pids:?}");
    }
}

on_every_runtime!(a_yes_outlives_control_plane_and_host_and_what_it_allows_is_done_once);

async fn a_yes_outlives_control_plane_and_host_and_what_it_allows_is_done_once(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let wharf = Installation::start_on(runtime).await;
    let space = format!("/v1/spaces/{SPACE}");
    let turns = json!([
        {"say": edit("/home/agent/guarded/a.txt")},
        {"say": edit("/home/agent/never/b.txt")},
        {"expect": "nothing is made there", "say": [{"type": "text", "text": "Made one, and not the other."}]},
    ]);
    let provider = json!({"name": "demo", "protocol": "scripted", "script": {"turns": turns}});
    wharf.post(&format!("{space}/providers"), provider).await;
    let rules = json!([
        {"phase": "tool", "match": {"paths": ["~/never/**"]}, "action": "deny", "reason": "nothing is made there"},
        {"phase": "tool", "match": {"paths": ["~/guarded/**"]}, "action": "approve", "reason": "is guarded"},
        {"phase": "egress", "match": {"hosts": ["forbidden.example"]}, "action": "deny"},
    ]);
    wharf.post(&format!("{space}/policies"), json!({"name": "p", "rules": rules})).await;
    let agent = json!({"kind": "computer-use", "provider": "demo", "model": "scripted", "tools": ["edit"]});
    let session = json!({"name": "s", "image": "tiny", "agent": agent, "network": {"egress": "open"}});
    wharf.post(&format!("{space}/sessions?wait=ready"), session).await;
    wharf.post(&format!("{SESSION}/messages"), json!({"content": "Make both."})).await;

    let pending = format!("{SESSION}/approvals?state=pending");
    let waits = |a: &Value| a["items"].as_array().is_some_and(|i| i.len() == 1);
    let asked = wharf.until(&pending, waits).await["items"][0].clone();
    assert_eq!(
        (&asked["tool"], &asked["reason"]),
        (&json!("str_replace_based_edit_tool"), &json!("is guarded"))
    );
    // Everything the answer has to outlive: the control plane with its gateway, then the session's own host.
    wharf.kill(Part::Control);
    let after = wharf.until(&pending, waits).await["items"][0].clone();
    assert_eq!(after, asked);
    wharf.kill(Part::Host);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let still = wharf.until(&format!("{SESSION}/approvals"), waits).await["items"][0].clone();
    assert_eq!((&still["id"], &still["state"]), (&asked["id"], &json!("pending")));
    let path = format!("{SESSION}/approvals/{}", asked["id"].as_str().unwrap());
    wharf.post(&path, json!({"allow": true})).await;
    let ended = |m: &Value| {
        m["items"].as_array().is_some_and(|i| {
            i.iter().any(|m| m["role"] == "user" && m["state"] != "running" && m["state"] != "queued")
        })
    };
    let messages = wharf.until(&format!("{SESSION}/messages"), ended).await;
    let items = messages["items"].as_array().unwrap();
    assert_eq!(items[0]["state"], "done", "{messages}");
    assert_eq!(items.last().unwrap()["content"][0]["text"], "Made one, and not the other.", "{messages}");
    let (status, made) = wharf
        .call(Method::GET, &format!("{SESSION}/files/home/agent/guarded/a.txt"), None, None)
        .await
        .unwrap();
    assert!(status.is_success(), "{status}: {made}");
    let (status, _) = wharf
        .call(Method::GET, &format!("{SESSION}/files/home/agent/never/b.txt"), None, None)
        .await
        .unwrap();
    assert_eq!(status, 404);
    // Asked once, done once, in the log in its order.
    let all = wharf.get(&format!("{SESSION}/approvals")).await;
    assert_eq!(all["items"].as_array().unwrap().len(), 1, "{all}");
    let log =
        String::from_utf8(wharf.bytes(&format!("{SESSION}/events?after=0&no_follow=true")).await).unwrap();
    let count = |what: &str| log.matches(&format!("event: {what}\n")).count();
    assert_eq!(
        ["approval.requested", "approval.decided", "turn.tool_use", "turn.tool_result", "turn.done"]
            .map(count),
        [1, 1, 1, 2, 1],
        "{log}"
    );
    // A program that is no agent is held to the same.
    let fetch = json!({"command": "wget -q -O- http://forbidden.example/ 2>&1; true"});
    let fetched = wharf.post(&format!("{SESSION}/exec"), fetch).await;
    assert!(fetched["stdout"].as_str().unwrap().contains("403"), "{fetched}");
    let audit = wharf.get("/v1/audit?resource=policies&verb=deny").await;
    let reasons: Vec<&Value> =
        audit["items"].as_array().unwrap().iter().map(|e| &e["detail"]["summary"]).collect();
    assert!(reasons.iter().any(|s| s.as_str().is_some_and(|s| s.contains("forbidden.example"))), "{audit}");
    wharf.finish();
}
