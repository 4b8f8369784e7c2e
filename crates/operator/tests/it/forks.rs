//! Snapshots, forks, and where a session came from.

use wharf_domain::rbac::Verb;
use wharf_domain::session::{Desired, State, TurnState};
use wharf_domain::{Code, Error, NameOrId, SessionId, SnapshotId};
use wharf_store::sessions::{Include, NewFork, NewSnapshot, SnapshotRow, SnapshotState};

use crate::lab::Lab;

const ALL: Include = Include { files: true, messages: true };

async fn try_fork(
    lab: &Lab,
    of: SessionId,
    from: Option<SnapshotId>,
    include: Include,
) -> Result<SessionId, Error> {
    let mut scope = lab.scope().await;
    let parent = scope.sessions().permit(&NameOrId::Id(of), Verb::Get).await?;
    let snapshot = match from {
        Some(id) => Some(Box::new(scope.snapshots().permit(id, Verb::Get).await?.into_row())),
        None => None,
    };
    let permit = scope.sessions().allow(None).await?;
    let fork = NewFork {
        name: None,
        snapshot,
        include,
        resources: None,
        network: None,
        labels: None,
        metadata: None,
        prompt: None,
    };
    let row = scope.sessions().fork(&permit, &parent, fork).await?;
    scope.commit().await?;
    Ok(row.id)
}

async fn fork(lab: &Lab, of: SessionId, include: Include) -> SessionId {
    try_fork(lab, of, None, include).await.unwrap()
}

async fn snapshot(lab: &Lab, of: SessionId) -> SnapshotRow {
    let mut scope = lab.scope().await;
    let session = scope.sessions().permit(&NameOrId::Id(of), Verb::Get).await.unwrap();
    let permit = scope.snapshots().allow(None).await.unwrap();
    let row = scope.snapshots().create(&permit, &session, NewSnapshot::default()).await.unwrap();
    scope.commit().await.unwrap();
    row
}

async fn ready(lab: &Lab, id: SnapshotId) -> SnapshotRow {
    lab.until(async || read(lab, id).await.state != SnapshotState::Pending).await;
    read(lab, id).await
}

async fn read(lab: &Lab, id: SnapshotId) -> SnapshotRow {
    lab.scope().await.snapshots().permit(id, Verb::Get).await.unwrap().into_row()
}

async fn delete_snapshot(lab: &Lab, id: SnapshotId) {
    let mut scope = lab.scope().await;
    let permit = scope.snapshots().permit(id, Verb::Delete).await.unwrap();
    scope.snapshots().delete(&permit).await.unwrap();
    scope.commit().await.unwrap();
}

async fn files(lab: &Lab, id: SessionId) -> Vec<String> {
    let volume = lab.row(id).await.volume;
    lab.machine.lock().volumes[&volume].files.iter().cloned().collect()
}

#[tokio::test]
async fn a_fork_of_a_running_session_has_its_files_and_messages_and_goes_its_own_way() {
    let lab = Lab::new().await;
    let parent = lab.session().await;
    lab.ask(parent, "common").await;
    let child = fork(&lab, parent, ALL).await;
    lab.state(child, State::Idle).await;
    lab.ask(child, "mine").await;
    lab.ask(parent, "theirs").await;
    assert_eq!(files(&lab, child).await, ["common", "mine"]);
    assert_eq!(files(&lab, parent).await, ["common", "theirs"]);
    let permit = lab.permit(child).await;
    let messages = lab.scope().await.sessions().messages(&permit, 0, 100).await.unwrap();
    let texts: Vec<_> = messages.iter().map(|m| m.content[0]["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts, ["common", "re: common", "mine", "re: mine"]);
    assert!(messages.iter().all(|m| m.state == TurnState::Done));
    // Nothing of the parent ran again in the child.
    assert!(lab.machine.lock().runs.values().all(|n| *n == 1));
    // The snapshot it was made from is not kept.
    lab.until(async || lab.machine.lock().snapshots.is_empty()).await;
    for id in [child, parent] {
        lab.delete(id).await;
    }
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn a_fork_of_a_busy_session_does_not_take_the_running_turn_along() {
    let lab = Lab::new().await;
    let parent = lab.session().await;
    lab.ask(parent, "done").await;
    let seq = lab.post(parent, "hang").await;
    lab.running(parent, seq).await;
    let child = fork(&lab, parent, ALL).await;
    lab.state(child, State::Idle).await;
    let permit = lab.permit(child).await;
    let messages = lab.scope().await.sessions().messages(&permit, 0, 100).await.unwrap();
    assert_eq!(messages.len(), 2);
    assert_eq!(lab.turn_state(parent, seq).await, TurnState::Running);
    assert_eq!(lab.ask(child, "free").await, ["re: free"]);
}

#[tokio::test]
async fn a_fork_of_a_closed_session_leaves_it_closed() {
    let lab = Lab::new().await;
    let parent = lab.session().await;
    lab.ask(parent, "common").await;
    lab.close(parent).await;
    let child = fork(&lab, parent, Include { files: true, messages: false }).await;
    lab.state(child, State::Idle).await;
    assert_eq!(files(&lab, child).await, ["common"]);
    let permit = lab.permit(child).await;
    assert!(lab.scope().await.sessions().messages(&permit, 0, 100).await.unwrap().is_empty());
    assert_eq!(lab.row(parent).await.state, State::Closed);
}

#[tokio::test]
async fn a_fork_without_files_begins_with_the_image() {
    let lab = Lab::new().await;
    let parent = lab.session().await;
    lab.ask(parent, "common").await;
    let child = fork(&lab, parent, Include { files: false, messages: true }).await;
    lab.state(child, State::Idle).await;
    assert!(files(&lab, child).await.is_empty());
    let origin = lab.row(child).await.parent.unwrap();
    assert_eq!((origin.session, origin.snapshot), (parent, None));
}

#[tokio::test]
async fn a_fork_that_was_accepted_is_made_although_its_parent_is_deleted_at_once() {
    let lab = Lab::new().await;
    let parent = lab.session().await;
    lab.ask(parent, "common").await;
    let child = fork(&lab, parent, ALL).await;
    lab.desire(parent, Desired::Deleted).await.unwrap();
    lab.state(child, State::Idle).await;
    assert_eq!(files(&lab, child).await, ["common"]);
    lab.delete(child).await;
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn a_fork_of_a_session_that_is_just_being_made_waits_for_it() {
    let lab = Lab::new().await;
    let parent = lab.create(lab.plain()).await;
    let child = fork(&lab, parent, ALL).await;
    let grandchild = fork(&lab, child, ALL).await;
    lab.state(grandchild, State::Idle).await;
    lab.state(child, State::Idle).await;
    lab.until(async || lab.machine.lock().snapshots.is_empty()).await;
}

#[tokio::test]
async fn a_snapshot_outlives_its_session_and_forks_made_of_it_outlive_the_snapshot() {
    let lab = Lab::new().await;
    let parent = lab.session().await;
    lab.ask(parent, "common").await;
    let taken = snapshot(&lab, parent).await;
    let taken = ready(&lab, taken.id).await;
    assert_eq!((taken.state, taken.bytes, taken.stall_micros), (SnapshotState::Ready, Some(7), Some(42)));
    lab.ask(parent, "after").await;
    assert_eq!(lab.usage().await.disk_mib, 2 * u64::from(taken.disk_mib));
    let child = try_fork(&lab, parent, Some(taken.id), ALL).await.unwrap();
    delete_snapshot(&lab, taken.id).await;
    lab.state(child, State::Idle).await;
    assert_eq!(files(&lab, child).await, ["common"]);
    let permit = lab.permit(child).await;
    let messages = lab.scope().await.sessions().messages(&permit, 0, 100).await.unwrap();
    assert_eq!(messages.len(), 2, "messages up to the snapshot, not after it");
    lab.until(async || lab.machine.lock().snapshots.is_empty()).await;
    lab.delete(parent).await;
    lab.delete(child).await;
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn snapshots_of_a_deleted_session_stay_until_they_are_deleted_themselves() {
    let lab = Lab::new().await;
    let parent = lab.session().await;
    let id = snapshot(&lab, parent).await.id;
    lab.delete(parent).await;
    assert_eq!(ready(&lab, id).await.state, SnapshotState::Ready);
    delete_snapshot(&lab, id).await;
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn a_snapshot_of_a_session_without_files_is_refused_and_so_is_a_fork() {
    let lab = Lab::new().await;
    lab.machine.lock().refuse_launch = Some("no".into());
    let id = lab.create(lab.plain()).await;
    lab.state(id, State::Error).await;
    let e = try_fork(&lab, id, None, ALL).await.unwrap_err();
    assert_eq!(e.code, Code::InvalidState);
    assert!(e.public.contains("error") && e.public.contains("fork"), "{}", e.public);
}

#[tokio::test]
async fn a_fork_of_one_that_never_comes_up_fails_with_the_reason() {
    let mut lab = Lab::new().await;
    lab.crash().await;
    let parent = lab.create(lab.plain()).await;
    let child = fork(&lab, parent, ALL).await;
    lab.machine.lock().refuse_launch = Some("no".into());
    lab.start();
    let row = lab.state(child, State::Error).await;
    assert!(row.state_reason.unwrap().contains("snapshot"));
    lab.machine.lock().refuse_launch = None;
    lab.delete(child).await;
    lab.delete(parent).await;
    lab.nothing_is_left().await;
}

#[tokio::test]
async fn the_lineage_of_a_session_names_ancestors_and_descendants() {
    let lab = Lab::new().await;
    let a = lab.session().await;
    lab.until(async || lab.kinds(a).await.len() == 2).await;
    let seq = lab.row(a).await.last_seq;
    let b = fork(&lab, a, ALL).await;
    let c = fork(&lab, b, ALL).await;
    let d = fork(&lab, b, ALL).await;
    for id in [b, c, d] {
        lab.state(id, State::Idle).await;
    }
    lab.delete(a).await;
    let permit = lab.permit(b).await;
    let line = lab.scope().await.sessions().lineage(&permit).await.unwrap();
    assert_eq!(line.ancestors.iter().map(|n| (n.id, n.state)).collect::<Vec<_>>(), [(a, None)]);
    assert_eq!(line.descendants.iter().map(|n| n.id).collect::<Vec<_>>(), [c, d]);
    assert_eq!(line.session.parent.map(|p| (p.session, p.seq)), Some((a, seq)));
    assert_eq!(line.session.state, Some(State::Idle));
}

#[tokio::test]
async fn a_snapshot_that_fails_for_a_moment_holds_up_the_deletion_that_comes_after_it() {
    let lab = Lab::new().await;
    let parent = lab.session().await;
    lab.ask(parent, "common").await;
    lab.machine.lock().fail_snapshots = 2;
    let child = fork(&lab, parent, ALL).await;
    lab.desire(parent, Desired::Deleted).await.unwrap();
    lab.state(child, State::Idle).await;
    assert_eq!(files(&lab, child).await, ["common"]);
    // One that always fails fails the fork, and the deletion goes on.
    lab.machine.lock().fail_snapshots = u32::MAX;
    let other = fork(&lab, child, ALL).await;
    lab.desire(child, Desired::Deleted).await.unwrap();
    let row = lab.state(other, State::Error).await;
    let why = row.state_reason.unwrap();
    assert!(why.contains("no luck"), "{why}");
    lab.delete(other).await;
    lab.nothing_is_left().await;
}
