//! Limits that bite, inside and only there.

use std::time::{Duration, Instant};

use wharf_domain::quota::Resources;
use wharf_ports::runtime::Fault;

use super::{Machine, ok, run};

pub async fn a_memory_bomb_ends_inside_only(machine: &dyn Machine) {
    let (spec, running) = machine.session().await;
    let (_, neighbour) = machine.session().await;
    // awk doubles a string until its 256 MiB are gone.
    let (code, _) = run(&running, 1000, r#"awk 'BEGIN { s = "xxxxxxxx"; while (1) s = s s }'"#);
    assert_ne!(code, 0);
    let stats = machine.runtime().stats(spec.session, spec.volume.volume).await.unwrap();
    assert!(stats.oom_kills >= 1, "{stats:?}");
    assert!(stats.memory_peak_bytes <= stats.memory_limit_bytes, "{stats:?}");
    assert_eq!(ok(&neighbour, 0, "echo fine"), "fine");
    assert_eq!(ok(&running, 0, "echo the rest lives"), "the rest lives");
}

pub async fn memory_files_count_too(machine: &dyn Machine) {
    let (spec, running) = machine.session().await;
    let (code, _) = run(&running, 0, "dd if=/dev/zero of=/dev/shm/x bs=1M count=400");
    assert_ne!(code, 0);
    let stats = machine.runtime().stats(spec.session, spec.volume.volume).await.unwrap();
    assert!(stats.memory_bytes <= stats.memory_limit_bytes, "{stats:?}");
}

pub async fn a_fork_bomb_is_bounded_and_can_be_stopped(machine: &dyn Machine) {
    let mut spec = machine.spec();
    spec.resources.pids = 40;
    let running = machine.launch(&spec).await;
    ok(&running, 1000, "f() { f | f & }; (f >/dev/null 2>&1 &) ; sleep 0.3");
    let stats = machine.runtime().stats(spec.session, spec.volume.volume).await.unwrap();
    assert!((20..=40).contains(&stats.pids), "{stats:?}");
    let begun = Instant::now();
    machine.stop(&spec).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(machine.leftovers(), "");
}

pub async fn a_busy_session_gets_its_share_of_the_cpu_and_no_more(machine: &dyn Machine) {
    let mut slow = machine.spec();
    slow.resources.cpu_millis = 200;
    let (slow_jail, (other, other_jail)) = (machine.launch(&slow).await, machine.session().await);
    for jail in [&slow_jail, &other_jail] {
        ok(jail, 1000, "for i in 1 2 3; do (while :; do :; done) >/dev/null 2>&1 & done");
    }
    let used = async |spec: &wharf_ports::runtime::JailSpec| {
        machine.runtime().stats(spec.session, spec.volume.volume).await.unwrap().cpu_usage_micros as f64 / 1e6
    };
    let (begun, slow_before, other_before) = (Instant::now(), used(&slow).await, used(&other).await);
    tokio::time::sleep(Duration::from_millis(2000)).await;
    let wall = begun.elapsed().as_secs_f64();
    let (slow_share, other_share) =
        ((used(&slow).await - slow_before) / wall, (used(&other).await - other_before) / wall);
    assert!((0.02..0.25).contains(&slow_share), "0.2 cores at most, and not nothing: {slow_share}");
    assert!((0.1..1.1).contains(&other_share), "one core at most: {other_share}");

    // More on demand, while it runs.
    let more = Resources { cpu_millis: 600, ..slow.resources };
    machine.runtime().set_limits(slow.session, slow.volume.volume, &more).await.unwrap();
    let (begun, before) = (Instant::now(), used(&slow).await);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let share = (used(&slow).await - before) / begun.elapsed().as_secs_f64();
    assert!(share > slow_share && share < 0.7, "{slow_share} → {share}");
}

pub async fn a_full_disk_is_the_sessions_own(machine: &dyn Machine) {
    if !machine.promises().disk_limit {
        return;
    }
    let (spec, running) = machine.session().await;
    let (_, neighbour) = machine.session().await;
    let (code, text) = run(&running, 0, "dd if=/dev/urandom of=/big bs=1M count=400; e=$?; sync; exit $e");
    assert_ne!(code, 0, "{text}");
    assert!(text.contains("quota exceeded") || text.contains("No space left"), "{text}");
    let stats = machine.runtime().stats(spec.session, spec.volume.volume).await.unwrap();
    assert!(stats.disk_bytes <= stats.disk_limit_bytes, "{stats:?}");
    assert!(stats.disk_bytes > stats.disk_limit_bytes / 2, "{stats:?}");
    ok(&neighbour, 0, "dd if=/dev/urandom of=/file bs=1M count=20 2>/dev/null; sync");
    // It comes back when the session makes room, and grows when it is given more.
    ok(&running, 0, "rm /big; sync; echo x > /small");
    let more = Resources { disk_mib: 512, ..spec.resources };
    machine.runtime().set_limits(spec.session, spec.volume.volume, &more).await.unwrap();
    ok(&running, 0, "dd if=/dev/urandom of=/big bs=1M count=300 2>/dev/null");
}

pub async fn endless_small_files_end_at_the_limit_too(machine: &dyn Machine) {
    if !machine.promises().disk_limit {
        return;
    }
    let mut spec = machine.spec();
    (spec.volume.disk_mib, spec.resources.disk_mib) = (16, 16);
    let running = machine.launch(&spec).await;
    let (_, neighbour) = machine.session().await;
    let fill = r"mkdir /n; i=0; while [ $i -lt 60000 ]; do j=0; while [ $j -lt 500 ]; do echo > /n/$i.$j || exit 7; j=$((j+1)); done; i=$((i+500)); done 2>/dev/null";
    assert_eq!(run(&running, 0, fill).0, 7, "the file system of all is not to be filled by one");
    ok(&neighbour, 0, "echo x > /file; sync");
}

pub async fn a_limit_below_what_is_used_is_refused_and_the_old_ones_stay(machine: &dyn Machine) {
    let (spec, running) = machine.session().await;
    ok(&running, 0, "dd if=/dev/urandom of=/dev/shm/x bs=1M count=100 2>/dev/null");
    ok(&running, 0, "dd if=/dev/urandom of=/file bs=1M count=40 2>/dev/null; sync");
    let tight = Resources { memory_mib: 32, ..spec.resources };
    let refused = machine.runtime().set_limits(spec.session, spec.volume.volume, &tight).await;
    assert!(matches!(refused, Err(Fault::Refused(_))), "{refused:?}");
    let stats = machine.runtime().stats(spec.session, spec.volume.volume).await.unwrap();
    assert_eq!(stats.memory_limit_bytes >> 20, 256);
    if !machine.promises().disk_limit {
        return;
    }
    let tight = Resources { disk_mib: 20, ..spec.resources };
    let refused = machine.runtime().set_limits(spec.session, spec.volume.volume, &tight).await;
    assert!(matches!(refused, Err(Fault::Refused(_))), "{refused:?}");
    ok(&running, 0, "dd if=/dev/urandom of=/file2 bs=1M count=40 2>/dev/null");
}

pub async fn numbers_that_are_no_limits_are_refused_before_anything_is_made(machine: &dyn Machine) {
    for nonsense in [
        Resources { cpu_millis: 0, ..Resources::default() },
        Resources { memory_mib: 0, ..Resources::default() },
        Resources { pids: 0, ..Resources::default() },
    ] {
        let mut spec = machine.spec();
        spec.resources = nonsense;
        let refused = machine.runtime().launch(&spec).await;
        assert!(matches!(refused, Err(Fault::Refused(_))), "{refused:?}");
        assert!(machine.runtime().inventory().await.unwrap().volumes.is_empty());
    }
}
