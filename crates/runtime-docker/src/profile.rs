//! The system calls of a container: the native runtime's own list, in the words of the engine.
//!
//! Written by the same list that the jail's filter is compiled from, so that the two cannot drift apart. What the engine
//! adds by itself: calls newer than its list answer ENOSYS, programs of another architecture are ended.

use serde_json::{Value, json};
use wharf_jail::seccomp::{Argument, list};

const ENOSYS: u32 = 38;
/// AF_NETLINK, the same on all architectures.
const NETLINK: u32 = 16;

/// The value of `security_opt`'s `seccomp=`.
pub fn seccomp() -> String {
    let list = list();
    let mut rules = vec![
        json!({"names": list.plain, "action": "SCMP_ACT_ALLOW"}),
        // Its flags cannot be read by a filter; programs fall back to clone.
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}),
    ];
    let allow =
        |name: &str, args: &[Value]| json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args});
    let equal = |index: u32, value: u32| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    for (name, argument) in &list.conditional {
        match argument {
            Argument::Without(bits) => rules.push(allow(
                name,
                &[json!({"index": 0, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"})],
            )),
            Argument::OneOf { values, .. } => {
                rules.extend(values.iter().map(|value| allow(name, &[equal(0, *value)])));
            }
            Argument::Family => {
                rules.extend(list.families.iter().map(|family| allow(name, &[equal(0, *family)])));

                rules.extend(list.netlink.iter().map(|p| allow(name, &[equal(0, NETLINK), equal(2, *p)])));
            }
        }
    }
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": [architecture()], "syscalls": rules})
        .to_string()
}

const fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" }
}

/// As in the native jail: chown, dac_override, and so on. What is not here cannot be had inside by any means.
pub const CAPABILITIES: [&str; 13] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SYS_CHROOT",
    "AUDIT_WRITE",
    "SETFCAP",
];

/// The native jail's list, and the cgroup tree, which that one does not mount.
pub const MASKED: [&str; 15] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/kmsg",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/cgroup",
    "/sys/kernel/debug",
];
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[cfg(test)]
mod tests;
