//! The directory driver's copy and removal, where the kernel has no btrfs.
//!
//! The trees are a session's own work: nothing in them is trusted, so no link is followed and no depth assumed.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, readlinkat,
    renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::DIRECTORY;
use super::tree::MAX_DEPTH;
use crate::step::{At, Step};

/// Copies the tree `source` to `name` in `parent`: owners, modes, times, extended attributes and hard links, sharing
/// extents where the file system can.
pub(super) fn copy(source: &OwnedFd, parent: &OwnedFd, name: &str) -> Result<(), Step> {
    mkdirat(parent, name, Mode::from_raw_mode(0o700)).at("create the copy")?;
    let target = openat(parent, name, DIRECTORY, Mode::empty()).at("open the copy")?;
    let mut links = Links { seen: HashMap::new(), root: target.try_clone().at("keep the copy open")? };
    copy_entries(source, &target, &mut Vec::new(), &mut links)?;
    finish(source, &target).at("describe the copy")?;
    rustix::fs::syncfs(&target).at("sync the copy")
}

/// Where the first of several hard links to one file was copied to.
struct Links {
    seen: HashMap<u64, Vec<u8>>,
    root: OwnedFd,
}

fn copy_entries(
    source: &OwnedFd,
    target: &OwnedFd,
    path: &mut Vec<u8>,
    links: &mut Links,
) -> Result<(), Step> {
    if path.split(|byte| *byte == b'/').count() > MAX_DEPTH {
        return Err(Step::refused(
            "copy a tree",
            format!("it is nested deeper than {MAX_DEPTH} directories"),
        ));
    }
    for entry in Dir::read_from(source).at("list a directory")? {
        let entry = entry.at("list a directory")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let length = path.len();
        path.extend_from_slice(name.to_bytes());
        copy_entry(source, target, name, path, links)?;
        path.truncate(length);
    }
    Ok(())
}

fn copy_entry(
    source: &OwnedFd,
    target: &OwnedFd,
    name: &CStr,
    path: &mut Vec<u8>,
    links: &mut Links,
) -> Result<(), Step> {
    let what = || format!("copy {}", String::from_utf8_lossy(path));
    let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW).at_with(what)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::Directory && stat.st_nlink > 1 {
        if let Some(first) = links.seen.get(&stat.st_ino) {
            return linkat(&links.root, first.as_slice(), target, name, AtFlags::empty()).at_with(what);
        }
        links.seen.insert(stat.st_ino, path.clone());
    }
    match kind {
        FileType::Directory => {
            let from = openat(source, name, DIRECTORY, Mode::empty()).at_with(what)?;
            mkdirat(target, name, Mode::from_raw_mode(0o700)).at_with(what)?;
            let to = openat(target, name, DIRECTORY, Mode::empty()).at_with(what)?;
            path.push(b'/');
            copy_entries(&from, &to, path, links)?;
            finish(&from, &to).at("describe a copied directory")
        }
        FileType::RegularFile => copy_file(source, target, name).at_with(what),
        FileType::Symlink => copy_symlink(source, target, name, &stat).at_with(what),
        // Sockets and pipes without their processes, and overlayfs whiteouts, are nothing but their node.
        _ => copy_node(target, name, kind, &stat).at_with(what),
    }
}

fn copy_file(source: &OwnedFd, target: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let from = openat(source, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = openat(target, name, flags, Mode::from_raw_mode(0o600))?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
        let (mut from, mut to) =
            (std::fs::File::from(from.try_clone().map_err(errno)?), to.try_clone().map_err(errno)?.into());
        copy_sparse(&mut from, &mut to)?;
    }
    finish(&from, &to)
}

/// Copies the data and leaves the holes.
fn copy_sparse(from: &mut std::fs::File, to: &mut std::fs::File) -> Result<(), Errno> {
    let end = from.metadata().map_err(errno)?.len();
    let mut at = 0;
    while at < end {
        let data = match rustix::fs::seek(&*from, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        let hole = rustix::fs::seek(&*from, rustix::fs::SeekFrom::Hole(data))?;
        let (mut read, mut write) = (data, data);
        while read < hole {
            let wanted = usize::try_from(hole - read).unwrap_or(usize::MAX);
            if rustix::fs::copy_file_range(&*from, Some(&mut read), &*to, Some(&mut write), wanted)? == 0 {
                break;
            }
        }
        at = hole;
    }
    to.set_len(end).map_err(errno)
}

fn copy_symlink(source: &OwnedFd, target: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let to = readlinkat(source, name, Vec::new())?;
    symlinkat(to.as_c_str(), target, name)?;
    own(target, name, stat)
}

fn copy_node(target: &OwnedFd, name: &CStr, kind: FileType, stat: &Stat) -> Result<(), Errno> {
    mknodat(target, name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev)?;
    own(target, name, stat)
}

fn own(target: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(target, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner, mode, attributes and times, in the order in which none undoes another.
fn finish(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut list = vec![0_u8; 64 << 10];
    let length = flistxattr(from, &mut list[..])?;
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 64 << 10];
        let length = fgetxattr(from, name, &mut value[..])?;
        fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    futimens(to, &times(&stat))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos as i64 };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Removes the tree `name`; nothing of that name is success. It loses its name first, so that a crash midway leaves
/// only what the next sweep removes.
pub(super) fn destroy(parent: &OwnedFd, name: &str) -> Result<(), Step> {
    let dead = if name.starts_with(".dead-") { name.to_owned() } else { format!(".dead-{name}") };
    if dead != name {
        match renameat(parent, name, parent, &dead) {
            Ok(()) => {}
            Err(Errno::NOENT) if !exists(parent, &dead) => return Ok(()),
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {
                remove(parent, &dead)?;
                return if exists(parent, name) { destroy(parent, name) } else { Ok(()) };
            }
            Err(error) => return Err(Step::failed(format!("retire {name}"), error)),
        }
    }
    remove(parent, &dead)
}

fn exists(parent: &OwnedFd, name: &str) -> bool {
    statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Removes a tree or file below `parent`.
pub(crate) fn remove(parent: &OwnedFd, name: impl rustix::path::Arg + Copy) -> Result<(), Step> {
    let what = || format!("remove {}", name.to_string_lossy());
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error).at_with(what),
    }
    let dir = openat(parent, name, DIRECTORY, Mode::empty()).at_with(what)?;
    let mut lifted = 0;
    empty(&dir, &dir, 0, &mut lifted).at_with(what)?;
    unlinkat(parent, name, AtFlags::REMOVEDIR).at_with(what)
}

/// Empties `dir`. What is nested too deep for the descriptors at hand is lifted to `top` and met there again.
fn empty(dir: &OwnedFd, top: &OwnedFd, depth: usize, lifted: &mut u64) -> Result<(), Errno> {
    loop {
        let mut again = false;
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            again = true;
            match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error),
            }
            if unlinkat(dir, name, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            if depth >= MAX_DEPTH {
                lift(dir, name, top, lifted)?;
                continue;
            }
            let child = openat(dir, name, DIRECTORY, Mode::empty())?;
            empty(&child, top, depth + 1, lifted)?;
            unlinkat(dir, name, AtFlags::REMOVEDIR)?;
        }
        if !again {
            return Ok(());
        }
    }
}

fn lift(dir: &OwnedFd, name: &CStr, top: &OwnedFd, lifted: &mut u64) -> Result<(), Errno> {
    loop {
        *lifted += 1;
        match renameat(dir, name, top, format!(".lifted-{lifted}")) {
            // A session may have used that very name.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            answer => return answer,
        }
    }
}
