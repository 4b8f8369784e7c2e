//! Closing, being closed, coming back, going away.

use std::time::Duration;

use wharf_domain::rbac::Verb;
use wharf_domain::session::{Desired, State, TurnState};
use wharf_domain::{Code, NameOrId};
use wharf_store::sessions::NewSession;

use crate::lab::{Lab, SOON, name};

#[tokio::test]
async fn closing_keeps_files_and_log_and_a_message_brings_it_back() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    lab.ask(id, "first").await;
    let before: Vec<_> = lab.log(id).await.into_iter().map(|e| (e.seq, e.kind)).collect();
    lab.close(id).await;
    lab.close(id).await;
    assert!(lab.machine.lock().jails.is_empty());
    assert_eq!(lab.usage().await.running_sessions, 0);
    assert_eq!(lab.ask(id, "second").await, ["re: second"]);
    let after: Vec<_> = lab.log(id).await.into_iter().map(|e| (e.seq, e.kind)).collect();
    assert_eq!(after[..before.len()], before[..]);
    let volume = lab.row(id).await.volume;
    let files: Vec<_> = lab.machine.lock().volumes[&volume].files.iter().cloned().collect();
    assert_eq!(files, ["first", "second"]);
    assert_eq!(lab.usage().await.running_sessions, 1);
}

#[tokio::test]
async fn an_idle_session_closes_when_its_time_is_over_and_an_open_terminal_keeps_it() {
    let lab = Lab::new().await;
    let id = lab.create(NewSession { idle_timeout_seconds: 60, ..lab.plain() }).await;
    lab.state(id, State::Idle).await;
    let terminal = lab.store.begin_use(id);
    lab.until(async || lab.row(id).await.in_use_until.is_some()).await;
    for _ in 0..4 {
        lab.pass(Duration::from_secs(50));
        // The server pushes the end of the use ahead of the clock.
        let now = lab.store.now();
        lab.until(async || lab.row(id).await.in_use_until.is_some_and(|t| t > now)).await;
    }
    assert_eq!(lab.row(id).await.state, State::Idle);
    drop(terminal);
    lab.until(async || lab.row(id).await.in_use_until.is_none()).await;
    lab.pass(Duration::from_secs(50));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lab.row(id).await.desired, Desired::Running, "the time counts from the end of the use");
    lab.pass(Duration::from_secs(20));
    lab.state(id, State::Closed).await;
    assert!(lab.kinds(id).await.contains(&"session.closing".to_owned()));
}

#[tokio::test]
async fn a_busy_session_is_not_closed_for_idleness_and_its_time_begins_with_the_end_of_the_turn() {
    let lab = Lab::new().await;
    let id = lab.create(NewSession { idle_timeout_seconds: 10, ..lab.plain() }).await;
    let seq = lab.post(id, "hang").await;
    lab.running(id, seq).await;
    lab.pass(Duration::from_secs(100));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lab.row(id).await.state, State::Busy);
    lab.cancel(id).await;
    lab.ended(id, seq).await;
    lab.pass(Duration::from_secs(8));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lab.row(id).await.state, State::Idle);
    lab.pass(Duration::from_secs(3));
    lab.state(id, State::Closed).await;
}

#[tokio::test]
async fn a_session_that_never_closes_by_itself_does_not() {
    let lab = Lab::new().await;
    let id = lab.create(NewSession { idle_timeout_seconds: 0, ..lab.plain() }).await;
    lab.state(id, State::Idle).await;
    lab.pass(Duration::from_hours(24 * 365));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lab.row(id).await.state, State::Idle);
}

#[tokio::test]
async fn files_of_a_closed_session_are_served_for_a_while_and_it_stays_closed() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    lab.close(id).await;
    let hold = async || {
        let mut scope = lab.scope().await;
        let permit = scope.sessions().permit_files(&NameOrId::Id(id), Verb::Get).await.unwrap();
        scope.sessions().hold(&permit).await.unwrap();
        scope.commit().await.unwrap();
        let clock = lab.store.clone();
        lab.store.wait_session(&permit, SOON, |s| s.endpoint(clock.now()).is_some()).await.unwrap().unwrap()
    };
    let row = hold().await;
    assert_eq!((row.state, row.ready()), (State::Closed, false));
    assert!(row.endpoint(lab.store.now()).is_some());
    assert!(lab.machine.lock().jails[&id].limits.memory_mib < row.resources.memory_mib);
    assert_eq!(lab.usage().await.running_sessions, 0);
    lab.pass(Duration::from_secs(61));
    lab.until(async || lab.machine.lock().jails.is_empty()).await;
    // Restored while it is held, it is promoted where it stands.
    hold().await;
    let launches = lab.machine.lock().launches;
    lab.desire(id, Desired::Running).await.unwrap();
    let row = lab.state(id, State::Idle).await;
    assert_eq!(lab.machine.lock().launches, launches);
    assert_eq!(lab.machine.lock().jails[&id].limits, row.resources);
}

#[tokio::test]
async fn deleting_frees_everything_and_the_name_at_once_and_may_be_repeated() {
    let lab = Lab::new().await;
    let id = lab.create(NewSession { name: Some(name("mine")), ..lab.plain() }).await;
    let seq = lab.post(id, "hang").await;
    lab.running(id, seq).await;
    lab.desire(id, Desired::Deleted).await.unwrap();
    let other = lab.create(NewSession { name: Some(name("mine")), ..lab.plain() }).await;
    lab.desire(id, Desired::Deleted).await.unwrap();
    let mut scope = lab.scope().await;
    let e = scope.sessions().permit(&NameOrId::Id(id), Verb::Get).await.unwrap_err();
    assert_eq!(e.code, Code::NotFound);
    drop(scope);
    assert_eq!(lab.desire(id, Desired::Running).await.unwrap_err().code, Code::NotFound);
    lab.until(async || !lab.machine.lock().jails.contains_key(&id)).await;
    lab.delete(other).await;
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn a_session_can_be_deleted_in_every_state() {
    let lab = Lab::new().await;
    let closed = lab.session().await;
    lab.close(closed).await;
    lab.delete(closed).await;
    let fresh = lab.create(lab.plain()).await;
    lab.delete(fresh).await;
    lab.machine.lock().refuse_launch = Some("no".into());
    let broken = lab.create(lab.plain()).await;
    lab.state(broken, State::Error).await;
    lab.delete(broken).await;
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn a_session_in_error_can_be_closed_and_then_restored() {
    let lab = Lab::new().await;
    lab.machine.lock().refuse_launch = Some("no".into());
    let id = lab.create(lab.plain()).await;
    lab.state(id, State::Error).await;
    lab.machine.lock().refuse_launch = None;
    lab.close(id).await;
    assert_eq!(lab.ask(id, "hello").await, ["re: hello"]);
}

#[tokio::test]
async fn messages_of_a_deleted_session_end_and_rows_of_it_go_after_a_while() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    let first = lab.post(id, "hang").await;
    let second = lab.post(id, "never").await;
    lab.running(id, first).await;
    let permit = lab.permit(id).await;
    lab.delete(id).await;
    let message = lab.store.wait_turn(&permit, second, SOON).await.unwrap();
    assert_eq!((message.state, message.reason.as_deref()), (TurnState::Cancelled, Some("deleted")));
    lab.nothing_is_left().await;
    let work = lab.store.system(wharf_store::Actor::Operator).work(crate::leases::owner("x"));
    assert_eq!(work.purge(Duration::from_hours(1)).await.unwrap(), 0);
    lab.db.clock.advance(Duration::from_hours(2));
    assert_eq!(work.purge(Duration::from_hours(1)).await.unwrap(), 1);
    assert_eq!(lab.store.wait_turn(&permit, second, SOON).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_session_that_is_wanted_again_before_its_close_is_done_is_closed_first() {
    let mut lab = Lab::new().await;
    let id = lab.session().await;
    lab.ask(id, "first").await;
    let launches = lab.machine.lock().launches;
    // Nobody looks while both wishes come in.
    lab.crash().await;
    lab.desire(id, Desired::Closed).await.unwrap();
    let row = lab.desire(id, Desired::Running).await.unwrap();
    assert_eq!((row.state, row.closing, row.ready()), (State::Idle, true, false));
    assert!(row.endpoint(lab.store.now()).is_none(), "nobody is sent to a computer that is about to end");
    let seq = lab.post(id, "second").await;
    assert_eq!(lab.turn_state(id, seq).await, TurnState::Queued);
    lab.start();
    let message = lab.ended(id, seq).await;
    assert_eq!(lab.replies(id, &message).await, ["re: second"]);
    assert_eq!(lab.machine.lock().launches, launches + 1);
    let kinds = lab.kinds(id).await;
    let at =
        |what: &str| kinds.iter().rposition(|k| k == what).unwrap_or_else(|| panic!("no {what}: {kinds:?}"));
    assert!(at("session.state closed") < at("turn.started"), "{kinds:?}");
    lab.state(id, State::Idle).await;
    // What it reserved was neither given back nor taken twice.
    let usage = lab.usage().await;
    assert_eq!((usage.running_sessions, usage.sessions), (1, 1));
    lab.close(id).await;
    assert_eq!(lab.usage().await.running_sessions, 0);
    lab.delete(id).await;
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn a_session_closed_before_it_ever_ran_comes_up_when_it_is_wanted_again() {
    let mut lab = Lab::new().await;
    lab.crash().await;
    let id = lab.create(lab.plain()).await;
    lab.desire(id, Desired::Closed).await.unwrap();
    lab.desire(id, Desired::Running).await.unwrap();
    lab.start();
    lab.state(id, State::Idle).await;
    assert_eq!(lab.usage().await.running_sessions, 1);
    assert_eq!(lab.ask(id, "hello").await, ["re: hello"]);
}
