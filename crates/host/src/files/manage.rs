//! Directories, deletes, moves, modes and owners. Every walk goes by open descriptors and never through a link.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, chmodat, mkdirat, renameat,
    renameat_with, statat, unlinkat,
};
use wharf_domain::Code;
use wharf_wire::host::files::{ChangeMode, ChangeOwner, Deleted, MakeDirectory, MoveFile};
use wharf_wire::host::path::{SessionPath, normalise};

use crate::accounts;
use crate::fault::{Fault, Result};
use crate::host::Host;
use crate::limits;
use crate::root::{at, own};

fn path(field: &str, text: &str) -> Result<SessionPath> {
    normalise(text).map_err(|e| Fault::path(field, e))
}

fn mode(bits: u32) -> Result<Mode> {
    if bits > 0o7777 {
        return Err(Fault::invalid("mode", format!("{bits:o} is not a mode up to 7777 (octal)")));
    }
    Ok(Mode::from_raw_mode(bits))
}

pub fn mkdir(host: &Host, wanted: &MakeDirectory) -> Result<()> {
    let at = path("path", &wanted.path)?;
    let failed = |e: io::Error| Fault::io("making", at.as_str(), &e);
    let bits = mode(wanted.mode.unwrap_or(0o755))?;
    let owner = accounts::owner(&host.root, host.power, wanted.owner.as_deref())?;
    if wanted.parents {
        match host.root.directory(&at) {
            Ok(_) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => return Err(failed(e)),
        }
        if let Some((parent, _)) = at.split() {
            host.root.make_directories(&parent, 0o755, owner).map_err(failed)?;
        }
    }
    let place = match host.root.parent(&at) {
        Err(e) if at.is_root() && e.raw_os_error() == Some(libc::EBUSY) => {
            return Err(failed(io::Error::from_raw_os_error(libc::EEXIST)));
        }
        other => other.map_err(failed)?,
    };
    mkdirat(&place.dir, place.name.as_str(), bits).map_err(|e| failed(e.into()))?;
    own(&place.dir, &place.name, owner).map_err(failed)?;
    // The umask does not bind what was asked for.
    chmodat(&place.dir, place.name.as_str(), bits, AtFlags::empty()).map_err(|e| failed(e.into()))
}

pub fn delete(host: &Host, at: &SessionPath, recursive: bool) -> Result<Deleted> {
    let failed = |e: io::Error| Fault::io("deleting", at.as_str(), &e);
    let place = host.root.parent(at).map_err(failed)?;
    let name = place.name.as_str();
    let stat = statat(&place.dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(e.into()))?;
    let mut entries = 0;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        if recursive {
            empty_out(&place.dir, name, 0, &mut entries).map_err(failed)?;
        }
        unlinkat(&place.dir, name, AtFlags::REMOVEDIR).map_err(|e| failed(e.into()))?;
    } else {
        unlinkat(&place.dir, name, AtFlags::empty()).map_err(|e| failed(e.into()))?;
    }
    Ok(Deleted { entries: entries + 1 })
}

/// Opens a directory itself, never what a link of its name points to.
fn enter(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt as _;
    at(
        dir,
        std::ffi::OsStr::from_bytes(name),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH,
    )
}

fn names(dir: &OwnedFd) -> io::Result<Vec<(Vec<u8>, bool)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let is_dir = match entry.file_type() {
                FileType::Unknown => {
                    FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
                        == FileType::Directory
                }
                kind => kind == FileType::Directory,
            };
            found.push((name.to_vec(), is_dir));
        }
    }
    Ok(found)
}

fn deeper(depth: usize) -> io::Result<usize> {
    if depth >= limits::DEPTH {
        return Err(io::Error::other(format!("directories nest deeper than {}", limits::DEPTH)));
    }
    Ok(depth + 1)
}

fn empty_out(dir: impl AsFd, name: impl AsRef<[u8]>, depth: usize, entries: &mut u64) -> io::Result<()> {
    let inner = enter(dir, name.as_ref())?;
    for (name, is_dir) in names(&inner)? {
        if is_dir {
            empty_out(&inner, &name, deeper(depth)?, entries)?;
        }
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(&inner, name.as_slice(), flags) {
            Ok(()) => *entries += 1,
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

pub fn rename(host: &Host, wanted: &MoveFile) -> Result<()> {
    let (from, to) = (path("from", &wanted.from)?, path("to", &wanted.to)?);
    let failed = |e: io::Error| Fault::io("moving", &format!("{from} to {to}"), &e);
    if from != to && from.contains(&to) {
        return Err(Fault::invalid("to", format!("{from} cannot be moved into itself")));
    }
    let (source, target) = (host.root.parent(&from).map_err(failed)?, host.root.parent(&to).map_err(failed)?);
    let (a, b) = (source.name.as_str(), target.name.as_str());
    let done = if wanted.overwrite {
        renameat(&source.dir, a, &target.dir, b)
    } else {
        renameat_with(&source.dir, a, &target.dir, b, RenameFlags::NOREPLACE)
    };
    match done {
        Err(rustix::io::Errno::XDEV) => Err(Fault::new(
            Code::Unsupported,
            format!("{from} and {to} are on different file systems; copy and delete instead"),
        )),
        other => other.map_err(|e| failed(e.into())),
    }
}

pub fn chmod(host: &Host, wanted: &ChangeMode) -> Result<()> {
    let at = path("path", &wanted.path)?;
    let bits = mode(wanted.mode)?;
    let failed = |e: io::Error| Fault::io("changing", at.as_str(), &e);
    let place = if at.is_root() { None } else { Some(host.root.writable_place(&at).map_err(failed)?) };
    let done = match &place {
        Some(place) => chmodat(&place.dir, place.name.as_str(), bits, AtFlags::empty()),
        None => chmodat(host.root.fd(), ".", bits, AtFlags::empty()),
    };
    done.map_err(|e| failed(e.into()))
}

pub fn chown(host: &Host, wanted: &ChangeOwner) -> Result<()> {
    let at = path("path", &wanted.path)?;
    let failed = |e: io::Error| Fault::io("changing", at.as_str(), &e);
    let owner = accounts::owner(&host.root, host.power, Some(&wanted.owner))?;
    let place = host.root.parent(&at).map_err(failed)?;
    let stat =
        statat(&place.dir, place.name.as_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(e.into()))?;
    if wanted.recursive && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        own_below(&place.dir, place.name.as_bytes(), 0, owner).map_err(failed)?;
    }
    own_always(&place.dir, place.name.as_bytes(), owner).map_err(failed)
}

fn own_below(dir: impl AsFd, name: &[u8], depth: usize, owner: (u32, u32)) -> io::Result<()> {
    let inner = enter(dir, name)?;
    for (name, is_dir) in names(&inner)? {
        if is_dir {
            own_below(&inner, &name, deeper(depth)?, owner)?;
        }
        own_always(&inner, &name, owner)?;
    }
    Ok(())
}

fn own_always(dir: impl AsFd, name: &[u8], (uid, gid): (u32, u32)) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    Ok(rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}
