//! Looks whether this machine can hold jails, for `wharf doctor`. Changes nothing and starts nothing.
//!
//! What only shows when it is tried (an id-mapped mount, a filter that loads) is said by the jailer's own refusal,
//! with the step that failed; this names the causes one can see beforehand.

use std::path::Path;

use crate::cgroup::Cgroups;

/// Overlay takes id-mapped lower layers since 5.19.
const OLDEST_KERNEL: (u32, u32) = (5, 19);
/// `BTRFS_SUPER_MAGIC` of statfs(2).
const BTRFS: i64 = 0x9123_683E;

/// One look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub area: &'static str,
    pub ok: bool,
    /// Without it no session starts; otherwise something is less than it could be.
    pub required: bool,
    pub seen: String,
    /// What to do when it is not well.
    pub remedy: &'static str,
}

fn probe(area: &'static str, ok: bool, seen: impl Into<String>, remedy: &'static str) -> Probe {
    Probe { area, ok, required: true, seen: seen.into(), remedy }
}

/// Everything a jail needs of the machine. `data_dir` need not exist yet.
pub fn run(data_dir: &Path) -> Vec<Probe> {
    vec![
        kernel(),
        namespaces(),
        seccomp(),
        packet_filter(),
        filesystem("overlay"),
        volumes(data_dir),
        loops(data_dir),
        cgroups(),
        freezer(),
    ]
}

fn kernel() -> Probe {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    probe(
        "kernel",
        found >= OLDEST_KERNEL,
        format!("Linux {release}"),
        "use Linux 5.19 or newer: older ones cannot id-map an overlay",
    )
}

fn namespaces() -> Probe {
    let missing: Vec<_> = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"]
        .into_iter()
        .filter(|ns| !Path::new("/proc/self/ns").join(ns).exists())
        .collect();
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let some = limit.trim() != "0";
    let seen = match (missing.as_slice(), some) {
        ([], true) => "user, mount, pid, ipc, uts, net and cgroup".to_owned(),
        ([], false) => "user namespaces are switched off".to_owned(),
        (missing, _) => format!("the kernel lacks {}", missing.join(", ")),
    };
    probe(
        "namespaces",
        missing.is_empty() && some,
        seen,
        "sysctl -w user.max_user_namespaces=28633, or another kernel",
    )
}

fn seccomp() -> Probe {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let ok = actions.split_whitespace().any(|a| a == "errno");
    probe("seccomp", ok, if ok { "filters" } else { "no filters" }, "use a kernel with CONFIG_SECCOMP_FILTER")
}

/// Asking for the socket loads the module where it is one; what of it is missing the jailer's refusal says.
fn packet_filter() -> Probe {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};
    let filter = Some(netlink::NETFILTER);
    let ok = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, filter).is_ok();
    let seen =
        if ok { "there" } else { "no netfilter: nothing would lead a session's programs to the gateway" };
    probe("packet filter", ok, seen, "modprobe nf_tables, or use a kernel with CONFIG_NF_TABLES")
}

fn known(name: &str) -> bool {
    std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.lines().any(|l| l.split_whitespace().last() == Some(name)))
}

fn filesystem(name: &'static str) -> Probe {
    probe(
        name,
        known(name),
        if known(name) { "in the kernel" } else { "not in the kernel" },
        "modprobe overlay",
    )
}

fn on_btrfs(data_dir: &Path) -> bool {
    let Some(existing) = data_dir.ancestors().find(|p| p.exists()) else { return false };
    rustix::fs::statfs(existing).is_ok_and(|fs| fs.f_type == BTRFS)
}

/// btrfs makes snapshots cheap and disk limits bite; sessions start without it where the limit is waived.
fn volumes(data_dir: &Path) -> Probe {
    let programs = ["/usr/bin/mkfs.btrfs", "/usr/sbin/mkfs.btrfs", "/sbin/mkfs.btrfs"]
        .iter()
        .any(|p| Path::new(p).exists());
    let (ok, seen, remedy) = match (known("btrfs"), on_btrfs(data_dir), programs) {
        (true, true, _) => (true, "the data directory is on btrfs", ""),
        (true, false, true) => (true, "btrfs in a file of the data directory", ""),
        (true, false, false) => (false, "btrfs in the kernel, and no mkfs.btrfs", "apt install btrfs-progs"),
        (false, ..) => (
            false,
            "no btrfs in the kernel: forks copy and disk limits are refused",
            "modprobe btrfs, or set jailer.volume_driver = \"directory\" and jailer.waive_disk_limit = true",
        ),
    };
    probe("volumes", ok, seen, remedy)
}

fn loops(data_dir: &Path) -> Probe {
    let ok = on_btrfs(data_dir) || Path::new("/dev/loop-control").exists();
    let seen = if ok { "there, or not needed" } else { "no /dev/loop-control" };
    probe("loop devices", ok, seen, "modprobe loop, or put data_dir on btrfs")
}

fn cgroups() -> Probe {
    match Cgroups::look("wharf") {
        Ok(found) => {
            let missing: Vec<_> = ["cpu", "memory", "pids"].into_iter().filter(|c| !found.has(c)).collect();
            let seen = if missing.is_empty() {
                format!("{}: cpu, memory and pids", found.kind())
            } else {
                format!("{}, without {}", found.kind(), missing.join(", "))
            };
            probe(
                "cgroups",
                missing.is_empty(),
                seen,
                "enable these controllers (boot with cgroup_enable=memory, or mount them)",
            )
        }
        Err(error) => probe("cgroups", false, error.to_string(), "mount cgroup2 at /sys/fs/cgroup"),
    }
}

fn freezer() -> Probe {
    let ok = Cgroups::look("wharf").is_ok_and(|found| found.can_freeze());
    let seen = if ok { "there" } else { "missing: a snapshot of a running session may tear" };
    Probe { required: false, ..probe("freezer", ok, seen, "mount cgroup2, or the v1 freezer") }
}
