//! Messages and their turns.

use std::time::Duration;

use wharf_domain::Code;
use wharf_domain::session::{Desired, State, TurnState};
use wharf_store::sessions::NewSession;

use crate::lab::Lab;

#[tokio::test]
async fn messages_run_in_the_order_they_were_posted_one_at_a_time() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    let mut last = 0;
    for n in 0..8 {
        last = lab.post(id, &format!("sleep {n}")).await;
    }
    lab.ended(id, last).await;
    lab.log(id).await;
    let state = lab.machine.lock();
    let ran: Vec<_> = state.ran.iter().map(|(_, t)| t.clone()).collect();
    assert_eq!(ran, (0..8).map(|n| format!("sleep {n}")).collect::<Vec<_>>());
    assert_eq!(state.most_at_once, 1);
    assert!(state.runs.values().all(|n| *n == 1));
}

#[tokio::test]
async fn sessions_do_not_wait_for_each_other() {
    let lab = Lab::new().await;
    let (a, b) = (lab.session().await, lab.session().await);
    let long = lab.post(a, "hang").await;
    lab.running(a, long).await;
    assert_eq!(lab.ask(b, "hello").await, ["re: hello"]);
    assert_eq!(lab.turn_state(a, long).await, TurnState::Running);
}

#[tokio::test]
async fn a_script_that_fails_is_a_turn_that_is_done_and_says_so() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    let seq = lab.post(id, "false").await;
    assert_eq!(lab.ended(id, seq).await.state, TurnState::Done);
    let log = lab.log(id).await;
    let end = log.iter().find(|e| e.kind == "turn.done").unwrap();
    assert_eq!((end.data["exit_code"].as_i64(), end.data["is_error"].as_bool()), (Some(1), Some(true)));
}

#[tokio::test]
async fn cancel_ends_the_running_turn_keeps_what_was_said_and_lets_the_next_run() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    let first = lab.post(id, "hang").await;
    let second = lab.post(id, "next").await;
    lab.running(id, first).await;
    lab.until(async || lab.kinds(id).await.contains(&"turn.output".to_owned())).await;
    lab.cancel(id).await;
    let message = lab.ended(id, first).await;
    assert_eq!((message.state, message.reason.as_deref()), (TurnState::Cancelled, Some("cancelled")));
    assert_eq!(lab.ended(id, second).await.state, TurnState::Done);
    assert!(lab.kinds(id).await.contains(&"turn.cancelled cancelled".to_owned()));
    // Nothing runs: nothing to end, and no error.
    lab.state(id, State::Idle).await;
    lab.cancel(id).await;
}

#[tokio::test]
async fn a_turn_over_its_limit_fails_with_that_reason() {
    let lab = Lab::new().await;
    let id = lab.create(NewSession { turn_timeout_seconds: 5, ..lab.plain() }).await;
    let seq = lab.post(id, "hang").await;
    lab.running(id, seq).await;
    lab.pass(Duration::from_secs(6));
    let message = lab.ended(id, seq).await;
    assert_eq!((message.state, message.reason.as_deref()), (TurnState::Failed, Some("turn_timeout")));
    assert_eq!(lab.ask(id, "and on").await, ["re: and on"]);
    assert_eq!(lab.machine.lock().launches, 1, "its computer obeyed, so it was kept");
}

#[tokio::test]
async fn a_host_that_does_not_obey_loses_its_computer_and_the_next_message_runs_in_a_new_one() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    let seq = lab.post(id, "deaf").await;
    // A turn runs from the commit of its message on; its host hears of it a moment later.
    lab.until(async || lab.machine.lock().ran.iter().any(|(s, text)| *s == id && text == "deaf")).await;
    lab.cancel(id).await;
    let message = lab.ended(id, seq).await;
    assert_eq!((message.state, message.reason.as_deref()), (TurnState::Cancelled, Some("cancelled")));
    assert_eq!(lab.ask(id, "better").await, ["re: better"]);
    assert_eq!(lab.machine.lock().launches, 2);
}

#[tokio::test]
async fn a_computer_that_dies_in_a_turn_fails_that_turn_as_interrupted_and_goes_on() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    let first = lab.post(id, "die").await;
    let second = lab.post(id, "alive").await;
    let message = lab.ended(id, first).await;
    assert_eq!((message.state, message.reason.as_deref()), (TurnState::Failed, Some("interrupted")));
    assert_eq!(lab.ended(id, second).await.state, TurnState::Done);
    let state = lab.machine.lock();
    assert!(state.runs.values().all(|n| *n == 1), "nothing ran twice");
    assert_eq!(state.launches, 2);
}

#[tokio::test]
async fn closing_a_busy_session_cancels_its_turn_and_keeps_the_queue_for_the_restore() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    let first = lab.post(id, "hang").await;
    let second = lab.post(id, "later").await;
    lab.running(id, first).await;
    lab.close(id).await;
    let message = lab.ended(id, first).await;
    assert_eq!((message.state, message.reason.as_deref()), (TurnState::Cancelled, Some("closed")));
    assert_eq!(lab.turn_state(id, second).await, TurnState::Queued);
    assert!(lab.machine.lock().jails.is_empty());
    lab.desire(id, Desired::Running).await.unwrap();
    assert_eq!(lab.ended(id, second).await.state, TurnState::Done);
}

#[tokio::test]
async fn a_message_that_is_too_large_names_the_limit_and_a_large_one_arrives() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    let e = lab.try_post(id, &"x".repeat(5 * 1024 * 1024)).await.unwrap_err();
    assert_eq!(e.code, Code::TooLarge);
    assert!(e.public.contains("MESSAGE_BYTES"), "{}", e.public);
    let text = "ä\0".repeat(200_000);
    let replies = lab.ask(id, &text).await;
    assert!(replies[0].strip_prefix("re: ") == Some(&text), "not a byte is lost");
}

#[tokio::test]
async fn the_queue_of_a_session_has_a_bound_that_is_named() {
    let lab = Lab::idle(wharf_domain::quota::Quotas::default()).await;
    let images = lab.machine.lock().images.clone();
    lab.store
        .system(wharf_store::Actor::Operator)
        .work(crate::leases::owner("x"))
        .sync_images("native", &images)
        .await
        .unwrap();
    let id = lab.create(lab.plain()).await;
    for n in 0..wharf_domain::limits::QUEUED_MESSAGES {
        lab.post(id, &n.to_string()).await;
    }
    let e = lab.try_post(id, "one more").await.unwrap_err();
    assert_eq!(e.code, Code::QuotaExceeded);
    assert!(e.public.contains("QUEUED_MESSAGES"), "{}", e.public);
}

#[tokio::test]
async fn a_turn_of_an_agent_that_keeps_a_journal_goes_on_at_the_next_computer() {
    let lab = Lab::new().await;
    let agent = serde_json::json!({"kind": "computer-use", "model": "any"});
    let id = lab.create(NewSession { agent, ..lab.plain() }).await;
    lab.state(id, State::Idle).await;
    let seq = lab.post(id, "hang").await;
    lab.until(async || lab.kinds(id).await.contains(&"turn.output".to_owned())).await;
    lab.machine.kill(id);
    let message = lab.ended(id, seq).await;
    assert_eq!((message.state, message.reason.as_deref()), (TurnState::Done, None));
    let kinds = lab.kinds(id).await;
    assert_eq!(kinds.iter().filter(|k| *k == "turn.started").count(), 1, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|k| *k == "turn.output").count(), 1, "what was heard is not said twice");
    assert!(lab.machine.lock().runs.values().all(|n| *n == 1));
    assert_eq!(lab.machine.lock().launches, 2);
}
