//! Creating, setting up, failing, starting again.

use std::time::Duration;

use wharf_domain::quota::{Quotas, Resources};
use wharf_domain::rbac::Verb;
use wharf_domain::session::{Desired, State, TurnState};
use wharf_domain::{Code, NameOrId};
use wharf_store::sessions::{NewSession, SessionPatch};

use crate::lab::{Lab, name, says};

#[tokio::test]
async fn a_session_comes_up_and_its_first_message_is_answered() {
    let lab = Lab::new().await;
    let id = lab.create(NewSession { prompt: Some(says("hello")), ..lab.plain() }).await;
    let row = lab.state(id, State::Idle).await;
    assert!(row.endpoint(lab.store.now()).is_some() || row.state == State::Busy);
    let message = lab.ended(id, 2).await;
    assert_eq!(message.state, TurnState::Done);
    assert_eq!(lab.replies(id, &message).await, ["re: hello"]);
    lab.state(id, State::Idle).await;
    lab.log(id).await;
    assert_eq!(
        lab.kinds(id).await,
        [
            "session.state init",
            "message.created",
            "session.state idle",
            "session.state busy",
            "turn.started",
            "turn.output",
            "turn.tool_use",
            "message.created",
            "turn.done",
            "session.state idle",
        ]
    );
    let entry = &lab.log(id).await[7];
    assert_eq!(entry.data["content"][0]["text"], "re: hello");
    // Output with a NUL is kept as it was.
    assert_eq!(lab.log(id).await[5].data["text"], "$ hello\0");
}

#[tokio::test]
async fn an_unknown_image_is_refused_with_the_known_ones() {
    let lab = Lab::new().await;
    let e = lab.try_create(NewSession::of(name("windows"))).await.unwrap_err();
    assert_eq!(e.code, Code::InvalidReference);
    assert!(e.public.contains("base"), "{}", e.public);
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn a_quota_that_is_full_admits_nothing_and_a_deleted_session_gives_its_share_back() {
    let quotas = Quotas { running_sessions: Some(1), ..Quotas::default() };
    let mut lab = Lab::idle(quotas).await;
    lab.start();
    lab.until(async || lab.try_create(lab.plain()).await.is_ok()).await;
    let e = lab.try_create(lab.plain()).await.unwrap_err();
    assert_eq!((e.code, e.field.as_deref()), (Code::QuotaExceeded, Some("running_sessions")));
    let id = lab.sessions().await[0].id;
    lab.state(id, State::Idle).await;
    lab.close(id).await;
    let other = lab.session().await;
    assert_eq!(lab.try_post(id, "wake up").await.unwrap_err().code, Code::QuotaExceeded);
    assert_eq!(lab.row(id).await.state, State::Closed);
    lab.delete(other).await;
    lab.until(async || lab.try_post(id, "wake up").await.is_ok()).await;
    lab.state(id, State::Idle).await;
    lab.delete(id).await;
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn the_setup_script_runs_once_in_the_life_of_a_volume() {
    let lab = Lab::new().await;
    let id = lab.create(NewSession { setup: Some("apt install cowsay".into()), ..lab.plain() }).await;
    lab.state(id, State::Idle).await;
    lab.close(id).await;
    lab.ask(id, "again").await;
    assert_eq!(lab.machine.lock().setups, 1);
    let kinds = lab.kinds(id).await;
    assert_eq!(kinds[1..4], ["setup.started", "setup.output", "setup.ended"]);
}

#[tokio::test]
async fn a_setup_script_that_fails_fails_the_session_with_its_last_words() {
    let lab = Lab::new().await;
    let id = lab.create(NewSession { setup: Some("please fail".into()), ..lab.plain() }).await;
    let row = lab.state(id, State::Error).await;
    let why = row.state_reason.unwrap();
    assert!(why.contains("exit code 1") && why.contains("please fail"), "{why}");
    lab.until(async || lab.machine.lock().jails.is_empty()).await;
    let e = lab.try_post(id, "hello").await.unwrap_err();
    assert_eq!(e.code, Code::InvalidState);
    assert!(e.public.contains("error") && e.public.contains("busy"), "both states are named: {}", e.public);
    lab.delete(id).await;
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn a_setup_script_that_takes_long_does_not_hold_up_its_deletion() {
    let lab = Lab::new().await;
    let id = lab.create(NewSession { setup: Some("slow".into()), ..lab.plain() }).await;
    lab.until(async || lab.machine.lock().setups == 1).await;
    lab.delete(id).await;
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn a_limit_that_cannot_be_kept_fails_the_create_and_restore_tries_again() {
    let lab = Lab::new().await;
    lab.machine.lock().refuse_launch = Some("memory_mib is more than the machine has".into());
    let id = lab.create(lab.plain()).await;
    let row = lab.state(id, State::Error).await;
    assert_eq!(row.state_reason.as_deref(), Some("memory_mib is more than the machine has"));
    assert_eq!(lab.usage().await.running_sessions, 0, "one in error reserves nothing that runs");
    lab.machine.lock().refuse_launch = None;
    lab.desire(id, Desired::Running).await.unwrap();
    let row = lab.state(id, State::Idle).await;
    assert_eq!((row.state_reason, lab.usage().await.running_sessions), (None, 1));
}

#[tokio::test]
async fn a_start_that_fails_for_a_moment_is_repeated_and_one_that_always_fails_ends_in_error() {
    let lab = Lab::new().await;
    lab.machine.lock().fail_launches = 2;
    let id = lab.session().await;
    assert_eq!(lab.machine.lock().launches, 1);
    lab.machine.lock().fail_launches = u32::MAX;
    let other = lab.create(lab.plain()).await;
    let row = lab.state(other, State::Error).await;
    assert!(row.state_reason.unwrap().contains("5 failures"), "{:?}", lab.kinds(other).await);
    lab.machine.lock().fail_launches = 0;
    assert_eq!(lab.ask(id, "still here").await, ["re: still here"]);
}

#[tokio::test]
async fn a_runtime_that_is_away_changes_nothing_but_the_time_it_takes() {
    let lab = Lab::new().await;
    lab.machine.lock().away = true;
    let id = lab.create(lab.plain()).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let row = lab.row(id).await;
    assert_eq!((row.state, row.failures), (State::Init, 0));
    lab.machine.lock().away = false;
    lab.state(id, State::Idle).await;
}

#[tokio::test]
async fn a_computer_that_dies_is_started_again_and_nobody_need_ask() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    lab.machine.kill(id);
    lab.until(async || lab.machine.lock().launches == 2).await;
    lab.until(async || lab.row(id).await.computer.is_some_and(|c| c.incarnation == 2)).await;
    assert_eq!(lab.ask(id, "hello").await, ["re: hello"]);
}

#[tokio::test]
async fn who_finds_a_dead_computer_says_so_and_gets_a_new_one_at_once() {
    let mut lab = Lab::idle(Quotas::default()).await;
    // Nobody looks around for an hour.
    lab.start_on("here", Duration::from_hours(1));
    lab.until(async || lab.try_create(lab.plain()).await.is_ok()).await;
    let id = lab.sessions().await[0].id;
    let row = lab.state(id, State::Idle).await;
    lab.machine.kill(id);
    lab.store.suspect(&row).await.unwrap();
    let permit = lab.permit(id).await;
    let now = lab.store.now();
    let row = lab
        .store
        .wait_session(&permit, crate::lab::SOON, |s| s.endpoint(now).is_some())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.endpoint(now).unwrap().incarnation, 2);
    // A report about a computer that lives costs a look, not the computer.
    lab.store.suspect(&row).await.unwrap();
    lab.store.wait_session(&permit, crate::lab::SOON, |s| s.endpoint(now).is_some()).await.unwrap().unwrap();
    assert_eq!(lab.machine.lock().launches, 2);
}

#[tokio::test]
async fn a_computer_that_always_dies_ends_in_error_after_a_few_attempts() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    lab.machine.lock().dies = true;
    lab.machine.kill(id);
    let row = lab.state(id, State::Error).await;
    assert!(row.state_reason.unwrap().contains("failures in a row"));
    assert_eq!(lab.machine.lock().launches, 5);
    lab.until(async || lab.machine.lock().jails.is_empty()).await;
}

#[tokio::test]
async fn new_limits_reach_a_running_computer_and_a_refusal_is_told() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    let bigger = Resources { memory_mib: 2048, ..Resources::default() };
    let update = async |resources| {
        let mut scope = lab.scope().await;
        let permit = scope.sessions().permit(&NameOrId::Id(id), Verb::Update).await.unwrap();
        let patch = SessionPatch { resources: Some(resources), ..SessionPatch::default() };
        scope.sessions().update(&permit, patch).await.unwrap();
        scope.commit().await.unwrap();
    };
    update(bigger).await;
    lab.until(async || lab.machine.lock().jails[&id].limits == bigger).await;
    assert_eq!(lab.usage().await.memory_mib, 2048);
    lab.machine.lock().refuse_limits = Some("there is not that much".into());
    update(Resources { memory_mib: 999_999, ..bigger }).await;
    lab.until(async || lab.kinds(id).await.iter().any(|k| k.contains("there is not that much"))).await;
    assert_eq!(lab.row(id).await.state, State::Idle);
}

#[tokio::test]
async fn a_session_shows_up_in_lists_by_state_agent_and_labels() {
    let lab = Lab::new().await;
    let labels: std::collections::BTreeMap<String, String> = [("team".to_owned(), "a".to_owned())].into();
    let id = lab
        .create(NewSession { name: Some(name("one")), labels: labels.try_into().unwrap(), ..lab.plain() })
        .await;
    lab.state(id, State::Idle).await;
    let other = lab.session().await;
    lab.close(other).await;
    let list = async |state, agent: Option<&str>, labels: Option<&str>| {
        let filter = wharf_store::sessions::SessionFilter { state, agent: agent.map(str::to_owned) };
        let page = wharf_store::PageRequest::new(None, None, labels).unwrap();
        let page = lab.scope().await.sessions().list(&filter, &page).await.unwrap();
        page.items.into_iter().map(|s| s.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None, None).await, [id, other]);
    assert_eq!(list(Some(State::Closed), None, None).await, [other]);
    assert_eq!(list(None, Some("shell"), Some("team=a")).await, [id]);
    assert_eq!(list(None, Some("command"), None).await, []);
    let e = lab.try_create(NewSession { name: Some(name("one")), ..lab.plain() }).await.unwrap_err();
    assert_eq!(e.code, Code::AlreadyExists);
}

#[tokio::test]
async fn computers_stand_ready_of_images_that_are_there_and_of_those_that_come_later() {
    let lab = Lab::new().await;
    let warm = || lab.machine.lock().warm.clone().into_iter().collect::<Vec<_>>();
    lab.until(async || warm() == [("base".to_owned(), 2)]).await;
    let mut image = lab.machine.lock().images[0].clone();
    image.image.name = name("later");
    lab.machine.lock().images.push(image);
    lab.until(async || warm() == [("base".to_owned(), 2), ("later".to_owned(), 1)]).await;
}

#[tokio::test]
async fn files_that_were_lost_are_an_error_and_not_an_empty_disk() {
    let lab = Lab::new().await;
    let id = lab.session().await;
    lab.close(id).await;
    lab.machine.lock().volumes.clear();
    lab.desire(id, Desired::Running).await.unwrap();
    let row = lab.state(id, State::Error).await;
    assert!(row.state_reason.unwrap().contains("no volume"));
    lab.delete(id).await;
    lab.nothing_is_left().await;
}
