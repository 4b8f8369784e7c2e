//! Copies of running computers.

use wharf_domain::SnapshotId;
use wharf_ports::runtime::Fault;

use super::{Machine, ok};

pub async fn a_fork_of_a_running_session_has_its_files_and_goes_its_own_way(machine: &dyn Machine) {
    let (spec, parent) = machine.session().await;
    ok(
        &parent,
        0,
        "mkdir /work; i=0; while [ $i -lt 300 ]; do echo $i > /work/$i; i=$((i+1)); done; rm /etc/group",
    );
    ok(&parent, 0, "(while :; do date >> /work/busy; done) >/dev/null 2>&1 &");
    let snapshot = SnapshotId::new();
    let taken = machine.runtime().snapshot(spec.volume.volume, snapshot).await.unwrap();
    assert!(taken.stall_micros > 0, "it runs, so it stood still for a moment");
    assert_eq!(machine.runtime().snapshot(spec.volume.volume, snapshot).await.unwrap().snapshot, snapshot);
    ok(&parent, 0, "echo later > /work/later; cat /work/busy | wc -l");

    let fork_spec = machine.fork_spec(snapshot);
    let fork = machine.launch(&fork_spec).await;
    assert_eq!(
        ok(&fork, 0, "ls /work | grep -v busy | wc -l; ls /etc/group /work/later 2>&1 | grep -c 'No such'"),
        "300\n2"
    );
    ok(&fork, 0, "rm -r /work");
    assert_eq!(ok(&parent, 0, "cat /work/later"), "later");

    assert!(matches!(machine.runtime().delete_image(machine.image()).await, Err(Fault::InUse(_))));
    machine.runtime().delete_snapshot(snapshot).await.unwrap();
    machine.runtime().delete_snapshot(snapshot).await.unwrap();
    assert!(machine.runtime().inventory().await.unwrap().snapshots.is_empty());
}

pub async fn a_closed_session_is_copied_without_anything_standing_still(machine: &dyn Machine) {
    let (spec, running) = machine.session().await;
    ok(&running, 0, "echo kept > /root/file");
    machine.stop(&spec).await;
    let snapshot = SnapshotId::new();
    assert_eq!(machine.runtime().snapshot(spec.volume.volume, snapshot).await.unwrap().stall_micros, 0);
    // The copy does not need the original.
    machine.runtime().delete_volume(spec.volume.volume).await.unwrap();
    let fork = machine.launch(&machine.fork_spec(snapshot)).await;
    assert_eq!(ok(&fork, 0, "cat /root/file"), "kept");
}

pub async fn what_is_not_there_is_said_to_be_missing(machine: &dyn Machine) {
    let spec = machine.spec();
    let missing = machine.runtime().snapshot(spec.volume.volume, SnapshotId::new()).await;
    assert!(matches!(missing, Err(Fault::Missing(_))), "{missing:?}");
    let missing = machine.runtime().launch(&machine.fork_spec(SnapshotId::new())).await;
    assert!(matches!(missing, Err(Fault::Missing(_))), "{missing:?}");
    let missing = machine.runtime().stats(spec.session, spec.volume.volume).await;
    assert!(matches!(missing, Err(Fault::Missing(_))), "{missing:?}");
}
