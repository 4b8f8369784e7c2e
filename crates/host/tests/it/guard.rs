//! The built-in agent before guardrails: what they deny it does not do, what waits it waits for, and what it was told once it knows.

use std::time::Duration;

use serde_json::json;
use wharf_wire::host::Env;
use wharf_wire::host::turn::{Outcome, TurnEvent};

use crate::computer_use::{ask, named, run};
use crate::harness::{Host, all, done, identity, until};
use crate::provider::{Provider, bash, says};

const ID: &str = "01890000-0000-7000-8000-000000000001";

fn pending() -> serde_json::Value {
    json!({"decision": "pending", "approval": ID, "expires_at": "2026-01-01T00:00:00.000Z"})
}

fn results(events: &[TurnEvent]) -> Vec<String> {
    named(events, "tool_result").iter().map(|r| r["content"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_call_that_is_denied_is_not_run_and_the_model_learns_why() {
    let provider =
        Provider::start([bash("t1", "touch /tmp/guarded-denied-$$; touch denied"), says("Then not.")]);
    provider.guards(200, json!({"decision": "deny", "reason": "nothing is touched (policy p)"}));
    let host = Host::start().await;
    let events = run(&host, &ask(&provider, "Touch it.")).await;
    assert_eq!(done(&events).outcome, Outcome::Done);
    assert_eq!(results(&events), ["Not run: nothing is touched (policy p)."]);
    assert!(provider.last().contains("Not run: nothing is touched"), "{}", provider.last());
    let asked = provider.guard_asked();
    assert_eq!((&asked[0]["tool"], &asked[0]["agent"]), (&json!("bash"), &json!("computer-use")));
    assert!(named(&events, "tool_use").is_empty(), "it was never started");
}

#[tokio::test]
async fn a_call_runs_with_what_was_taken_out_gone() {
    let provider = Provider::start([bash("t1", "echo pin 1234"), says("Done.")]);
    provider.guards(200, json!({"decision": "allow", "input": {"command": "echo pin [redacted]"}}));
    let host = Host::start().await;
    let events = run(&host, &ask(&provider, "Say it.")).await;
    assert!(results(&events)[0].contains("pin [redacted]"), "{:?}", results(&events));
    assert_eq!(named(&events, "tool_use")[0]["input"]["command"], "echo pin [redacted]");
}

#[tokio::test]
async fn guardrails_that_are_away_are_asked_until_they_answer() {
    let provider = Provider::start([bash("t1", "echo ran"), says("Done.")]);
    provider.guards(503, json!({"detail": "the database is away"}));
    provider.guards(200, pending());
    provider.guards(502, json!({}));
    provider.guards(200, pending());
    provider.guards(200, json!({"decision": "allow"}));
    let host = Host::start().await;
    let events = run(&host, &ask(&provider, "Run it.")).await;
    assert_eq!(done(&events).outcome, Outcome::Done);
    assert!(results(&events)[0].contains("ran"));
    assert_eq!(named(&events, "tool_waits").len(), 1);
    // The question, the same again, then the approval until it is decided, then the question for its answer.
    let asked = provider.guard_asked();
    assert_eq!(asked[0], asked[1]);
    assert_eq!(asked[2], json!({"approval": ID}));
    assert_eq!(asked.last().unwrap(), &asked[0]);
}

#[tokio::test]
async fn a_turn_that_waits_can_be_cancelled() {
    let provider = Provider::start([bash("t1", "echo ran"), says("Never said.")]);
    provider.guards_for_ever(pending());
    let host = Host::start().await;
    let turn = ask(&provider, "Run it.");
    let stream = host.client.turn(&turn, 0).await.unwrap();
    let follows = tokio::spawn(all(stream));
    until("it waits", async || provider.guard_asked().len() > 1).await;
    host.client.cancel_turn(turn.turn).await.unwrap();
    let events = tokio::time::timeout(Duration::from_secs(20), follows).await.unwrap().unwrap();
    assert_eq!(done(&events).outcome, Outcome::Cancelled);
    assert_eq!(results(&events), ["Not run: the user ended the turn."]);
    assert!(named(&events, "tool_use").is_empty());
}

#[tokio::test]
async fn a_host_that_dies_while_its_agent_waits_asks_the_same_again_and_runs_it_once() {
    let provider =
        Provider::start([bash("t1", "echo one >> runs"), bash("t2", "echo two >> runs"), says("Both.")]);
    // The first is allowed after a wait, which is written down; the second waits when the host dies.
    provider.guards(200, pending());
    provider.guards(200, json!({"decision": "allow"}));
    provider.guards(200, json!({"decision": "allow"}));
    provider.guards_for_ever(pending());
    let host = Host::start().await;
    let session = host.claim(Env::default()).await;
    let turn = ask(&provider, "Do both.");
    let events = host.client.turn(&turn, 0).await.unwrap();
    until("the second waits", async || provider.guard_asked().len() >= 5).await;
    drop(events);
    let question = provider.guard_asked()[3].clone();
    assert_eq!(question["input"]["command"], "echo two >> runs");
    let dir = host.kill();
    let before = provider.guard_asked().len();
    provider.guards_no_more();
    let host = Host::start_in(dir).await;
    host.client.claim(&identity(session, Env::default())).await.unwrap();
    let events = all(host.client.turn(&turn, 0).await.unwrap()).await;
    assert_eq!(done(&events).outcome, Outcome::Done, "{:?}", done(&events));
    assert_eq!(std::fs::read_to_string(host.home().join("runs")).unwrap(), "one\ntwo\n");
    let again = provider.guard_asked()[before..].to_vec();
    assert!(
        again.iter().any(|q| q["call"] == question["call"] && q["input"] == question["input"]),
        "{again:?}"
    );
    assert!(
        again.iter().all(|q| q["input"]["command"] != "echo one >> runs"),
        "what was answered is not asked again"
    );
}
