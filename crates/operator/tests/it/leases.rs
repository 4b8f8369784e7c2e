//! Several operators, dead operators, stale operators.

use std::time::Duration;

use wharf_domain::rbac::Verb;
use wharf_domain::session::{Desired, State, TurnState};
use wharf_domain::{Code, JailId, NameOrId, OperatorId, TurnId, VolumeId};
use wharf_ports::SandboxRuntime as _;
use wharf_ports::runtime::{JailSpec, Running, Source, VolumeSpec};
use wharf_store::Actor;
use wharf_store::sessions::work::{Claim, Owner, Task, TurnResult, Work};
use wharf_store::sessions::{Include, NewFork};

use crate::lab::Lab;
use crate::machine::base;

pub fn owner(machine: &str) -> Owner {
    Owner { operator: OperatorId::new(), machine: machine.to_owned() }
}

fn work(lab: &Lab, machine: &str) -> Work {
    lab.store.system(Actor::Operator).work(owner(machine))
}

async fn mine(work: &Work, id: wharf_domain::SessionId) -> Task {
    match work.claim(id).await.unwrap() {
        Claim::Mine(task) => *task,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lease_belongs_to_one_and_a_dead_owner_s_ends_by_itself() {
    let mut lab = Lab::new().await;
    let id = lab.session().await;
    lab.drain().await;
    let (one, two) = (work(&lab, "one"), work(&lab, "two"));
    let task = mine(&one, id).await;
    assert!(matches!(two.claim(id).await.unwrap(), Claim::Held(_)));
    assert_eq!(mine(&one, id).await.token, task.token, "claiming again is renewing");
    lab.db.clock.advance(Duration::from_secs(11));
    let taken = mine(&two, id).await;
    assert!(taken.token > task.token);
    assert!(matches!(one.claim(id).await.unwrap(), Claim::Held(_)));
    assert!(one.renew(&[(id, task.token)]).await.unwrap().is_empty());
    assert_eq!(two.renew(&[(id, taken.token)]).await.unwrap(), [id]);
}

#[tokio::test]
async fn an_earlier_start_on_the_same_machine_is_taken_over_at_once_and_another_machine_s_is_not() {
    let mut lab = Lab::new().await;
    let id = lab.session().await;
    lab.drain().await;
    mine(&work(&lab, "here"), id).await;
    let there = work(&lab, "there");
    assert_eq!(there.adopt().await.unwrap(), 0);
    assert!(matches!(there.claim(id).await.unwrap(), Claim::Held(_)));
    let again = work(&lab, "here");
    assert_eq!(again.adopt().await.unwrap(), 1);
    mine(&again, id).await;
}

#[tokio::test]
async fn nothing_is_written_with_a_stale_token() {
    let mut lab = Lab::new().await;
    let id = lab.session().await;
    lab.post(id, "hang").await;
    lab.state(id, State::Busy).await;
    lab.drain().await;
    let (one, two) = (work(&lab, "one"), work(&lab, "two"));
    let stale = mine(&one, id).await;
    let turn = stale.turn.clone().unwrap().id;
    let driven = one.turn(&stale, turn).await.unwrap();
    lab.db.clock.advance(Duration::from_secs(11));
    mine(&two, id).await;
    let before = lab.log(id).await.len();
    let lost = |r: Result<(), wharf_domain::Error>| assert_eq!(r.unwrap_err().code, Code::LeaseLost);
    lost(one.become_state(&stale, State::Idle, None).await);
    lost(one.note_death(&stale).await);
    lost(one.note_failure(&stale, "x").await);
    lost(one.stopped(&stale).await);
    lost(one.setup_done(&stale).await);
    lost(one.volume_made(&stale).await);
    lost(one.forget(&stale).await);
    lost(one.say(&stale, "x", &serde_json::json!({})).await);
    lost(one.append(&driven, driven.host_events, driven.host_events + 1, &[]).await);
    lost(one.end_turn(id, lab.space, stale.token, turn, &TurnResult::cancelled("x")).await);
    lost(one.claim_turn(&stale).await.map(drop));
    lost(
        one.open(
            &stale,
            &Running {
                jail: JailId::new(),
                session: id,
                incarnation: 9,
                volume: VolumeId::new(),
                host_socket: "/x".into(),
                warm: false,
            },
            None,
        )
        .await,
    );
    assert!(!one.close_idle(&stale).await.unwrap());
    assert_eq!(lab.log(id).await.len(), before);
    assert_eq!(lab.row(id).await.state, State::Busy);
}

#[tokio::test]
async fn what_a_host_said_is_written_once_however_often_it_is_appended() {
    let mut lab = Lab::new().await;
    let id = lab.session().await;
    lab.post(id, "hang").await;
    lab.until(async || lab.kinds(id).await.contains(&"turn.output".to_owned())).await;
    lab.drain().await;
    let one = work(&lab, "one");
    let task = mine(&one, id).await;
    let turn = one.turn(&task, task.turn.clone().unwrap().id).await.unwrap();
    let said = wharf_store::sessions::work::Append {
        kind: "turn.delta",
        data: serde_json::json!({"text": "x"}),
        message: None,
    };
    let n = turn.host_events;
    one.append(&turn, n, n + 1, std::slice::from_ref(&said)).await.unwrap();
    let again = one.append(&turn, n, n + 1, &[said]).await.unwrap_err();
    assert_eq!(again.code, Code::LeaseLost);
    assert_eq!(lab.kinds(id).await.iter().filter(|k| *k == "turn.delta").count(), 1);
}

#[tokio::test]
async fn a_turn_ends_once_whoever_ends_it() {
    let mut lab = Lab::new().await;
    let id = lab.session().await;
    let seq = lab.post(id, "hang").await;
    lab.running(id, seq).await;
    lab.drain().await;
    let one = work(&lab, "one");
    let task = mine(&one, id).await;
    let turn: TurnId = task.turn.clone().unwrap().id;
    for reason in ["first", "second"] {
        one.end_turn(id, lab.space, task.token, turn, &TurnResult::cancelled(reason)).await.unwrap();
    }
    assert_eq!(lab.ended(id, seq).await.reason.as_deref(), Some("first"));
    assert_eq!(lab.row(id).await.state, State::Idle);
    lab.log(id).await;
}

#[tokio::test]
async fn two_operators_share_the_work_and_no_message_runs_twice() {
    let mut lab = Lab::new().await;
    lab.start_on("there", Duration::from_millis(300));
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(lab.create(lab.plain()).await);
    }
    let mut posted = Vec::new();
    for n in 0..5 {
        for id in &sessions {
            posted.push((*id, lab.post(*id, &format!("sleep {n}")).await));
        }
    }
    for (id, seq) in posted {
        assert_eq!(lab.ended(id, seq).await.state, TurnState::Done);
    }
    let state = lab.machine.lock();
    assert!(state.runs.values().all(|n| *n == 1));
    assert_eq!((state.most_at_once, state.runs.len()), (1, 30));
}

#[tokio::test]
async fn a_turn_goes_on_under_the_next_operator_and_is_written_once() {
    let mut lab = Lab::new().await;
    let id = lab.session().await;
    let seq = lab.post(id, "sleep 400").await;
    lab.until(async || lab.kinds(id).await.contains(&"turn.output".to_owned())).await;
    lab.restart().await;
    let message = lab.ended(id, seq).await;
    assert_eq!(message.state, TurnState::Done);
    let kinds = lab.kinds(id).await;
    assert_eq!(kinds.iter().filter(|k| *k == "turn.output").count(), 1);
    assert_eq!(kinds.iter().filter(|k| *k == "turn.done").count(), 1);
    assert_eq!(lab.machine.lock().launches, 1, "the computer was not touched");
    lab.log(id).await;
}

#[tokio::test]
async fn after_a_restart_of_the_machine_sessions_come_back_and_their_turns_are_interrupted() {
    let mut lab = Lab::new().await;
    let (busy, idle, closed) = (lab.session().await, lab.session().await, lab.session().await);
    lab.close(closed).await;
    let seq = lab.post(busy, "hang").await;
    lab.until(async || lab.kinds(busy).await.contains(&"turn.output".to_owned())).await;
    lab.crash().await;
    lab.machine.reboot();
    lab.start();
    let message = lab.ended(busy, seq).await;
    assert_eq!((message.state, message.reason.as_deref()), (TurnState::Failed, Some("interrupted")));
    lab.until(async || lab.row(idle).await.computer.is_some_and(|c| c.incarnation == 2)).await;
    assert_eq!(lab.row(closed).await.state, State::Closed);
    assert!(!lab.machine.lock().jails.contains_key(&closed));
    assert_eq!(lab.ask(busy, "on").await, ["re: on"]);
    assert!(
        lab.machine.lock().runs.values().all(|n| *n == 1),
        "nothing ran twice although no journal was left"
    );
}

#[tokio::test]
async fn leftovers_of_nobody_are_removed_at_the_start_and_what_is_known_stays() {
    let mut lab = Lab::new().await;
    let id = lab.session().await;
    lab.crash().await;
    let stray = JailSpec {
        session: wharf_domain::SessionId::new(),
        incarnation: 1,
        volume: VolumeSpec { volume: VolumeId::new(), image: base(), disk_mib: 16, source: Source::Empty },
        resources: wharf_domain::quota::Resources::default(),
        hostname: crate::lab::name("stray"),
        allow_root: true,
    };
    lab.machine.launch(&stray).await.unwrap();
    lab.machine.snapshot(stray.volume.volume, wharf_domain::SnapshotId::new()).await.unwrap();
    lab.start();
    lab.until(async || {
        let state = lab.machine.lock();
        state.jails.len() == 1 && state.volumes.len() == 1 && state.snapshots.is_empty()
    })
    .await;
    assert_eq!(lab.ask(id, "hello").await, ["re: hello"]);
    assert_eq!(lab.machine.lock().launches, 2);
}

#[tokio::test]
async fn a_database_that_knows_nothing_of_a_full_machine_deletes_nothing() {
    let mut lab = Lab::idle(wharf_domain::quota::Quotas::default()).await;
    for _ in 0..5 {
        let spec = VolumeSpec { volume: VolumeId::new(), image: base(), disk_mib: 16, source: Source::Empty };
        lab.machine.prepare_volume(&spec).await.unwrap();
    }
    lab.start();
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(lab.machine.lock().volumes.len(), 5);
}

#[tokio::test]
async fn an_operator_that_is_told_to_stop_gives_its_leases_back() {
    let mut lab = Lab::new().await;
    let id = lab.session().await;
    lab.drain().await;
    mine(&work(&lab, "elsewhere"), id).await;
}

#[tokio::test]
async fn a_session_may_be_used_before_its_opening_is_on_the_disk_and_its_log_says_so_in_order() {
    let mut lab = Lab::new().await;
    lab.drain().await;
    let id = lab.create(lab.plain()).await;
    let one = work(&lab, "one");
    let task = mine(&one, id).await;
    let running = Running {
        jail: JailId::new(),
        session: id,
        incarnation: 1,
        volume: task.session.volume,
        host_socket: "/nowhere".into(),
        warm: false,
    };
    one.open(&task, &running, Some(State::Idle)).await.unwrap();
    assert!(lab.row(id).await.ready());
    assert_eq!(lab.kinds(id).await, ["session.state init"]);
    assert!(mine(&one, id).await.owed, "whoever comes next says it");
    let seq = lab.post(id, "quick").await;
    assert_eq!(lab.turn_state(id, seq).await, TurnState::Running, "nothing was before it");
    one.announce(&task).await.unwrap();
    assert!(!mine(&one, id).await.owed);
    assert_eq!(
        lab.kinds(id).await,
        ["session.state init", "message.created", "session.state idle", "session.state busy", "turn.started"]
    );
    lab.log(id).await;
}

#[tokio::test]
async fn a_turn_that_began_with_its_message_and_was_not_sent_is_sent_to_the_next_computer() {
    let mut lab = Lab::new().await;
    lab.drain().await;
    let id = lab.create(lab.plain()).await;
    let one = work(&lab, "one");
    let task = mine(&one, id).await;
    let gone = Running {
        jail: JailId::new(),
        session: id,
        incarnation: 1,
        volume: task.session.volume,
        host_socket: "/nowhere".into(),
        warm: false,
    };
    one.open(&task, &gone, Some(State::Idle)).await.unwrap();
    let seq = lab.post(id, "quick").await;
    assert_eq!(lab.turn_state(id, seq).await, TurnState::Running);
    let later = lab.post(id, "later").await;
    assert_eq!(lab.turn_state(id, later).await, TurnState::Queued, "one at a time");
    lab.machine
        .prepare_volume(&VolumeSpec {
            volume: task.session.volume,
            image: base(),
            disk_mib: 16,
            source: Source::Empty,
        })
        .await
        .unwrap();
    one.release_all().await.unwrap();
    lab.start();
    assert_eq!(lab.ended(id, seq).await.state, TurnState::Done);
    assert_eq!(lab.ended(id, later).await.state, TurnState::Done);
}

#[tokio::test]
async fn what_is_claimed_is_of_one_moment_however_long_the_claim_had_to_wait() {
    let mut lab = Lab::new().await;
    let id = lab.session().await;
    lab.crash().await;
    let operator = work(&lab, "here");
    operator.adopt().await.unwrap();
    // In one transaction here, because two that follow each other closely do not always get between a claim and its lock.
    let mut scope = lab.scope().await;
    let parent = scope.sessions().permit(&NameOrId::Id(id), Verb::Delete).await.unwrap();
    let permit = scope.sessions().allow(None).await.unwrap();
    let fork = NewFork {
        name: None,
        snapshot: None,
        include: Include { files: true, messages: true },
        resources: None,
        network: None,
        labels: None,
        metadata: None,
        prompt: None,
    };
    scope.sessions().fork(&permit, &parent, fork).await.unwrap();
    scope.sessions().desire(&parent, Desired::Deleted).await.unwrap();
    let claim = tokio::spawn(async move { mine(&operator, id).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!claim.is_finished(), "the row is locked");
    scope.commit().await.unwrap();
    let task = claim.await.unwrap();
    assert_eq!(task.session.desired, Desired::Deleted);
    assert_eq!(task.snapshots.len(), 1, "the files would be deleted before they are copied");
}
