//! Agents that speak the Agent Client Protocol, as a program of another maker would.

use wharf_wire::host::Env;
use wharf_wire::host::turn::{AgentKind, AgentSpec, Outcome, Reason, Said, TurnEvent, TurnRequest};

use crate::harness::{Host, all, done, identity, output, python, reply, said, turn_of, until_dead};
use crate::provider::Provider;

/// Threads answer prompts; the main thread reads. Its conversations are files, so it can load them.
const AGENT: &str = r#"
import json, os, sys, threading, time
lock = threading.Lock(); waiting = {}; ids = iter(range(1, 10**6)); cancelled = threading.Event(); session = None; heard = []
def send(**m):
    with lock: sys.stdout.write(json.dumps({"jsonrpc": "2.0", **m}) + "\n"); sys.stdout.flush()
def ask(method, **params):
    id = f"q{next(ids)}"; waiting[id] = [threading.Event(), None]
    send(id=id, method=method, params={"sessionId": session, **params})
    waiting[id][0].wait(); return waiting[id][1]
def update(what, **more): send(method="session/update", params={"sessionId": session, "update": {"sessionUpdate": what, **more}})
def text(t): update("agent_message_chunk", content={"type": "text", "text": t})
def prompt(id, params):
    words = [b.get("text", b.get("uri")) for b in params["prompt"]]; w = words[-1]
    heard.append(w); open("talk-" + session, "a").write(w + "\n"); stop = "end_turn"
    if w == "words": text("a"); text("b"); update("plan", entries=[]); update("agent_thought_chunk", content={"type": "text", "text": "hm"})
    elif w == "heard": text("|".join(heard) + f"|{os.getpid()}")
    elif w == "first": text("|".join(words))
    elif w == "tool":
        text("before")
        update("tool_call", toolCallId="t1", title="Look", kind="read", status="pending", rawInput={"path": "x"})
        answer = ask("session/request_permission", toolCall={"toolCallId": "t1"}, options=[{"optionId": "no", "kind": "reject_once", "name": "No"}, {"optionId": "yes", "kind": "allow_once", "name": "Yes"}])
        update("tool_call_update", toolCallId="t1", status="completed", content=[{"type": "content", "content": {"type": "text", "text": json.dumps(answer["result"])}}])
        text("after")
    elif w == "files":
        here = os.getcwd() + "/deep/er/file.txt"
        a = ask("fs/write_text_file", path=here, content="one\ntwo\nthree\n")
        b = ask("fs/read_text_file", path=here, line=2, limit=1)
        c = ask("fs/read_text_file", path="/no/such/file")
        d = ask("fs/read_text_file", path="relative")
        text(json.dumps([a.get("result"), b["result"]["content"], c["error"]["code"], d["error"]["code"]]))
    elif w == "terminal":
        t = ask("terminal/create", command="sh", args=["-c", "echo $X; echo on >&2; exit 3"], env=[{"name": "X", "value": "out"}])["result"]["terminalId"]
        exit = ask("terminal/wait_for_exit", terminalId=t)["result"]
        o = ask("terminal/output", terminalId=t)["result"]; ask("terminal/release", terminalId=t)
        gone = ask("terminal/output", terminalId=t)["error"]["code"]
        line = ask("terminal/create", command="echo a | tr a b")["result"]["terminalId"]
        ask("terminal/wait_for_exit", terminalId=line)
        piped = ask("terminal/output", terminalId=line)["result"]["output"]
        long = ask("terminal/create", command="echo $$; exec sleep 300")["result"]["terminalId"]
        while not (pid := ask("terminal/output", terminalId=long)["result"]["output"].strip()): time.sleep(0.01)
        text(json.dumps([exit["exitCode"], o["output"], o["exitStatus"]["exitCode"], gone, piped, pid]))
    elif w == "unknown": text(str(ask("x/y")["error"]["code"]))
    elif w == "wait": text("waiting"); cancelled.wait(); text(" stopped"); stop = "cancelled"
    elif w == "deaf": text("deaf"); time.sleep(300)
    elif w == "tokens": stop = "max_tokens"
    elif w == "garbage": print("Loading...", flush=True); return
    elif w == "die": os._exit(9)
    elif w == "fail": return send(id=id, error={"code": -32603, "message": "Internal error", "data": {"details": "no key"}})
    else: text(w)
    send(id=id, result={"stopReason": stop, "usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7}})
for line in sys.stdin:
    m = json.loads(line); method, id, p = m.get("method"), m.get("id"), m.get("params", {})
    if method is None:
        waiting[id][1] = m; waiting[id][0].set()
    elif method == "initialize":
        assert p["clientCapabilities"]["terminal"] and p["clientCapabilities"]["fs"]["readTextFile"]
        send(id=id, result={"protocolVersion": int(os.environ.get("SPEAKS", "1")), "agentCapabilities": {"loadSession": os.environ.get("LOADS") == "yes"}, "agentInfo": {"name": "lab", "version": "1"}, "authMethods": [{"id": "k", "name": "Log in somewhere"}]})
    elif method == "session/new":
        if os.environ.get("AUTH"): send(id=id, error={"code": -32000, "message": "Authentication required"}); continue
        assert os.path.isabs(p["cwd"]) and p["mcpServers"] == []
        session = f"s{os.getpid()}"; send(id=id, result={"sessionId": session})
    elif method == "session/load":
        session = p["sessionId"]; heard = open("talk-" + session).read().split()
        for h in heard: update("user_message_chunk", content={"type": "text", "text": h}); text("replayed " + h)
        send(id=id, result=None)
    elif method == "session/prompt": cancelled.clear(); threading.Thread(target=prompt, args=(id, p), daemon=True).start()
    elif method == "session/cancel": cancelled.set()
"#;

fn agent() -> AgentSpec {
    AgentSpec { name: "lab".into(), kind: AgentKind::Acp, ..python(AGENT) }
}

fn with(pairs: &[(&str, &str)], text: &str) -> TurnRequest {
    let mut agent = agent();
    agent.env = Env(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    turn_of(agent, text)
}

fn ask(text: &str) -> TurnRequest {
    turn_of(agent(), text)
}

fn event<'a>(events: &'a [TurnEvent], wanted: &str) -> &'a serde_json::Value {
    let found = events.iter().find_map(|e| match &e.said {
        Said::Event { name, data } if name == wanted => Some(data),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no event {wanted}: {events:?}"))
}

#[tokio::test]
async fn its_words_are_the_reply_and_it_stays() {
    let host = Host::start().await;
    let events = host.run(&ask("words")).await;
    let end = done(&events);
    assert_eq!((end.outcome, reply(&events).as_str()), (Outcome::Done, "ab"), "{events:?}");
    assert_eq!(end.usage.unwrap().input_tokens, 5);
    assert_eq!(event(&events, "thinking")["text"], "hm");
    assert_eq!(event(&events, "acp.session")["loaded"], false);
    assert!(event(&events, "plan")["entries"].is_array());
    assert!(reply(&host.run(&ask("heard")).await).starts_with("words|heard|"), "the same conversation");
}

#[tokio::test]
async fn a_tool_call_divides_its_words_and_permission_is_given_and_shown() {
    let host = Host::start().await;
    let events = host.run(&ask("tool")).await;
    let messages: Vec<String> = said(&events)
        .iter()
        .filter_map(|s| match s {
            Said::Message { content } => content[0].as_text().map(str::to_owned),
            _ => None,
        })
        .collect();
    assert_eq!(messages, ["before", "after"]);
    let call = event(&events, "tool_use");
    assert_eq!(
        (call["id"].as_str(), call["name"].as_str(), &call["input"]["path"]),
        (Some("t1"), Some("Look"), &"x".into())
    );
    assert_eq!(event(&events, "permission")["allowed"], true);
    let result = event(&events, "tool_result");
    assert_eq!(result["tool_use_id"], "t1");
    assert!(result["content"].as_str().unwrap().contains("\"optionId\": \"yes\""), "{result}");
}

#[tokio::test]
async fn it_reads_and_writes_the_sessions_files() {
    let host = Host::start().await;
    let answer: serde_json::Value = serde_json::from_str(&reply(&host.run(&ask("files")).await)).unwrap();
    assert_eq!(answer, serde_json::json!([null, "two\n", -32002, -32602]));
    assert_eq!(std::fs::read_to_string(host.home().join("deep/er/file.txt")).unwrap(), "one\ntwo\nthree\n");
}

#[tokio::test]
async fn it_runs_commands_which_end_with_it() {
    let host = Host::start().await;
    let answer: serde_json::Value = serde_json::from_str(&reply(&host.run(&ask("terminal")).await)).unwrap();
    assert_eq!(answer[0], 3);
    assert_eq!(
        (&answer[1], &answer[2], &answer[3], &answer[4]),
        (&"out\non\n".into(), &3.into(), &(-32602).into(), &"b\n".into())
    );
    let pid: i32 = answer[5].as_str().unwrap().parse().unwrap();
    assert!(crate::harness::lives(pid), "a terminal outlasts a turn");
    assert_eq!(done(&host.run(&ask("die")).await).reason, Some(Reason::AgentExited));
    until_dead(pid).await;
    assert_eq!(reply(&host.run(&ask("unknown")).await), "-32601");
}

#[tokio::test]
async fn a_conversation_is_loaded_again_without_being_said_again() {
    let host = Host::start().await;
    host.run(&with(&[("LOADS", "yes")], "one")).await;
    assert_eq!(done(&host.run(&with(&[("LOADS", "yes")], "die")).await).exit_code, Some(9));
    let events = host.run(&with(&[("LOADS", "yes")], "heard")).await;
    assert!(reply(&events).starts_with("one|die|heard|"), "{}", reply(&events));
    assert!(!reply(&events).contains("replayed"));
    assert_eq!(event(&events, "acp.session")["loaded"], true);
    let host = Host::start_in(host.kill()).await;
    let events = host.run(&with(&[("LOADS", "yes")], "heard")).await;
    assert!(
        reply(&events).starts_with("one|die|heard|heard|"),
        "over the death of the host: {}",
        reply(&events)
    );
    let events = host.run(&ask("heard")).await;
    assert!(reply(&events).starts_with("heard|"), "one that cannot load begins anew");
}

#[tokio::test]
async fn instructions_travel_with_its_first_message_only() {
    let host = Host::start().await;
    host.client.claim(&identity(wharf_domain::SessionId::new(), Env::default())).await.unwrap();
    assert_eq!(reply(&host.run(&ask("first")).await), "be brief|first");
    assert_eq!(reply(&host.run(&ask("first")).await), "first");
}

#[tokio::test]
async fn a_cancel_it_obeys_keeps_it_and_one_it_does_not_kills_it() {
    let host = Host::start().await;
    let pid = |events: &[TurnEvent]| reply(events).rsplit('|').next().unwrap().parse::<i32>().unwrap();
    let before = pid(&host.run(&ask("heard")).await);
    for (text, words) in [("wait", "waiting stopped"), ("deaf", "deaf")] {
        let turn = ask(text);
        let mut events = host.client.turn(&turn, 0).await.unwrap();
        let mut seen: Vec<TurnEvent> = Vec::new();
        while !seen.iter().any(|e| matches!(e.said, Said::Text { .. })) {
            seen.push(events.next().await.unwrap().unwrap());
        }
        host.client.cancel_turn(turn.turn).await.unwrap();
        seen.extend(all(events).await);
        assert_eq!((done(&seen).outcome, reply(&seen).as_str()), (Outcome::Cancelled, words));
        let now = pid(&host.run(&ask("heard")).await);
        assert_eq!(now == before, text == "wait");
    }
    until_dead(before).await;
    let late = TurnRequest { timeout_seconds: Some(1), ..ask("deaf") };
    assert_eq!(done(&host.run(&late).await).reason, Some(Reason::Timeout));
}

#[tokio::test]
async fn what_goes_wrong_is_told() {
    let host = Host::start().await;
    let end = done(&host.run(&ask("tokens")).await);
    assert!(end.is_error && end.detail.unwrap().contains("tokens"));
    let end = done(&host.run(&ask("fail")).await);
    assert_eq!(end.reason, Some(Reason::AgentError));
    assert!(end.detail.unwrap().contains("no key"));
    let end = done(&host.run(&ask("garbage")).await);
    assert_eq!(end.reason, Some(Reason::AgentProtocol));
    assert!(end.detail.unwrap().contains("Loading"));
    let end = done(&host.run(&with(&[("SPEAKS", "2")], "x")).await);
    assert!(end.detail.unwrap().contains("version 2"));
    let end = done(&host.run(&with(&[("AUTH", "1")], "x")).await);
    assert_eq!(end.reason, Some(Reason::AgentStart));
    assert!(end.detail.unwrap().contains("Log in somewhere"));
    let broken = AgentSpec {
        name: "b".into(),
        kind: AgentKind::Acp,
        ..python("import sys; sys.exit('no such luck')")
    };
    let events = host.run(&turn_of(broken, "x")).await;
    assert_eq!((done(&events).reason, done(&events).exit_code), (Some(Reason::AgentExited), Some(1)));
    assert!(output(&events).contains("no such luck"));
}

#[tokio::test]
async fn permission_is_the_guardrails_to_give() {
    let provider = Provider::start([]);
    let pending = serde_json::json!({"decision": "pending", "approval": "01890000-0000-7000-8000-000000000001",
        "expires_at": "2026-01-01T00:00:00.000Z"});
    provider.guards(200, pending);
    provider.guards(200, serde_json::json!({"decision": "deny", "reason": "una denied it"}));
    let host = Host::start_before(&provider.socket()).await;
    let events = host.run(&ask("tool")).await;
    assert_eq!(done(&events).outcome, Outcome::Done, "the agent goes on after a no");
    let permission = event(&events, "permission");
    assert_eq!((&permission["allowed"], &permission["reason"]), (&false.into(), &"una denied it".into()));
    assert!(event(&events, "tool_result")["content"].as_str().unwrap().contains("\"optionId\": \"no\""));
    assert_eq!(provider.guard_asked()[0]["call"], "acp/t1");
}
