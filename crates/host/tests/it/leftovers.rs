//! Nothing that an agent started outlives it, and nothing that a cancelled turn started outlives the turn.

use std::process::Command;

use wharf_wire::host::turn::{AgentKind, AgentSpec, Outcome, Reason, Said, TurnEvent, TurnRequest};

use crate::harness::{Host, all, called, done, lives, python, turn_of, until, until_dead};

/// Leaves group, session and parent behind, and the environment too where it is told to; says who it is in a file.
const DETACH: &str = r#"
import os, subprocess, sys, time
def detach(name, keep=True):
    env = [] if keep else ["env", "-i"]
    subprocess.run(["setsid", "-f", *env, "/bin/sh", "-c", f"echo $$ > {name}; exec sleep 300"], check=True)
    while not os.path.exists(name) or not open(name).read().endswith("\n"): time.sleep(0.005)
"#;

const AGENT: &str = r#"
import json
def say(**line): print(json.dumps(line), flush=True)
sys.stdin.readline()
for line in sys.stdin:
    text = json.loads(line)["content"][0]["text"]
    if text == "background": detach("background")
    else:
        detach("one"); detach("two", keep=False)
        say(type="text", text=str(os.getpid()))
        if text == "die": os._exit(9)
        subprocess.run(["sleep", "300"])
    say(type="done")
"#;

const FUNCTION: &str = r#"
def answer(message, context):
    if message.text == "background":
        detach("background")
        return "ok"
    detach("one"); detach("two", keep=False)
    child = subprocess.Popen(["sleep", "300"])
    yield str(os.getpid())
    while not context.cancelled: time.sleep(0.01)
"#;

const ACP: &str = r#"
import json, threading
ids = iter(range(1, 10**6)); waiting = {}; stop = threading.Event()
def send(**line): print(json.dumps({"jsonrpc": "2.0", **line}), flush=True)
def ask(method, **params):
    id = next(ids); done = threading.Event(); waiting[id] = [done, None]
    send(id=id, method=method, params={"sessionId": "s", **params}); done.wait(); return waiting[id][1]
def prompt(id, text):
    if text == "background":
        left = ask("terminal/create", command="sh", args=["-c", "setsid -f sh -c 'echo $$ > background; exec sleep 300'"])["result"]["terminalId"]
        ask("terminal/wait_for_exit", terminalId=left)
        while not os.path.exists("background"): time.sleep(0.005)
    else:
        detach("one")
        ask("terminal/create", command="sh", args=["-c", "setsid -f env -i /bin/sh -c 'echo $$ > two; exec sleep 300'; sleep 300"])
        while not os.path.exists("two"): time.sleep(0.005)
        send(method="session/update", params={"sessionId": "s", "update": {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": str(os.getpid())}}})
        stop.wait()
    send(id=id, result={"stopReason": "cancelled" if stop.is_set() else "end_turn"})
for line in sys.stdin:
    m = json.loads(line); method = m.get("method")
    if method is None: waiting[m["id"]][1] = m; waiting[m["id"]][0].set()
    elif method == "initialize": send(id=m["id"], result={"protocolVersion": 1, "agentCapabilities": {}})
    elif method == "session/new": send(id=m["id"], result={"sessionId": "s"})
    elif method == "session/cancel": stop.set()
    elif method == "session/prompt": threading.Thread(target=prompt, args=(m["id"], m["params"]["prompt"][-1]["text"]), daemon=True).start()
"#;

const NODE: &str = "
import { spawnSync, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
const sleep = ms => new Promise(r => setTimeout(r, ms));
async function detach(name, keep = true) {
  const env = keep ? [] : ['env', '-i'];
  spawnSync('setsid', ['-f', ...env, '/bin/sh', '-c', `echo $$ > ${name}; exec sleep 300`], { stdio: 'ignore' });
  while (!existsSync(name) || !readFileSync(name, 'utf8').endsWith('\\n')) await sleep(5);
}
export async function* answer(message, context) {
  if (message.text === 'background') { await detach('background'); yield 'ok'; return; }
  await detach('one'); await detach('two', false);
  spawn('sleep', ['300']);
  yield String(process.pid);
  while (!context.cancelled) await sleep(10);
}
";

struct Kind {
    spec: AgentSpec,
    /// Heeds a cancel, and is kept.
    polite: bool,
}

fn kinds(host: &Host) -> Vec<Kind> {
    host.file("agent.py", &format!("{DETACH}{FUNCTION}"));
    host.file("agent.mjs", NODE);
    let acp = AgentSpec { name: "acp".into(), kind: AgentKind::Acp, ..python(&format!("{DETACH}{ACP}")) };
    let node = AgentSpec { name: "js".into(), ..called(AgentKind::Node, "agent.mjs#answer") };
    vec![
        Kind { spec: python(&format!("{DETACH}{AGENT}")), polite: false },
        Kind { spec: called(AgentKind::Python, "agent:answer"), polite: true },
        Kind { spec: node, polite: true },
        Kind { spec: acp, polite: true },
    ]
}

async fn pid(host: &Host, name: &str) -> i32 {
    let path = host.home().join(name);
    until(name, async || std::fs::read_to_string(&path).is_ok_and(|t| t.ends_with('\n'))).await;
    let pid = std::fs::read_to_string(&path).unwrap().trim().parse().unwrap();
    std::fs::remove_file(path).unwrap();
    pid
}

/// Its own number, once it has started what it starts, and the events from then on.
async fn begun(host: &Host, turn: &TurnRequest) -> (i32, wharf_chassis::host_client::Events<TurnEvent>) {
    let mut events = host.client.turn(turn, 0).await.unwrap();
    loop {
        let event = events.next().await.expect("it says who it is").unwrap();
        match event.said {
            Said::Text { text } => return (text.parse().unwrap(), events),
            Said::Done(done) => panic!("{done:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_cancelled_turn_leaves_nothing_it_started_and_what_ran_before_goes_on() {
    let host = Host::start().await;
    for Kind { spec, polite } in kinds(&host) {
        let name = spec.name.clone();
        assert_eq!(
            done(&host.run(&turn_of(spec.clone(), "background")).await).outcome,
            Outcome::Done,
            "{name}"
        );
        let background = pid(&host, "background").await;
        // The kernel counts beginnings in hundredths of a second.
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        let turn = turn_of(spec.clone(), "work");
        let (agent, events) = begun(&host, &turn).await;
        let (one, two) = (pid(&host, "one").await, pid(&host, "two").await);
        assert!(lives(one) && lives(two), "{name}");
        host.client.cancel_turn(turn.turn).await.unwrap();
        assert_eq!(done(&all(events).await).outcome, Outcome::Cancelled, "{name}");
        until_dead(one).await;
        until_dead(two).await;
        assert_eq!((lives(agent), lives(background)), (polite, polite), "{name}");
    }
}

#[tokio::test]
async fn a_turn_that_takes_too_long_leaves_nothing_it_started() {
    let host = Host::start().await;
    for Kind { spec, .. } in kinds(&host) {
        let turn = TurnRequest { timeout_seconds: Some(4), ..turn_of(spec, "work") };
        let (_, events) = begun(&host, &turn).await;
        let (one, two) = (pid(&host, "one").await, pid(&host, "two").await);
        assert_eq!(done(&all(events).await).reason, Some(Reason::Timeout));
        until_dead(one).await;
        until_dead(two).await;
    }
}

#[tokio::test]
async fn an_agent_that_is_killed_leaves_nothing_not_even_what_went_its_own_way() {
    let host = Host::start().await;
    for Kind { spec, .. } in kinds(&host) {
        let name = spec.name.clone();
        host.run(&turn_of(spec.clone(), "background")).await;
        let background = pid(&host, "background").await;
        let (agent, events) = begun(&host, &turn_of(spec.clone(), "work")).await;
        let (one, two) = (pid(&host, "one").await, pid(&host, "two").await);
        assert!(Command::new("kill").args(["-9", &agent.to_string()]).status().unwrap().success());
        let end = done(&all(events).await);
        assert_eq!(end.reason, Some(Reason::AgentExited), "{name}: {end:?}");
        assert!(end.detail.unwrap().contains("signal 9"), "it is told how the agent itself ended");
        for pid in [one, two, background] {
            until_dead(pid).await;
        }
    }
    // And one that ends by itself, with its own code.
    let end = done(&host.run(&turn_of(python(&format!("{DETACH}{AGENT}")), "die")).await);
    assert_eq!((end.reason, end.exit_code), (Some(Reason::AgentExited), Some(9)));
    until_dead(pid(&host, "one").await).await;
    until_dead(pid(&host, "two").await).await;
}
