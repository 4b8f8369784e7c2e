//! Starting and stopping.

use std::time::{Duration, Instant};

use wharf_ports::runtime::Fault;

use super::{Machine, ok, run};

pub async fn a_session_gets_a_computer_that_keeps_its_files_and_leaves_nothing_else(machine: &dyn Machine) {
    let spec = machine.spec();
    let running = machine.launch(&spec).await;
    assert_eq!((running.session, running.incarnation, running.warm), (spec.session, 1, false));
    assert_eq!(ok(&running, 0, "hostname; cat /etc/hostname"), "lab\nlab");
    assert!(ok(&running, 0, "cat /etc/hosts").contains("127.0.1.1\tlab"));
    assert_eq!(ok(&running, 1000, "id -u; whoami"), "1000\nagent");
    assert_eq!(ok(&running, 0, "echo kept > /root/file; readlink /proc/1/exe"), "/run/wharf/wharf-host");
    assert_eq!(machine.runtime().observe(spec.session).await.unwrap(), Some(running.clone()));

    machine.stop(&spec).await;
    assert_eq!(machine.runtime().observe(spec.session).await.unwrap(), None);
    assert_eq!(machine.leftovers(), "", "right after stop");
    assert!(!running.host_socket.exists());

    let mut again = spec.clone();
    again.incarnation = 2;
    let running = machine.launch(&again).await;
    assert_eq!(ok(&running, 0, "cat /root/file"), "kept");
    let inventory = machine.runtime().inventory().await.unwrap();
    assert_eq!(inventory.running, [running]);
    assert_eq!(inventory.volumes, [spec.volume.volume]);

    assert!(matches!(machine.runtime().delete_volume(spec.volume.volume).await, Err(Fault::InUse(_))));
    machine.stop(&again).await;
    machine.runtime().delete_volume(spec.volume.volume).await.unwrap();
    machine.runtime().delete_volume(spec.volume.volume).await.unwrap();
    assert_eq!(machine.runtime().inventory().await.unwrap().volumes, []);
}

pub async fn the_same_launch_twice_is_one_computer_and_a_newer_one_replaces_it(machine: &dyn Machine) {
    let (mut spec, first) = machine.session().await;
    assert_eq!(machine.launch(&spec).await, first);
    spec.incarnation = 5;
    let second = machine.launch(&spec).await;
    if machine.promises().new_jail_each_start {
        assert_ne!(second.jail, first.jail);
        assert!(!first.host_socket.exists());
    }
    assert_eq!(second.incarnation, 5);
    assert_eq!(machine.runtime().inventory().await.unwrap().running, [second]);

    spec.incarnation = 4;
    assert!(matches!(machine.runtime().launch(&spec).await, Err(Fault::Fenced(_))));
    assert_eq!(machine.runtime().observe(spec.session).await.unwrap().unwrap().incarnation, 5);
}

pub async fn stop_asks_first_and_kills_what_does_not_listen(machine: &dyn Machine) {
    let (spec, running) = machine.session().await;
    // Process 1 ends on SIGTERM, and with it whatever it left running.
    ok(&running, 1000, "(trap '' TERM; sleep 1000) >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 &");
    machine.stop(&spec).await;
    assert_eq!(machine.leftovers(), "");

    let (spec, running) = machine.session().await;
    let pid = rustix::process::Pid::from_raw(machine.first_process(&running)).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let begun = Instant::now();
    machine.runtime().stop(spec.session, Duration::from_millis(300)).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(machine.leftovers(), "");
    // Nothing to end is success.
    machine.stop(&spec).await;
}

pub async fn a_computer_that_ends_by_itself_is_cleared_away(machine: &dyn Machine) {
    let (spec, running) = machine.session().await;
    let _ = run(&running, 0, "kill -TERM 1; sleep 5");
    let begun = Instant::now();
    while machine.runtime().observe(spec.session).await.unwrap().is_some() || !machine.leftovers().is_empty()
    {
        assert!(begun.elapsed() < Duration::from_secs(5), "{}", machine.leftovers());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The same incarnation may start again: it ended, nobody took over.
    machine.launch(&spec).await;
}

pub async fn a_session_that_may_not_become_root_has_no_way_to(machine: &dyn Machine) {
    let mut spec = machine.spec();
    spec.allow_root = false;
    let running = machine.launch(&spec).await;
    let status = ok(&running, 0, "id -u; grep -E '^(Cap|NoNewPrivs)' /proc/1/status");
    let zero = "0000000000000000";
    assert_eq!(
        status.split_whitespace().collect::<Vec<_>>(),
        [
            "1000",
            "CapInh:",
            zero,
            "CapPrm:",
            zero,
            "CapEff:",
            zero,
            "CapBnd:",
            zero,
            "CapAmb:",
            zero,
            "NoNewPrivs:",
            "1"
        ]
    );
}

pub async fn refusals_name_their_reason(machine: &dyn Machine) {
    let mut spec = machine.spec();
    spec.volume.image.digest = "0".repeat(64);
    let Err(Fault::Refused(why)) = machine.runtime().launch(&spec).await else { panic!("launched") };
    assert!(why.contains("no image tiny@000"), "{why}");

    let (first, _) = machine.session().await;
    let mut second = machine.spec();
    second.volume.volume = first.volume.volume;
    assert!(matches!(machine.runtime().launch(&second).await, Err(Fault::InUse(_))));
    assert_eq!(machine.runtime().inventory().await.unwrap().running.len(), 1);
}

pub async fn many_at_once_all_start_and_all_go(machine: &dyn Machine) {
    let specs: Vec<_> = (0..24).map(|_| machine.spec()).collect();
    let started = futures_util::future::join_all(specs.iter().map(|spec| machine.launch(spec))).await;
    let mut owners: Vec<String> = started
        .iter()
        .map(|jail| ok(jail, 0, "cat /proc/self/uid_map").split_whitespace().nth(1).unwrap().to_owned())
        .collect();
    owners.sort();
    owners.dedup();
    if machine.promises().root_is_nobody {
        assert_eq!(owners.len(), specs.len(), "an id range of its own for each");
    }
    futures_util::future::join_all(specs.iter().map(|spec| machine.stop(spec))).await;
    assert_eq!(machine.leftovers(), "");
}
