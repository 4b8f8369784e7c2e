use wharf_domain::Code;
use wharf_wire::host::turn::{
    AgentKind, AgentSpec, Block, Outcome, PastMessage, Reason, Said, TurnEvent, TurnRequest,
};
use wharf_wire::host::{AgentName, Env};

use crate::harness::{
    Host, all, done, identity, lives, output, python, refused, reply, said, turn_of, until_dead,
};

async fn run(host: &Host, turn: &TurnRequest) -> Vec<TurnEvent> {
    all(host.client.turn(turn, 0).await.unwrap()).await
}

/// Reads lines, counts turns, and does as it is told.
const ECHO: &str = r#"
import json, os, sys
def say(**line): print(json.dumps(line), flush=True)
def ask():
    say(type="history")
    return json.loads(sys.stdin.readline())["messages"]
hello = json.loads(sys.stdin.readline())
turns = 0
for line in sys.stdin:
    message = json.loads(line)
    turns += 1
    text = message["content"][0]["text"]
    if text == "hello": say(type="message", content=[{"type": "text", "text": json.dumps(hello)}])
    elif text == "history": say(type="text", text=",".join(m["content"][0]["text"] for m in ask()))
    elif text == "parts":
        for part in ["a", "b", "c"]: say(type="text", text=part)
    elif text == "tool":
        say(type="event", name="tool.call", data={"x": 1})
        print("a line for the log", file=sys.stderr, flush=True)
        import time; time.sleep(0.1)
    elif text == "garbage": print("Traceback: oh no", flush=True); continue
    elif text == "unknown": say(type="levitate"); continue
    elif text == "die": sys.exit(9)
    elif text == "fail": say(type="error", detail="no key", usage={"input_tokens": 3}); continue
    elif text == "hang":
        say(type="text", text="thinking")
        import time; time.sleep(300)
    elif text == "long":
        sys.stdout.write("x" * 7_000_000 + "\n"); sys.stdout.flush(); continue
    elif text == "much":
        for i in range(40): say(type="text", text="y" * 1_000_000)
    elif text == "late":
        say(type="done")
        say(type="message", content=[{"type": "text", "text": "after the end"}]); continue
    else: say(type="message", content=[{"type": "text", "text": f"{turns} {os.getpid()} {text}"}])
    say(type="done", usage={"input_tokens": 10, "output_tokens": 2, "model": "none"})
"#;

fn ask(text: &str) -> TurnRequest {
    turn_of(python(ECHO), text)
}

#[tokio::test]
async fn an_agent_answers_and_stays_for_the_next_turn() {
    let host = Host::start().await;
    let first = run(&host, &ask("one")).await;
    let end = done(&first);
    assert_eq!(end.outcome, Outcome::Done);
    assert_eq!(end.usage.unwrap().input_tokens, 10);
    let second = run(&host, &ask("two")).await;
    let (a, b) = (reply(&first), reply(&second));
    let (a, b): (Vec<&str>, Vec<&str>) = (a.split(' ').collect(), b.split(' ').collect());
    assert_eq!((a[0], b[0], a[2], b[2]), ("1", "2", "one", "two"));
    assert_eq!(a[1], b[1], "the same process");
}

#[tokio::test]
async fn an_agent_is_told_where_it_is() {
    let host = Host::start().await;
    let mut me = identity(wharf_domain::SessionId::new(), Env::default());
    me.agents = vec![AgentName { name: "py".into(), description: Some("echoes".into()) }];
    host.client.claim(&me).await.unwrap();
    let hello: serde_json::Value = serde_json::from_str(&reply(&run(&host, &ask("hello")).await)).unwrap();
    assert_eq!(hello["type"], "hello");
    assert_eq!(hello["agent"], "py");
    assert_eq!(hello["session"], me.session.to_string());
    assert_eq!(hello["instructions"], "be brief");
    assert_eq!(hello["agents"][0]["description"], "echoes");
}

#[tokio::test]
async fn an_agent_gets_the_history_it_asks_for() {
    let host = Host::start().await;
    let mut turn = ask("history");
    for (seq, text) in [(1, "hi"), (2, "there")] {
        turn.history.push(PastMessage {
            seq,
            role: "user".into(),
            agent: None,
            content: vec![Block::text(text)],
        });
    }
    assert_eq!(reply(&run(&host, &turn).await), "hi,there");
}

#[tokio::test]
async fn parts_events_and_log_are_shown_as_they_come() {
    let host = Host::start().await;
    let events = run(&host, &ask("parts")).await;
    assert_eq!(events.iter().filter(|e| matches!(e.said, Said::Text { .. })).count(), 3);
    assert_eq!(reply(&events), "abc", "the parts together are the reply");
    let events = run(&host, &ask("tool")).await;
    assert!(
        said(&events)
            .iter()
            .any(|s| matches!(s, Said::Event { name, data } if name == "tool.call" && data["x"] == 1))
    );
    assert_eq!(output(&events), "a line for the log\n");
}

#[tokio::test]
async fn an_agent_that_does_not_speak_the_protocol_fails_the_turn_and_is_replaced() {
    let host = Host::start().await;
    for (text, word) in
        [("garbage", "Traceback"), ("unknown", "levitate"), ("long", "more than"), ("much", "more than")]
    {
        let end = done(&run(&host, &ask(text)).await);
        assert_eq!((end.outcome, end.reason), (Outcome::Failed, Some(Reason::AgentProtocol)), "{text}");
        assert!(end.detail.as_ref().unwrap().contains(word), "{end:?}");
        assert!(reply(&run(&host, &ask("again")).await).starts_with("1 "), "a new one after {text}");
    }
}

#[tokio::test]
async fn an_agent_that_dies_is_told_and_replaced() {
    let host = Host::start().await;
    let end = done(&run(&host, &ask("die")).await);
    assert_eq!((end.reason, end.exit_code), (Some(Reason::AgentExited), Some(9)));
    assert!(reply(&run(&host, &ask("again")).await).starts_with("1 "));
}

#[tokio::test]
async fn an_agent_that_says_it_failed_is_believed_and_kept() {
    let host = Host::start().await;
    run(&host, &ask("first")).await;
    let end = done(&run(&host, &ask("fail")).await);
    assert_eq!(
        (end.outcome, end.reason, end.detail.as_deref()),
        (Outcome::Failed, Some(Reason::AgentError), Some("no key"))
    );
    assert_eq!(end.usage.unwrap().input_tokens, 3);
    assert!(reply(&run(&host, &ask("third")).await).starts_with("3 "));
}

#[tokio::test]
async fn words_said_after_the_end_belong_to_no_turn() {
    let host = Host::start().await;
    let events = run(&host, &ask("late")).await;
    assert_eq!(reply(&events), "");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!reply(&run(&host, &ask("next")).await).contains("after the end"));
}

#[tokio::test]
async fn a_cancelled_agent_is_killed_and_its_words_stay() {
    let host = Host::start().await;
    let pid: i32 = reply(&run(&host, &ask("who")).await).split(' ').nth(1).unwrap().parse().unwrap();
    let turn = ask("hang");
    let mut events = host.client.turn(&turn, 0).await.unwrap();
    let mut seen = Vec::new();
    while !seen.iter().any(|e: &TurnEvent| matches!(e.said, Said::Text { .. })) {
        seen.push(events.next().await.unwrap().unwrap());
    }
    assert!(lives(pid));
    host.client.cancel_turn(turn.turn).await.unwrap();
    seen.extend(all(events).await);
    assert_eq!((done(&seen).outcome, reply(&seen).as_str()), (Outcome::Cancelled, "thinking"));
    until_dead(pid).await;
    let late = TurnRequest { timeout_seconds: Some(1), ..ask("hang") };
    assert_eq!(done(&run(&host, &late).await).reason, Some(Reason::Timeout));
}

#[tokio::test]
async fn another_entry_or_environment_is_another_process() {
    let host = Host::start().await;
    let first = reply(&run(&host, &ask("a")).await);
    let mut changed = ask("b");
    changed.agent.env = Env::from([("X", "1")]);
    let second = reply(&run(&host, &changed).await);
    assert_ne!(first.split(' ').nth(1), second.split(' ').nth(1));
    until_dead(first.split(' ').nth(1).unwrap().parse().unwrap()).await;
}

#[tokio::test]
async fn an_agent_that_is_not_there_fails_the_turn_with_the_reason() {
    let host = Host::start().await;
    let none = AgentSpec {
        name: "ghost".into(),
        kind: AgentKind::Command,
        entry: vec!["/no/such/agent".into()],
        ..AgentSpec::shell()
    };
    let end = done(&run(&host, &turn_of(none.clone(), "x")).await);
    assert_eq!(end.reason, Some(Reason::AgentStart));
    assert!(end.detail.unwrap().contains("/no/such/agent"));
    let empty = AgentSpec { entry: Vec::new(), ..none };
    let fault = refused(host.client.turn(&turn_of(empty, "x"), 0).await);
    assert_eq!((fault.code, fault.field.as_deref()), (Code::InvalidField, Some("agent.entry")));
}
