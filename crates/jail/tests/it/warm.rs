//! Jails that stand ready.

use wharf_domain::{Name, VolumeId};
use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::Fault;

use wharf_testkit::contract::Machine as _;

use crate::harness::{Machine, ok};
use crate::machine;

async fn warm(machine: &Machine, count: u32) {
    machine.runtime.keep_warm(&machine.image.name, count).await.unwrap();
    machine.wait_for_warm(count as usize);
}

#[tokio::test]
async fn a_create_takes_a_jail_that_stands_ready_and_another_one_follows() {
    let machine = machine!();
    warm(&machine, 2).await;
    let inventory = machine.runtime.inventory().await.unwrap();
    assert!(inventory.running.is_empty() && inventory.volumes.is_empty(), "nobody's yet: {inventory:?}");

    let mut spec = machine.spec();
    spec.hostname = "harbour".parse::<Name>().unwrap();
    spec.resources.memory_mib = 96;
    spec.resources.pids = 40;
    let running = machine.launch(&spec).await;
    assert!(running.warm);
    assert_eq!(running.volume, spec.volume.volume);
    assert_eq!(
        ok(&running, 0, "hostname; cat /etc/hostname; grep -c harbour /etc/hosts"),
        "harbour\nharbour\n1"
    );
    assert!(!ok(&running, 0, "cat /etc/hosts").contains("warm"));
    let stats = machine.runtime.stats(spec.session, spec.volume.volume).await.unwrap();
    assert_eq!((stats.memory_limit_bytes >> 20, stats.disk_limit_bytes >> 20), (96, 128));
    let inventory = machine.runtime.inventory().await.unwrap();
    assert_eq!((inventory.running, inventory.volumes), (vec![running.clone()], vec![spec.volume.volume]));
    assert_eq!(machine.launch(&spec).await, running);
    machine.wait_for_warm(2);

    // What it wrote is its volume's, warm or not.
    ok(&running, 0, "echo kept > /root/file");
    machine.stop(&spec).await;
    spec.incarnation = 2;
    let again = machine.launch(&spec).await;
    assert!(!again.warm, "the volume exists already");
    assert_eq!(ok(&again, 0, "cat /root/file; hostname"), "kept\nharbour");
    machine.stop(&spec).await;
}

#[tokio::test]
async fn what_a_session_used_is_never_anybody_elses() {
    let machine = machine!();
    warm(&machine, 1).await;
    let (first, running) = machine.session().await;
    assert!(running.warm);
    ok(&running, 0, "echo secret > /etc/left; echo secret > /tmp/left; echo secret > /dev/shm/left");
    machine.stop(&first).await;
    machine.wait_for_warm(1);
    let (_, second) = machine.session().await;
    assert!(second.warm);
    assert_ne!(second.jail, running.jail);
    assert_eq!(ok(&second, 0, "ls /etc/left /tmp/left /dev/shm/left 2>/dev/null | wc -l"), "0");
}

#[tokio::test]
async fn only_a_jail_that_fits_is_taken() {
    let machine = machine!();
    warm(&machine, 1).await;
    let mut rootless = machine.spec();
    rootless.allow_root = false;
    assert!(!machine.launch(&rootless).await.warm);

    let (spec, _) = machine.session().await;
    let snapshot = wharf_domain::SnapshotId::new();
    machine.runtime.snapshot(spec.volume.volume, snapshot).await.unwrap();
    machine.wait_for_warm(1);
    assert!(!machine.launch(&machine.fork_spec(snapshot)).await.warm);
}

#[tokio::test]
async fn the_pool_follows_its_number_and_survives_the_jailer() {
    let mut machine = machine!();
    warm(&machine, 3).await;
    machine.kill_jailer();
    machine.start_jailer(true);
    machine.wait_for_warm(3);
    let (_, running) = machine.session().await;
    assert!(running.warm, "one the earlier jailer had made");
    warm(&machine, 1).await;
    warm(&machine, 0).await;
    let volumes = machine.runtime.inventory().await.unwrap().volumes;
    assert_eq!(volumes, [running.volume], "nothing of the warm ones is left");

    let unknown: Name = "nowhere".parse().unwrap();
    assert!(matches!(machine.runtime.keep_warm(&unknown, 1).await, Err(Fault::Missing(_))));
    assert!(matches!(machine.runtime.keep_warm(&machine.image.name, 100_000).await, Err(Fault::Refused(_))));
}

#[tokio::test]
async fn a_claim_cut_short_by_a_crash_leaves_a_session_that_can_start() {
    let mut machine = machine!();
    warm(&machine, 1).await;
    let spec = machine.spec();
    let running = machine.launch(&spec).await;
    assert!(running.warm);
    machine.runtime.keep_warm(&machine.image.name, 0).await.unwrap();
    machine.wait_for_warm(0);
    machine.kill_jailer();
    // The volume was renamed, the record not yet finished.
    let state = running.host_socket.with_file_name("state.json");
    let record = std::fs::read_to_string(&state).unwrap();
    let record = record
        .replace(r#""phase":"running""#, r#""phase":"claiming""#)
        .replace(&spec.volume.volume.to_string(), &VolumeId::new().to_string());
    std::fs::write(&state, record).unwrap();
    machine.start_jailer(true);
    assert_eq!(machine.leftovers(), "");
    assert_eq!(machine.runtime.inventory().await.unwrap().volumes, [spec.volume.volume]);
    let again = machine.launch(&spec).await;
    assert_eq!(ok(&again, 0, "hostname"), "lab");
}

#[tokio::test]
async fn warm_jails_do_not_keep_an_image_from_being_deleted() {
    let machine = machine!();
    warm(&machine, 2).await;
    machine.runtime.delete_image(&machine.image).await.unwrap();
    assert!(machine.runtime.inventory().await.unwrap().images.is_empty());
    assert_eq!(machine.leftovers(), "");
}

#[tokio::test]
async fn a_burst_larger_than_the_pool_is_served_whole() {
    let machine = machine!();
    warm(&machine, 3).await;
    let specs: Vec<_> = (0..10).map(|_| machine.spec()).collect();
    let started = futures_util::future::join_all(specs.iter().map(|spec| machine.launch(spec))).await;
    assert!(started.iter().filter(|r| r.warm).count() >= 3);
    for jail in &started {
        assert_eq!(ok(jail, 0, "hostname"), "lab");
    }
    machine.wait_for_warm(3);
}

#[tokio::test]
async fn a_warm_jail_that_cannot_be_handed_over_is_replaced_by_a_cold_start() {
    let machine = machine!();
    warm(&machine, 1).await;
    // Nobody can do this from outside; it stands for whatever may fail half-way.
    let record = machine.records().into_iter().find(|r| r.contains(r#""phase":"warm""#)).unwrap();
    let number = |key: &str| {
        record
            .split(&format!("\"{key}\":"))
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    let (pid, id) = (number("pid"), machine.first_id + number("slot") * 65536);
    let spoiler = std::thread::spawn(move || {
        let root = std::fs::File::open(format!("/proc/{pid}/root")).unwrap();
        let id = (rustix::thread::Uid::from_raw(id), rustix::thread::Gid::from_raw(id));
        rustix::thread::set_thread_res_gid(id.1, id.1, id.1).unwrap();
        rustix::thread::set_thread_res_uid(id.0, id.0, id.0).unwrap();
        rustix::fs::chmodat(
            &root,
            "etc",
            rustix::fs::Mode::from_raw_mode(0o555),
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
    });
    spoiler.join().unwrap();
    let spec = machine.spec();
    let running = machine.launch(&spec).await;
    assert!(machine.log().contains("could not hand over a warm jail"), "{}", machine.log());
    assert!(!running.warm);
    assert_eq!(ok(&running, 0, "hostname; cat /etc/hostname"), "lab\nlab");
    assert_eq!(machine.runtime.inventory().await.unwrap().volumes, [spec.volume.volume]);
    machine.stop(&spec).await;
}
