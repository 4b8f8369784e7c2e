//! Limits and figures of a jail through cgroups, version 1, 2 or both side by side.
//!
//! Each controller is taken from wherever this machine mounts it. On a hybrid machine the version 2 tree has few
//! controllers but still starts, freezes, kills and counts CPU for a whole group, so it is used for those. A limit
//! that has no controller, or that the kernel refuses, is an error: there is no jail with fewer limits than asked.

mod group;
mod mounts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use wharf_domain::quota::Resources;

pub use self::group::{Figures, Group, enter};
use crate::step::{At, Step};

/// What of the machine's controllers jails need. `devices` exists in version 1 only; in a user namespace no device
/// node can be made or opened anyway, so there it is a second fence and its absence no fault.
const V1_WANTED: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "freezer", "devices"];
const V2_WANTED: [&str; 3] = ["cpu", "memory", "pids"];
/// null, zero, full, random, urandom, tty, ptmx and pts: what a jail's /dev holds.
const DEVICES: [&str; 8] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Where on this machine jails' groups are made.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// Our directory in the version 2 tree.
    pub(crate) unified: Option<PathBuf>,
    pub(crate) v2: BTreeSet<String>,
    /// Our directory in each version 1 tree.
    pub(crate) v1: BTreeMap<String, PathBuf>,
}

impl Cgroups {
    /// Finds the trees and makes `parent` in each.
    pub fn open(parent: &str) -> Result<Self, Step> {
        let info = std::fs::read_to_string("/proc/self/mountinfo").at("read the mount table")?;
        let found = Self::among(&mounts::parse(&info), parent);
        found.prepare()?;
        Ok(found)
    }

    /// As [`Cgroups::open`], but only looks.
    pub fn look(parent: &str) -> Result<Self, Step> {
        let info = std::fs::read_to_string("/proc/self/mountinfo").at("read the mount table")?;
        Ok(Self::among(&mounts::parse(&info), parent))
    }

    fn among(mounts: &mounts::Mounts, parent: &str) -> Self {
        let v1: BTreeMap<_, _> = V1_WANTED
            .iter()
            .filter_map(|c| mounts.v1.get(*c).map(|at| ((*c).to_owned(), at.join(parent))))
            .collect();
        let v2 =
            mounts.v2.as_deref().map(|at| read_words(&at.join("cgroup.controllers"))).unwrap_or_default();
        let v2 = v2.into_iter().filter(|c| V2_WANTED.contains(&c.as_str())).collect();
        Self { unified: mounts.v2.as_ref().map(|at| at.join(parent)), v2, v1 }
    }

    fn prepare(&self) -> Result<(), Step> {
        for directory in self.unified.iter().chain(self.v1.values()) {
            std::fs::create_dir_all(directory).at_with(|| format!("make cgroup {}", directory.display()))?;
        }
        if let Some(ours) = &self.unified {
            let root = ours.parent().unwrap_or(ours);
            let enable = self.v2.iter().map(|c| format!("+{c}")).collect::<Vec<_>>().join(" ");
            for directory in [root, ours] {
                if !enable.is_empty() {
                    write(&directory.join("cgroup.subtree_control"), &enable)?;
                }
            }
        }
        if let Some(devices) = self.v1.get("devices") {
            // Once for all jails, whose rules are the same; they join this group itself.
            let now = std::fs::read_to_string(devices.join("devices.list")).at("read the device rules")?;
            if now.starts_with('a') {
                write(&devices.join("devices.deny"), "a")?;
            }
            for rule in DEVICES {
                write(&devices.join("devices.allow"), rule)?;
            }
        }
        Ok(())
    }

    /// Removes our directories; what is not empty stays.
    pub fn close(&self) {
        for directory in self.unified.iter().chain(self.v1.values()) {
            let _ = std::fs::remove_dir(directory);
        }
    }

    /// `v1`, `v2` or `hybrid`.
    pub fn kind(&self) -> &'static str {
        match (self.v1.keys().any(|c| V2_WANTED.contains(&c.as_str())), self.unified.is_some()) {
            (true, true) => "hybrid",
            (true, false) => "v1",
            (false, _) => "v2",
        }
    }

    pub fn has(&self, controller: &str) -> bool {
        self.v2.contains(controller) || self.v1.contains_key(controller)
    }

    pub fn can_freeze(&self) -> bool {
        self.unified.is_some() || self.v1.contains_key("freezer")
    }

    pub fn group(&self, name: &str) -> Group {
        Group::new(self, name)
    }

    /// The groups another program put a process in; `None` when there is no such process.
    pub fn of_process(pid: i32) -> Option<Group> {
        let info = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(Self::around(&mounts::parse(&info), &cgroup).group(""))
    }

    /// Of the lines of `/proc/<pid>/cgroup`: number, controllers (none for version 2), path.
    fn around(mounts: &mounts::Mounts, cgroup: &str) -> Self {
        let mut found = Self { unified: None, v2: BTreeSet::new(), v1: BTreeMap::new() };
        for line in cgroup.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let path = path.trim_start_matches('/');
            if controllers.is_empty() {
                // Its own group only where it has one: the root's figures are the machine's.
                if let Some(at) = mounts.v2.as_ref().filter(|_| !path.is_empty()) {
                    found.v2 = read_words(&at.join(path).join("cgroup.controllers")).into_iter().collect();
                    found.unified = Some(at.join(path));
                }
                continue;
            }
            for controller in controllers.split(',') {
                if let Some(at) = mounts.v1.get(controller) {
                    found.v1.insert(controller.to_owned(), at.join(path));
                }
            }
        }
        if found.v1.contains_key("cpuacct") {
            // On a hybrid machine others may leave a process in a version 2 group it shares with more.
            found.unified = None;
        }
        found
    }

    /// Makes a jail's groups and sets its limits.
    pub fn create(&self, name: &str, resources: &Resources) -> Result<Group, Step> {
        for controller in V2_WANTED {
            if !self.has(controller) {
                return Err(Step::refused(
                    "set limits",
                    format!("this machine has no {controller} cgroup controller"),
                ));
            }
        }
        let group = self.group(name);
        group.make()?;
        if let Err(error) = group.limit(resources) {
            group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// Removes empty groups of a name, also from trees where we make none.
    pub fn forget(&self, name: &str) {
        for directory in self.unified.iter().chain(self.v1.values()) {
            let _ = std::fs::remove_dir(directory.join(name));
        }
    }

    /// Names of all groups below ours, whoever made them.
    pub fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for directory in self.unified.iter().chain(self.v1.values()) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    names.extend(entry.file_name().into_string());
                }
            }
        }
        names
    }
}

fn read_words(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// A write of one value; the refusal names the file and the value, since that is the limit that was not applied.
fn write(path: &Path, value: &str) -> Result<(), Step> {
    std::fs::write(path, value).at_with(|| format!("write {value:?} to {}", path.display()))
}

#[cfg(test)]
mod tests;
