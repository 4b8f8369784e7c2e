#![allow(clippy::unwrap_used)]

use super::*;

const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:28 / /var/lib/copy/memory rw - cgroup cgroup rw,memory
34 30 0:29 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw
";

#[test]
fn each_controller_is_found_where_the_machine_mounts_it() {
    let found = mounts::parse(HYBRID);
    assert_eq!(found.v1["memory"], PathBuf::from("/sys/fs/cgroup/memory"));
    assert_eq!(found.v1["cpuacct"], PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"));
    assert_eq!(found.v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
    let groups = Cgroups::among(&found, "wharf");
    assert_eq!(groups.kind(), "hybrid");
    assert!(groups.has("cpu") && groups.has("memory") && !groups.has("pids"));
}

#[test]
fn the_groups_of_a_process_another_program_started_are_found_in_either_version() {
    let hybrid = mounts::parse(HYBRID);
    let groups = Cgroups::around(&hybrid, "4:memory:/docker/one\n2:cpu,cpuacct:/docker/one\n0::/shared\n");
    assert_eq!(groups.v1["memory"], PathBuf::from("/sys/fs/cgroup/memory/docker/one"));
    assert_eq!(groups.v1["cpuacct"], PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/docker/one"));
    assert_eq!(groups.unified, None, "a group it may share says nothing of it");
    let pure = mounts::Mounts { v2: Some("/sys/fs/cgroup".into()), ..mounts::Mounts::default() };
    assert_eq!(
        Cgroups::around(&pure, "0::/docker/one\n").unified.unwrap(),
        PathBuf::from("/sys/fs/cgroup/docker/one")
    );
    assert_eq!(Cgroups::around(&pure, "0::/\n").unified, None, "the root's figures are the machine's");
}

#[test]
fn a_machine_without_a_controller_refuses_instead_of_going_without() {
    let groups = Cgroups::among(&mounts::parse(HYBRID), "wharf");
    let refusal = groups.create("x", &Resources::default()).unwrap_err();
    assert_eq!(refusal.kind, crate::step::Kind::Refused);
    assert!(refusal.to_string().contains("pids"), "{refusal}");
}

/// A directory that looks like a version 2 tree: the kernel here cannot mount one with controllers.
fn pure_v2(dir: &Path) -> Cgroups {
    std::fs::write(dir.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
    let mounted = mounts::Mounts { v2: Some(dir.to_owned()), ..mounts::Mounts::default() };
    Cgroups::among(&mounted, "wharf")
}

#[test]
fn version_two_limits_are_written_in_its_own_units() {
    let dir = std::env::temp_dir().join(format!("jail-cgroup-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let groups = pure_v2(&dir);
    groups.prepare().unwrap();
    assert_eq!(groups.kind(), "v2");
    assert_eq!(
        std::fs::read_to_string(dir.join("wharf/cgroup.subtree_control")).unwrap(),
        "+cpu +memory +pids"
    );
    let r = Resources { cpu_millis: 1500, memory_mib: 256, disk_mib: 100, pids: 64 };
    groups.create("one", &r).unwrap();
    let read = |file: &str| std::fs::read_to_string(dir.join("wharf/one").join(file)).unwrap();
    assert_eq!(read("cpu.max"), "150000 100000");
    assert_eq!(read("memory.max"), "268435456");
    assert_eq!(read("pids.max"), "64");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// The machine's own version 1 trees without its version 2 one, as if that were not there.
#[test]
fn without_version_two_a_jail_is_still_frozen_thawed_and_ended_as_a_whole() {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted = mounts::Mounts { v2: None, ..mounts::parse(&info) };
    let missing = ["cpu", "memory", "pids", "freezer"].iter().any(|c| !mounted.v1.contains_key(*c));
    if missing || !rustix::process::geteuid().is_root() {
        println!("skipped: needs root and version 1 cgroups");
        return;
    }
    let parent = format!("jail-v1-{}", std::process::id());
    let groups = Cgroups::among(&mounted, &parent);
    groups.prepare().unwrap();
    assert_eq!(groups.kind(), "v1");
    let group = groups.create("one", &Resources::default()).unwrap();
    // It has children only once it is inside.
    let mut child = std::process::Command::new("sh")
        .args(["-c", "read go; sleep 1000 & wait"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    for directory in groups.v1.values().map(|at| at.join("one")).filter(|d| d.exists()) {
        std::fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    drop(child.stdin.take());
    while group.processes().len() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(group.freeze().unwrap());
    // What is frozen does not see the signal; killing thaws it as well.
    group.kill();
    assert!(!child.wait().unwrap().success());
    for _ in 0..500 {
        group.kill();
        if group.remove() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(group.processes().is_empty() && group.remove());
    for directory in groups.v1.values() {
        std::fs::remove_dir(directory).unwrap();
    }
}
