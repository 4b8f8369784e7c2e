//! The few things done with a volume's tree, by either driver, and what is common to both.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, Mode, statat};
use rustix::io::Errno;

use super::home::Home;
use super::{DIRECTORY, Driver, directory, ioctl};
use crate::step::{At, Step};

/// Deeper trees are not walked: each level costs a descriptor, and a session may nest as deep as it likes.
pub(super) const MAX_DEPTH: usize = 200;

pub(super) enum Trees {
    Btrfs {
        root: OwnedFd,
        /// Where the kernel shows the quota groups, up to the moment (the tree on disk is as old as the last commit).
        groups: PathBuf,
        own: bool,
    },
    Directory,
}

impl Trees {
    pub(super) fn new(home: &Home) -> Result<Self, Step> {
        if home.driver == Driver::Directory {
            return Ok(Self::Directory);
        }
        let uuid = ioctl::filesystem_uuid(&home.root).at("read the pool's UUID")?;
        let groups = PathBuf::from(format!("/sys/fs/btrfs/{uuid}/qgroups"));
        Ok(Self::Btrfs { root: home.root.try_clone().at("keep the pool open")?, groups, own: home.own })
    }

    pub(super) fn driver(&self) -> Driver {
        match self {
            Self::Btrfs { .. } => Driver::Btrfs,
            Self::Directory => Driver::Directory,
        }
    }

    /// An empty tree.
    pub(super) fn create(&self, parent: &OwnedFd, name: &str) -> Result<(), Step> {
        match self {
            Self::Btrfs { .. } => ioctl::create_subvolume(parent, name).at("create the subvolume"),
            Self::Directory => {
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).at("create the directory")
            }
        }
    }

    /// A copy of `source`, its description included.
    pub(super) fn copy(&self, source: &OwnedFd, parent: &OwnedFd, name: &str) -> Result<(), Step> {
        match self {
            Self::Btrfs { .. } => {
                ioctl::create_snapshot(source, parent, name).at("take the subvolume's snapshot")
            }
            Self::Directory => directory::copy(source, parent, name),
        }
    }

    /// Makes a finished snapshot read-only.
    pub(super) fn seal(&self, dir: &OwnedFd) -> Result<(), Step> {
        match self {
            Self::Btrfs { .. } => ioctl::seal_subvolume(dir).at("make the snapshot read-only"),
            Self::Directory => Ok(()),
        }
    }

    /// Unlinks a tree; nothing of that name is success.
    pub(super) fn destroy(&self, parent: &OwnedFd, name: &str) -> Result<(), Step> {
        match self {
            Self::Btrfs { .. } => match ioctl::destroy_subvolume(parent, name) {
                Ok(()) => Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOENT) => Ok(()),
                    // Not a subvolume: nothing of ours makes such, but it must not stop the pool from opening.
                    Some(libc::ENOTDIR | libc::EINVAL) => directory::destroy(parent, name),
                    _ => Err(Step::failed(format!("delete subvolume {name}"), error)),
                },
            },
            Self::Directory => directory::destroy(parent, name),
        }
    }

    /// Bounds what the tree may hold of its own.
    pub(super) fn limit(&self, dir: &OwnedFd, bytes: u64) -> Result<(), Step> {
        let Self::Btrfs { root, .. } = self else { return Ok(()) };
        let id = ioctl::subvolume_id(dir).at("ask for the subvolume's id")?;
        ioctl::limit(root, id, bytes).map_err(|error| Step::refused("limit the disk", error))
    }

    /// Bytes the tree holds of its own.
    pub(super) fn used(&self, dir: &OwnedFd) -> Result<u64, Step> {
        let Self::Btrfs { groups, .. } = self else { return content_bytes(dir) };
        let id = ioctl::subvolume_id(dir).at("ask for the subvolume's id")?;
        let path = groups.join(format!("0_{id}/referenced"));
        let text = fs::read_to_string(&path).at_with(|| format!("read {}", path.display()))?;
        text.trim().parse().at_with(|| format!("read {}", path.display()))
    }

    /// Removes the quota groups of subvolumes that are gone; one stays while anything its subvolume wrote is in use.
    /// Only in a file system of our own. Failing costs nothing but the group.
    pub(super) fn forget_gone(&self) {
        let Self::Btrfs { root, groups, own: true } = self else { return };
        let Ok(entries) = fs::read_dir(groups) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id =
                name.to_str().and_then(|name| name.strip_prefix("0_")).and_then(|id| id.parse::<u64>().ok());
            // The kernel refuses where the subvolume lives (since 6.11) or is charged for something; below 256 are
            // the file system's own trees.
            let charged =
                fs::read_to_string(entry.path().join("referenced")).is_ok_and(|text| text.trim() != "0");
            if let Some(id) = id.filter(|id| *id >= 256 && !charged) {
                ioctl::remove_quota_group(root, id).ok();
            }
        }
    }
}

/// The entries of a directory, without `.` and `..`; names that are not UTF-8 are none of ours.
pub(super) fn names(dir: impl AsFd) -> Result<Vec<String>, Step> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).at("list a directory")? {
        let entry = entry.at("list a directory")?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

pub(super) fn is_empty(dir: impl AsFd) -> Result<bool, Step> {
    for entry in Dir::read_from(dir).at("list a directory")? {
        let entry = entry.at("list a directory")?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Bytes allocated to everything below `dir`, each hard-linked file once. Beyond [`MAX_DEPTH`] nothing is counted.
pub(super) fn content_bytes(dir: &OwnedFd) -> Result<u64, Step> {
    let mut linked = HashSet::new();
    let mut total = 0;
    count(dir, 0, &mut linked, &mut total).at("count what a volume holds")?;
    Ok(total)
}

fn count(dir: &OwnedFd, depth: usize, linked: &mut HashSet<u64>, total: &mut u64) -> Result<(), Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory || stat.st_nlink < 2 || linked.insert(stat.st_ino) {
            *total += stat.st_blocks as u64 * 512;
        }
        if kind == FileType::Directory && depth < MAX_DEPTH {
            let child = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
            count(&child, depth + 1, linked, total)?;
        }
    }
    Ok(())
}
