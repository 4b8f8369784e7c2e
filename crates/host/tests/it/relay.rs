//! Several agents in one session: handing over within a turn.

use wharf_domain::Code;
use wharf_wire::host::turn::{AgentKind, AgentSpec, Outcome, Reason, Said, TurnRequest};

use crate::harness::{Host, called, done, refused, reply, said, turn_of};

const AGENTS: &str = r#"
def front(message, context):
    context.usage(input_tokens=1)
    if message.text == "loop": context.hand_over("back"); return "ping "
    if message.text == "ghost": return context.hand_over("ghost")
    if message.text == "self": return context.hand_over("front")
    if message.text == "rewritten": context.hand_over("back", "another question"); return "one moment. "
    if message.text == "script": return context.hand_over("sh", "echo from the shell")
    context.hand_over("back")
    return "one moment. "

def back(message, context):
    context.usage(input_tokens=2)
    if message.text == "loop": return context.hand_over("front")
    history = [f"{m.agent or m.role}:{m.text}" for m in context.history()]
    return f"{context.agent} answers {message.text!r} after {history}"
"#;

async fn started() -> Host {
    let host = Host::start().await;
    host.file("agents.py", AGENTS);
    host
}

fn ask(text: &str) -> TurnRequest {
    let named =
        |name: &str| AgentSpec { name: name.into(), ..called(AgentKind::Python, &format!("agents:{name}")) };
    let shell = AgentSpec { name: "sh".into(), ..AgentSpec::shell() };
    TurnRequest { agents: vec![named("front"), named("back"), shell], ..turn_of(named("front"), text) }
}

#[tokio::test]
async fn a_turn_goes_on_with_another_agent_that_knows_what_was_said() {
    let host = started().await;
    let events = host.run(&ask("hello")).await;
    assert_eq!(reply(&events), "one moment. back answers 'hello' after ['user:hello', 'front:one moment. ']");
    assert!(said(&events).contains(&&Said::Handover { from: "front".into(), to: "back".into() }));
    let who: Vec<Option<&str>> =
        events.iter().filter(|e| matches!(e.said, Said::Message { .. })).map(|e| e.by.as_deref()).collect();
    assert_eq!(who, [Some("front"), Some("back")], "messages carry the name of who says them");
    assert_eq!(done(&events).usage.unwrap().input_tokens, 3, "what both used");
    let events = host.run(&ask("rewritten")).await;
    assert!(reply(&events).contains("back answers 'another question'"), "{}", reply(&events));
    assert_eq!(reply(&host.run(&ask("script")).await), "from the shell\n");
}

#[tokio::test]
async fn nobody_hands_over_for_ever_or_to_nobody() {
    let host = started().await;
    let end = done(&host.run(&ask("loop")).await);
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, Some(Reason::AgentError)));
    assert!(end.detail.unwrap().contains("8 times"));
    for who in ["ghost", "self"] {
        let detail = done(&host.run(&ask(who)).await).detail.unwrap();
        assert!(detail.contains("the others are back, sh"), "{detail}");
    }
    let alone = TurnRequest { agents: Vec::new(), ..ask("hello") };
    let end = done(&host.run(&alone).await);
    assert!(end.detail.unwrap().contains("has no other"));
}

#[tokio::test]
async fn every_agent_of_a_turn_is_checked_before_the_first_runs() {
    let host = started().await;
    let mut turn = ask("hello");
    turn.agents[1].entry = vec!["nothing".into()];
    let fault = refused(host.client.turn(&turn, 0).await);
    assert_eq!((fault.code, fault.field.as_deref()), (Code::InvalidField, Some("agents.1.entry")));
}
