//! One jail's groups: its limits, its figures, and the switches that freeze and end all of it at once.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use wharf_domain::quota::Resources;

use super::{Cgroups, write};
use crate::step::{At, Step};

/// The kernel's default; quotas are counted per period.
const PERIOD_MICROS: u64 = 100_000;
/// A group that has not stopped by then holds a task deep in the kernel, which cannot write to its files either.
const FREEZE_PATIENCE: Duration = Duration::from_millis(60);

/// What the kernel counted for a jail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub cpu_usage_micros: u64,
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    pub oom_kills: u64,
    pub pids: u64,
}

/// A jail's directories. Holds paths only, so that it can be made again for a jail that is adopted.
#[derive(Clone, Debug)]
pub struct Group {
    unified: Option<PathBuf>,
    v2: std::collections::BTreeSet<String>,
    v1: std::collections::BTreeMap<String, PathBuf>,
    devices: Option<PathBuf>,
}

impl Group {
    pub(super) fn new(of: &Cgroups, name: &str) -> Self {
        let v2_freezes = of.unified.is_some();
        // A controller lives in one tree only. What version 2 does anyway needs no group in version 1.
        let wanted = |c: &str| match c {
            "devices" => false,
            "freezer" | "cpuacct" => !v2_freezes,
            other => !of.v2.contains(other),
        };
        Self {
            unified: of.unified.as_ref().map(|at| at.join(name)),
            v2: of.v2.clone(),
            v1: of.v1.iter().filter(|(c, _)| wanted(c)).map(|(c, at)| (c.clone(), at.join(name))).collect(),
            devices: of.v1.get("devices").cloned(),
        }
    }

    pub(super) fn make(&self) -> Result<(), Step> {
        let mut made: Vec<&PathBuf> = Vec::new();
        for directory in self.directories() {
            match std::fs::create_dir(directory) {
                Ok(()) => made.push(directory),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    for directory in made {
                        let _ = std::fs::remove_dir(directory);
                    }
                    return Err(Step::failed(format!("make cgroup {}", directory.display()), e));
                }
            }
        }
        Ok(())
    }

    fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        self.unified.iter().chain(self.v1.values())
    }

    /// For `CLONE_INTO_CGROUP`.
    pub fn unified_fd(&self) -> Result<Option<OwnedFd>, Step> {
        let Some(path) = &self.unified else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(Some).at("open the cgroup")
    }

    /// The doors of the version 1 trees, for [`enter`]. Into version 2 a jail is born.
    pub fn doors(&self) -> Result<Vec<File>, Step> {
        let open = |directory: &PathBuf| {
            let path = directory.join("tasks");
            File::options().write(true).open(&path).at_with(|| format!("open {}", path.display()))
        };
        self.v1.values().chain(self.devices.iter()).map(open).collect()
    }

    pub fn limit(&self, r: &Resources) -> Result<(), Step> {
        self.limit_cpu(u64::from(r.cpu_millis))?;
        self.limit_memory(u64::from(r.memory_mib) << 20)?;
        let pids = r.pids.to_string();
        self.controller("pids").map_or(Ok(()), |(at, _)| write(&at.join("pids.max"), &pids))
    }

    /// The directory that holds a controller's files, and whether it is version 2's.
    fn controller(&self, name: &str) -> Option<(&Path, bool)> {
        if self.v2.contains(name) {
            return self.unified.as_deref().map(|at| (at, true));
        }
        self.v1.get(name).map(|at| (at.as_path(), false))
    }

    fn limit_cpu(&self, millis: u64) -> Result<(), Step> {
        let quota = millis * PERIOD_MICROS / 1000;
        // 1024 shares a core, as the kernel's default for one group; fairness below the quota.
        let shares = (millis * 1024 / 1000).clamp(2, 262_144);
        match self.controller("cpu") {
            Some((at, true)) => {
                write(&at.join("cpu.max"), &format!("{quota} {PERIOD_MICROS}"))?;
                let weight = 1 + (shares - 2) * 9999 / 262_142;
                write(&at.join("cpu.weight"), &weight.to_string())
            }
            Some((at, false)) => {
                write(&at.join("cpu.cfs_period_us"), &PERIOD_MICROS.to_string())?;
                write(&at.join("cpu.cfs_quota_us"), &quota.to_string())?;
                write(&at.join("cpu.shares"), &shares.to_string())
            }
            None => Ok(()),
        }
    }

    fn limit_memory(&self, bytes: u64) -> Result<(), Step> {
        let value = bytes.to_string();
        match self.controller("memory") {
            Some((at, true)) => {
                write(&at.join("memory.max"), &value)?;
                let swap = at.join("memory.swap.max");
                if swap.exists() { write(&swap, "0") } else { Ok(()) }
            }
            Some((at, false)) => {
                let (memory, with_swap) =
                    (at.join("memory.limit_in_bytes"), at.join("memory.memsw.limit_in_bytes"));
                // The limit with swap is never below the one without, whichever way they move.
                let growing = number(&memory).is_some_and(|now| bytes > now);
                let mut order = vec![&memory];
                if with_swap.exists() {
                    order.insert(usize::from(!growing), &with_swap);
                }
                order.into_iter().try_for_each(|file| write(file, &value))
            }
            None => Ok(()),
        }
    }

    pub fn figures(&self) -> Figures {
        let cpu_usage_micros = match (&self.unified, self.v1.get("cpuacct")) {
            (Some(at), _) => field(&at.join("cpu.stat"), "usage_usec"),
            (None, Some(at)) => number(&at.join("cpuacct.usage")).map(|nanos| nanos / 1000),
            _ => None,
        };
        let (memory, peak, ooms) = match self.controller("memory") {
            Some((at, true)) => (
                number(&at.join("memory.current")),
                number(&at.join("memory.peak")),
                field(&at.join("memory.events"), "oom_kill"),
            ),
            Some((at, false)) => (
                number(&at.join("memory.usage_in_bytes")),
                number(&at.join("memory.max_usage_in_bytes")),
                field(&at.join("memory.oom_control"), "oom_kill"),
            ),
            None => (None, None, None),
        };
        let pids = self.controller("pids").and_then(|(at, _)| number(&at.join("pids.current")));
        Figures {
            cpu_usage_micros: cpu_usage_micros.unwrap_or(0),
            memory_bytes: memory.unwrap_or(0),
            memory_peak_bytes: peak.unwrap_or(0),
            oom_kills: ooms.unwrap_or(0),
            pids: pids.unwrap_or(0),
        }
    }

    /// Stops every task of the jail. Answers whether all stood still in time; either way it must be thawed.
    pub fn freeze(&self) -> Result<bool, Step> {
        let frozen: Box<dyn Fn() -> bool> = match (&self.unified, self.v1.get("freezer")) {
            (Some(at), _) => {
                write(&at.join("cgroup.freeze"), "1")?;
                let events = at.join("cgroup.events");
                Box::new(move || field(&events, "frozen") == Some(1))
            }
            (None, Some(at)) => {
                write(&at.join("freezer.state"), "FROZEN")?;
                let state = at.join("freezer.state");
                Box::new(move || std::fs::read_to_string(&state).is_ok_and(|s| s.trim() == "FROZEN"))
            }
            _ => return Err(Step::refused("freeze", "this machine has no freezer")),
        };
        let begun = Instant::now();
        while !frozen() {
            if begun.elapsed() > FREEZE_PATIENCE {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(true)
    }

    pub fn thaw(&self) -> Result<(), Step> {
        match (&self.unified, self.v1.get("freezer")) {
            (Some(at), _) => write(&at.join("cgroup.freeze"), "0"),
            (None, Some(at)) => write(&at.join("freezer.state"), "THAWED"),
            _ => Ok(()),
        }
    }

    /// SIGKILL to all that is in it. With version 1 alone a frozen task would never see it, so it is thawed after.
    pub fn kill(&self) {
        if let Some(at) = &self.unified
            && std::fs::write(at.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.thaw();
    }

    /// All processes found in any of its trees.
    pub fn processes(&self) -> std::collections::BTreeSet<i32> {
        self.directories()
            .filter_map(|at| std::fs::read_to_string(at.join("cgroup.procs")).ok())
            .flat_map(|list| list.lines().filter_map(|l| l.parse().ok()).collect::<Vec<i32>>())
            .collect()
    }

    /// Removes the directories; false while something is still in one.
    pub fn remove(&self) -> bool {
        let mut gone = true;
        for directory in self.directories() {
            match std::fs::remove_dir(directory) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => gone = false,
            }
        }
        gone
    }
}

/// Moves the calling process, which must have one thread, through doors opened by who may.
///
/// By `tasks` and 0: a thread that moves itself needs no lock of all threads of the machine. By its pid in
/// `cgroup.procs` the same takes the kernel 5–20 ms, a grace period, whenever nothing else moved just before.
pub fn enter(doors: &[File]) -> Result<(), Step> {
    doors.iter().try_for_each(|mut door| door.write_all(b"0")).at("join the limits")
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `key value` lines, as in `memory.events`.
fn field(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
