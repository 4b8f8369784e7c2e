//! What is the engine's own: what it cannot promise, and what happens when it or its caller goes away.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use wharf_domain::quota::Resources;
use wharf_domain::{SnapshotId, VolumeId};
use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::{Fault, Source};
use wharf_testkit::contract::{Machine as _, ok, run};

use crate::harness::{Machine, directory};
use crate::machine;

#[tokio::test]
async fn what_the_engine_cannot_promise_is_said_and_refused() {
    if wharf_testkit::docker::missing().is_some() {
        return;
    }
    let machine = Machine::start(false).await;
    let said = machine.runtime.capabilities().await.unwrap();
    assert_eq!((said.runtime.as_str(), said.cheap_snapshots), ("docker", false));
    assert!(said.cpu_limit && said.memory_limit && said.pids_limit, "{said:?}");
    assert!(!said.disk_limit && !said.waives_disk_limit, "{said:?}");
    assert!(!said.root_is_nobody && !said.waives_user_namespaces, "{said:?}");
    let mut spec = machine.spec();
    let Err(Fault::Refused(why)) = machine.runtime.launch(&spec).await else { panic!("launched") };
    assert!(why.contains("root of the machine") && why.contains("docker.waive_user_namespaces"), "{why}");
    spec.allow_root = false;
    let Err(Fault::Refused(why)) = machine.runtime.launch(&spec).await else { panic!("launched") };
    assert!(why.contains("128 MiB") && why.contains("docker.waive_disk_limit"), "{why}");
    assert!(machine.runtime.inventory().await.unwrap().volumes.is_empty());
    machine.runtime.keep_warm(&machine.image.name, 0).await.unwrap();
    let Err(Fault::Refused(why)) = machine.runtime.keep_warm(&machine.image.name, 1).await else {
        panic!("it promised computers that stand ready")
    };
    assert!(why.contains("warm.tiny"), "{why}");
}

#[tokio::test]
async fn a_runtime_that_died_finds_its_sessions_again_and_ends_what_it_only_half_started() {
    let mut machine = machine!();
    let (spec, running) = machine.session().await;
    let (half, half_running) = machine.session().await;
    ok(&running, 1000, "echo here > /tmp/file; (sleep 1000 >/dev/null 2>&1 &)");
    // As if it had died before it wrote down that the second one runs.
    let record = half_running.host_socket.with_file_name("runtime.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let started = text.split(r#""started_at":"#).nth(1).unwrap().trim_end_matches('}').to_owned();
    std::fs::write(&record, text.replace(&started, "null")).unwrap();
    // And in the middle of a copy of the first one.
    machine.docker(&["pause", &format!("wharf-{}", spec.volume.volume)]);
    machine.again();
    assert_eq!(machine.runtime.observe(spec.session).await.unwrap(), Some(running.clone()));
    assert_eq!(machine.runtime.observe(half.session).await.unwrap(), None);
    assert_eq!(machine.launch(&spec).await, running, "the same launch again is the same computer");
    assert_eq!(ok(&running, 1000, "cat /tmp/file; ps | grep -c '[s]leep 1000'"), "here\n1");
    let again = machine.launch(&half).await;
    assert_eq!(ok(&again, 0, "echo up"), "up");
    // Who was overtaken stays overtaken.
    let mut newer = spec.clone();
    newer.incarnation = 7;
    machine.launch(&newer).await;
    machine.again();
    assert!(matches!(machine.runtime.launch(&spec).await, Err(Fault::Fenced(_))));
    machine.stop(&newer).await;
    machine.stop(&half).await;
    assert_eq!(machine.leftovers(), "");
}

/// A mount that goes away with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn on(at: &Path, args: &[&str]) -> Self {
        let done = Command::new("mount").args(args).arg(at).status().unwrap();
        assert!(done.success(), "mount {args:?} {}", at.display());
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn one_computer_that_cannot_be_put_right_keeps_nobody_from_the_others() {
    let mut machine = machine!();
    let (spec, running) = machine.session().await;
    let (bad, bad_running) = machine.session().await;
    // The bad one was only half started, and its directory cannot be removed.
    let record = bad_running.host_socket.with_file_name("runtime.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let started = text.split(r#""started_at":"#).nth(1).unwrap().trim_end_matches('}').to_owned();
    std::fs::write(&record, text.replace(&started, "null")).unwrap();
    let place = bad_running.host_socket.parent().unwrap().to_owned();
    let stuck = Mounted::on(&place, &["--bind", place.to_str().unwrap()]);
    machine.again();
    assert_eq!(machine.runtime.observe(spec.session).await.unwrap(), Some(running.clone()));
    assert_eq!(machine.runtime.inventory().await.unwrap().running, std::slice::from_ref(&running));
    assert_eq!(ok(&running, 0, "echo works"), "works");
    machine.runtime.observe(bad.session).await.unwrap_err();
    drop(stuck);
    // Whoever looks at it next puts it right.
    assert_eq!(machine.runtime.observe(bad.session).await.unwrap(), None);
    let again = machine.launch(&bad).await;
    assert_eq!(ok(&again, 0, "echo up"), "up");
    machine.stop(&spec).await;
    machine.stop(&bad).await;
    assert_eq!(machine.leftovers(), "");
}

#[tokio::test]
async fn a_disk_limit_is_promised_where_a_try_of_it_works_and_it_bites() {
    if wharf_testkit::docker::missing().is_some() {
        return;
    }
    let dir = directory();
    let disk = dir.join("disk");
    File::create(&disk).unwrap().set_len(2 << 30).unwrap();
    let made = Command::new("mkfs.btrfs").arg("-q").arg(&disk).status().unwrap();
    assert!(made.success());
    std::fs::create_dir(dir.join("engine")).unwrap();
    let mounted = Mounted::on(&dir.join("engine"), &["-o", "loop", disk.to_str().unwrap()]);
    let machine = Machine::start_in(dir, false).await;
    let said = machine.runtime.capabilities().await.unwrap();
    assert!(said.disk_limit && said.volumes.starts_with("btrfs"), "{said:?}");
    assert_eq!(machine.docker(&["ps", "-aq"]), "", "nothing is left of the try");
    let mut spec = machine.spec();
    spec.allow_root = false;
    let running = machine.launch(&spec).await;
    let (code, text) = run(&running, 1000, "dd if=/dev/zero of=/tmp/big bs=1M count=200");
    assert!(code != 0 && text.to_lowercase().contains("quota"), "{code} {text}");
    machine.stop(&spec).await;
    drop(machine);
    drop(mounted);
}

#[tokio::test]
async fn an_engine_that_goes_away_is_away_and_comes_back_with_all_files() {
    let mut machine = machine!();
    let (mut spec, running) = machine.session().await;
    ok(&running, 0, "echo kept > /root/file; sync");
    machine.engine.down();
    assert!(matches!(machine.runtime.observe(spec.session).await, Err(Fault::Away(_))));
    assert!(matches!(machine.runtime.inventory().await, Err(Fault::Away(_))));
    machine.engine.up();
    assert_eq!(machine.runtime.observe(spec.session).await.unwrap(), None, "it ended with the engine");
    assert!(!running.host_socket.exists());
    spec.incarnation += 1;
    spec.volume.source = Source::Existing;
    let running = machine.launch(&spec).await;
    assert_eq!(ok(&running, 0, "cat /root/file"), "kept");
}

#[tokio::test]
async fn a_volume_that_should_be_there_and_is_not_is_missing() {
    let machine = machine!();
    let mut spec = machine.spec();
    spec.volume.source = Source::Existing;
    let missing = machine.runtime.launch(&spec).await;
    assert!(matches!(missing, Err(Fault::Missing(_))), "{missing:?}");
    // Made and never started: it is there, can be copied and deleted, and has a container only once it runs.
    let prepared = machine.spec();
    machine.runtime.prepare_volume(&prepared.volume).await.unwrap();
    machine.runtime.prepare_volume(&prepared.volume).await.unwrap();
    assert_eq!(machine.runtime.inventory().await.unwrap().volumes, [prepared.volume.volume]);
    let snapshot = SnapshotId::new();
    machine.runtime.snapshot(prepared.volume.volume, snapshot).await.unwrap();
    machine.runtime.delete_volume(prepared.volume.volume).await.unwrap();
    let fork = machine.launch(&machine.fork_spec(snapshot)).await;
    assert_eq!(ok(&fork, 0, "echo fork"), "fork");
    assert!(matches!(machine.runtime.delete_volume(VolumeId::new()).await, Ok(())));
}

#[tokio::test]
async fn what_cannot_be_changed_in_a_container_is_changed_by_another_one_on_the_same_files() {
    let machine = machine!();
    let (mut spec, running) = machine.session().await;
    ok(&running, 0, "echo kept > /root/file; chown 1000:1000 /root/file; rm /etc/group");
    machine.stop(&spec).await;
    spec.incarnation += 1;
    spec.volume.source = Source::Existing;
    spec.hostname = "renamed".parse().unwrap();
    spec.resources = Resources { memory_mib: 128, pids: 50, ..spec.resources };
    let running = machine.launch(&spec).await;
    assert_eq!(
        ok(&running, 0, "hostname; cat /root/file; stat -c %u /root/file; ls /etc/group 2>&1 | grep -c No"),
        "renamed\nkept\n1000\n1"
    );
    let stats = machine.runtime.stats(spec.session, spec.volume.volume).await.unwrap();
    assert_eq!(stats.memory_limit_bytes >> 20, 128);
    assert!(stats.disk_bytes > 0 && stats.memory_bytes > 0 && stats.pids > 0, "{stats:?}");
    assert_eq!(machine.docker(&["ps", "-aq"]).lines().count(), 1, "the old one is gone");
}

#[tokio::test]
async fn what_was_deleted_leaves_nothing_on_the_engine() {
    let machine = machine!();
    let (spec, running) = machine.session().await;
    ok(&running, 0, "dd if=/dev/urandom of=/big bs=1M count=5 2>/dev/null");
    let snapshot = SnapshotId::new();
    let taken = machine.runtime.snapshot(spec.volume.volume, snapshot).await.unwrap();
    assert!(taken.bytes >= 5 << 20, "{taken:?}");
    let fork_spec = machine.fork_spec(snapshot);
    let fork = machine.launch(&fork_spec).await;
    // The fork stands on the copy without its name.
    machine.runtime.delete_snapshot(snapshot).await.unwrap();
    assert_eq!(ok(&fork, 0, "stat -c %s /big"), (5 << 20).to_string());
    for spec in [&spec, &fork_spec] {
        machine.stop(spec).await;
        machine.runtime.delete_volume(spec.volume.volume).await.unwrap();
    }
    machine.runtime.delete_image(&machine.image).await.unwrap();
    machine.runtime.delete_image(&machine.image).await.unwrap();
    assert_eq!(machine.docker(&["ps", "-aq"]), "");
    assert_eq!(machine.docker(&["images", "-aq"]), "");
    assert_eq!(machine.leftovers(), "");
}

#[tokio::test]
async fn containers_of_others_are_not_ours_to_touch() {
    let machine = machine!();
    let (_, running) = machine.session().await;
    let image = machine.docker(&["images", "-q"]).lines().next().unwrap().to_owned();
    machine.docker(&["run", "-d", "--name", "other", "--network", "none", &image, "/bin/sleep", "1000"]);
    machine.runtime.stop_all(Duration::from_secs(1)).await.unwrap();
    assert!(!running.host_socket.exists());
    assert_eq!(machine.docker(&["ps", "--format", "{{.Names}}"]), "other");
    assert_eq!(machine.runtime.inventory().await.unwrap().volumes.len(), 1);
    machine.docker(&["rm", "-f", "other"]);
}

#[tokio::test]
async fn the_hosts_socket_is_out_of_reach_from_inside() {
    let machine = machine!();
    let (_, running) = machine.session().await;
    assert_eq!(ok(&running, 0, "ls -A /run/wharf/door; ls /run/wharf"), "door\ngateway\nwharf-host");
    for attempt in [
        "touch /run/wharf/door/s",
        "touch /run/wharf/gateway/x",
        "umount /run/wharf/door",
        "mount -o remount,rw /run/wharf/door",
    ] {
        let (code, text) = run(&running, 0, attempt);
        assert_ne!(code, 0, "{attempt}: {text}");
    }
}
