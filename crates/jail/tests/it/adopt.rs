//! A jailer that dies, and the one after it.

use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use std::time::Duration;

use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::Fault;

use wharf_testkit::contract::Machine as _;

use crate::harness::{ok, run};
use crate::machine;

#[tokio::test]
async fn sessions_outlive_a_killed_jailer_and_the_next_one_takes_them_over() {
    let mut machine = machine!();
    let (spec, before) = machine.session().await;
    ok(&before, 1000, "echo here > /tmp/file; (sleep 1000 >/dev/null 2>&1 &)");
    machine.kill_jailer();
    // Nobody is there to ask, and the session does not notice.
    assert!(matches!(machine.runtime.observe(spec.session).await, Err(Fault::Away(_))));
    assert_eq!(ok(&before, 1000, "cat /tmp/file"), "here");

    machine.start_jailer(true);
    assert_eq!(machine.runtime.observe(spec.session).await.unwrap(), Some(before.clone()));
    assert_eq!(machine.launch(&spec).await, before, "the same launch again is the same computer");
    assert_eq!(ok(&before, 1000, "cat /tmp/file; ps | grep -c '[s]leep 1000'"), "here\n1");
    let stats = machine.runtime.stats(spec.session, spec.volume.volume).await.unwrap();
    assert!(stats.memory_bytes > 0 && stats.pids > 0 && stats.cpu_usage_micros > 0, "{stats:?}");

    // A second session does not get the first one's ids.
    let (other, running) = machine.session().await;
    assert_ne!(ok(&running, 0, "cat /proc/self/uid_map"), ok(&before, 0, "cat /proc/self/uid_map"));

    machine.stop(&spec).await;
    machine.stop(&other).await;
    assert_eq!(machine.leftovers(), "");
}

#[tokio::test]
async fn a_jailer_told_to_leave_leaves_its_jails_unless_told_to_take_them() {
    let mut machine = machine!();
    let (spec, running) = machine.session().await;
    machine.kill_jailer();
    machine.start_jailer(false);
    machine.stop_jailer();
    assert_eq!(ok(&running, 0, "echo still here"), "still here");
    machine.start_jailer(true);
    assert_eq!(machine.runtime.observe(spec.session).await.unwrap(), Some(running));
    machine.stop_jailer();
    assert_eq!(machine.leftovers(), "");
    machine.start_jailer(true);
    assert_eq!(machine.runtime.observe(spec.session).await.unwrap(), None);
}

#[tokio::test]
async fn who_was_overtaken_stays_overtaken_after_a_crash() {
    let mut machine = machine!();
    let mut spec = machine.spec();
    spec.incarnation = 7;
    machine.launch(&spec).await;
    machine.stop(&spec).await;
    machine.kill_jailer();
    machine.start_jailer(true);
    spec.incarnation = 6;
    let Err(Fault::Fenced(why)) = machine.runtime.launch(&spec).await else {
        panic!("an old incarnation started")
    };
    assert!(why.contains('7'), "{why}");
    spec.incarnation = 8;
    machine.launch(&spec).await;
}

#[tokio::test]
async fn what_a_crash_left_half_made_is_removed() {
    let mut machine = machine!();
    let (spec, running) = machine.session().await;
    machine.kill_jailer();
    // As if the crash had come while it was still being made.
    let state = running.host_socket.with_file_name("state.json");
    let record =
        std::fs::read_to_string(&state).unwrap().replace(r#""phase":"running""#, r#""phase":"starting""#);
    std::fs::write(&state, record).unwrap();
    // And one of which only a group is left, one of which only a directory, and one nobody can read.
    let groups = machine.cgroups();
    let id = wharf_domain::JailId::new().to_string();
    for group in &groups {
        std::fs::create_dir(group.join(&id)).unwrap();
    }
    let other = wharf_domain::JailId::new().to_string();
    std::fs::create_dir(machine.dir.join("run/jails").join(&other)).unwrap();
    std::fs::write(machine.dir.join("run/jails").join(&other).join("state.json"), "{").unwrap();

    machine.start_jailer(true);
    assert_eq!(machine.leftovers(), "");
    assert_eq!(machine.runtime.observe(spec.session).await.unwrap(), None);
    let again = machine.launch(&spec).await;
    assert_ne!(again.jail, running.jail);
}

#[tokio::test]
async fn a_pid_that_means_another_process_by_now_is_not_adopted() {
    let mut machine = machine!();
    let (spec, running) = machine.session().await;
    machine.kill_jailer();
    let state = running.host_socket.with_file_name("state.json");
    let record = std::fs::read_to_string(&state).unwrap();
    let pid = record.split(r#""pid":"#).nth(1).unwrap().split(',').next().unwrap().to_owned();
    let bystander = std::process::id().to_string();
    std::fs::write(&state, record.replace(&format!(r#""pid":{pid},"#), &format!(r#""pid":{bystander},"#)))
        .unwrap();
    machine.start_jailer(true);
    // The bystander lives (it is this test), the jail it was mistaken for is cleared away.
    assert_eq!(machine.runtime.observe(spec.session).await.unwrap(), None);
    assert_eq!(machine.leftovers(), "");
}

#[tokio::test]
async fn a_jail_left_frozen_by_a_crash_goes_on() {
    let mut machine = machine!();
    let (_, running) = machine.session().await;
    machine.kill_jailer();
    let id = running.jail.to_string();
    let mut frozen = false;
    for group in machine.cgroups() {
        frozen |= std::fs::write(group.join(&id).join("cgroup.freeze"), "1").is_ok();
        frozen |= std::fs::write(group.join(&id).join("freezer.state"), "FROZEN").is_ok();
    }
    assert!(frozen);
    machine.start_jailer(true);
    assert_eq!(ok(&running, 0, "echo awake"), "awake");
}

#[tokio::test]
async fn kills_at_random_moments_lose_nothing() {
    let mut machine = machine!();
    let (spec, running) = machine.session().await;
    for round in 0_u64..8 {
        let others: Vec<_> = (0..3).map(|_| machine.spec()).collect();
        let launches = futures_util::future::join_all(others.iter().map(|s| machine.runtime.launch(s)));
        // Whatever has been answered by then, and whatever is under way.
        let _ = tokio::time::timeout(Duration::from_millis(3 + round * 5), launches).await;
        machine.kill_jailer();
        machine.start_jailer(true);
        for other in &others {
            let up = machine.launch(other).await;
            assert_eq!(run(&up, 0, "true").0, 0);
            machine.stop(other).await;
            machine.runtime.delete_volume(other.volume.volume).await.unwrap();
        }
        assert_eq!(ok(&running, 0, "echo up"), "up");
        let inventory = machine.runtime.inventory().await.unwrap();
        assert_eq!((inventory.running.len(), inventory.volumes.len()), (1, 1), "round {round}");
    }
    machine.stop(&spec).await;
    assert_eq!(machine.leftovers(), "");
}

/// What the kernel told of a directory since somebody began to listen: how, and the name.
fn heard(ear: &rustix::fd::OwnedFd) -> Vec<(ReadFlags, String)> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(ear, &mut buffer);
    let mut all = Vec::new();
    while let Ok(event) = reader.next() {
        let name = event.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        all.push((event.events(), name));
    }
    all
}

#[tokio::test]
async fn a_jail_is_seen_when_the_control_plane_may_reach_into_it_and_not_before() {
    let mut machine = machine!();
    let jails = machine.dir.join("run/jails");
    let ear = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&ear, &jails, WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB).unwrap();
    let (spec, running) = machine.session().await;
    let told = heard(&ear);
    let of_it: Vec<_> = told.iter().filter(|(_, name)| *name == running.jail.to_string()).collect();
    assert!(!of_it.is_empty(), "{told:?}");
    // Whoever listens looks at once; nothing is done to it after it has its name.
    assert!(of_it.iter().all(|(what, _)| what.contains(ReadFlags::MOVED_TO)), "{told:?}");
    machine.stop(&spec).await;

    // One that a killed jailer was about to name goes with the next start.
    let half = jails.join(format!("{}.making", wharf_domain::JailId::new()));
    machine.kill_jailer();
    std::fs::create_dir(&half).unwrap();
    machine.start_jailer(true);
    assert!(!half.exists());
}
