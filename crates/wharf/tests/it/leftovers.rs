//! What an agent started is gone with a cancel and with the agent itself, wherever it went, on every runtime.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::installation::{Installation, Runtime, SPACE, possible_on};
use crate::on_every_runtime;

/// Answers, or starts things that leave its group, its session and its environment behind, and hangs.
const AGENT: &str = r#"
read -r hello
while read -r line; do
  case "$line" in
    *work*)
      (setsid sh -c 'exec sleep 1001' &)
      (setsid env -i /bin/sh -c 'exec sleep 1002' &)
      sleep 1003 &
      echo $$ > agent.pid
      sleep 1004 ;;
    *) echo '{"type":"text","text":"here"}' ;;
  esac
  echo '{"type":"done"}'
done
"#;

on_every_runtime!(what_an_agent_started_is_gone_with_its_turn_and_with_itself);

async fn what_an_agent_started_is_gone_with_its_turn_and_with_itself(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let wharf = Installation::start_on(runtime).await;
    let one = format!("/v1/spaces/{SPACE}/sessions/one");
    let agent = json!({ "kind": "command", "argv": ["/bin/sh", "/home/agent/agent.sh"] });
    let body = json!({ "name": "one", "image": "tiny", "agent": agent });
    wharf.post(&format!("/v1/spaces/{SPACE}/sessions?wait=ready"), body).await;
    wharf.upload(&format!("{one}/files/home/agent/agent.sh"), AGENT.as_bytes().to_vec()).await;
    let sleepers = async || {
        let script = json!({ "command": "ps | grep -c '[s]leep 100[1-4]'" });
        let said = wharf.post(&format!("{one}/exec"), script).await;
        said["stdout"].as_str().unwrap().trim().parse::<usize>().unwrap()
    };
    let until = async |count: usize| {
        let since = Instant::now();
        while sleepers().await != count {
            assert!(since.elapsed() < Duration::from_secs(20), "{} sleep, not {count}", sleepers().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let work = async || {
        let seq = wharf.post(&format!("{one}/messages"), json!({ "content": "work" })).await["seq"].clone();
        until(4).await;
        seq
    };
    let ended = async |seq: Value| {
        let path = format!("{one}/messages/{seq}");
        let since = Instant::now();
        loop {
            let message = wharf.get(&path).await;
            if message["state"] != "running" && message["state"] != "queued" {
                return message;
            }
            assert!(since.elapsed() < Duration::from_secs(20), "{message}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };

    let seq = work().await;
    wharf.post(&format!("{one}/cancel"), json!({})).await;
    assert_eq!(ended(seq).await["state"], "cancelled");
    assert_eq!(sleepers().await, 0, "when the turn has ended all it started has");

    let seq = work().await;
    let killed = json!({ "command": "kill -9 $(cat agent.pid)" });
    assert_eq!(wharf.post(&format!("{one}/exec"), killed).await["exit_code"], 0);
    let message = ended(seq).await;
    assert_eq!(
        (&message["state"], &message["reason"]),
        (&json!("failed"), &json!("agent_exited")),
        "{message}"
    );
    until(0).await;

    let said = wharf.post(&format!("{one}/messages?wait=done"), json!({ "content": "hello" })).await;
    assert_eq!(said["replies"][0]["content"][0]["text"], "here", "{said}");
    let (status, _) = wharf.call(Method::DELETE, &one, None, None).await.unwrap();
    assert!(status.is_success());
    wharf.finish();
}
