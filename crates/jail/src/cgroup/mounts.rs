//! Where the kernel's cgroup trees are mounted, read from a mount table.

use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    pub v1: BTreeMap<String, PathBuf>,
    pub v2: Option<PathBuf>,
}

/// Of several mounts of one tree the first counts: later ones are copies made for containers.
pub(super) fn parse(mountinfo: &str) -> Mounts {
    let mut found = Mounts::default();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next(), right.nth(1));
        match kind {
            Some("cgroup2") if found.v2.is_none() => found.v2 = Some(PathBuf::from(point)),
            Some("cgroup") => {
                for option in options.unwrap_or_default().split(',') {
                    found.v1.entry(option.to_owned()).or_insert_with(|| PathBuf::from(point));
                }
            }
            _ => {}
        }
    }
    found
}
