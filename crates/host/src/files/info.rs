//! What files there are: stat and directory pages.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat, fstat, readlinkat, statat};
use wharf_domain::Code;
use wharf_wire::host::B64;
use wharf_wire::host::files::{FileInfo, FileKind, FileList};
use wharf_wire::host::path::SessionPath;

use crate::fault::{Fault, Result};
use crate::limits;
use crate::root::Root;

pub fn stat(root: &Root, path: &SessionPath, follow: bool) -> Result<FileInfo> {
    let failed = |e: io::Error| Fault::io("looking at", path.as_str(), &e);
    let Some((_, name)) = path.split() else {
        let fd = root.resolve(".", OFlags::PATH).map_err(failed)?;
        return Ok(describe(b"/", &fstat(&fd).map_err(|e| failed(e.into()))?, None));
    };
    if follow {
        let fd = root.resolve(path.relative(), OFlags::PATH).map_err(failed)?;
        return Ok(describe(name.as_bytes(), &fstat(&fd).map_err(|e| failed(e.into()))?, None));
    }
    let place = root.parent(path).map_err(failed)?;
    let stat = statat(&place.dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(e.into()))?;
    let target = link_target(&place.dir, name.as_bytes(), &stat);
    Ok(describe(name.as_bytes(), &stat, target))
}

/// A page of a directory in byte order, behind the name that `after` stands for. Names need not be text, so the mark of a page is
/// one percent-encoded.
pub fn list(root: &Root, path: &SessionPath, after: Option<&str>, limit: usize) -> Result<FileList> {
    let failed = |e: io::Error| Fault::io("listing", path.as_str(), &e);
    let dir = root.directory(path).map_err(failed)?;
    let after: Option<Vec<u8>> = after.map(|a| percent_decode_str(a).collect());
    let mut names: Vec<Vec<u8>> = Vec::new();
    for entry in Dir::read_from(&dir).map_err(|e| failed(e.into()))? {
        let entry = entry.map_err(|e| failed(e.into()))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." || after.as_deref().is_some_and(|a| name <= a) {
            continue;
        }
        if names.len() >= limits::LIST_NAMES {
            return Err(Fault::new(
                Code::TooLarge,
                format!("{path} has more than {} entries; use tar or a command", limits::LIST_NAMES),
            ));
        }
        names.push(name.to_vec());
    }
    names.sort_unstable();
    let more = names.len() > limit;
    names.truncate(limit);
    let mut list = FileList::default();
    if more {
        list.next = names.last().map(|n| percent_encode(n, NON_ALPHANUMERIC).to_string());
    }
    for name in names {
        // One that was removed meanwhile is not in the page.
        if let Ok(stat) = statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            let target = link_target(&dir, &name, &stat);
            list.entries.push(describe(&name, &stat, target));
        }
    }
    Ok(list)
}

fn link_target(dir: impl AsFd, name: &[u8], stat: &Stat) -> Option<String> {
    (FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
        .then(|| readlinkat(dir, name, Vec::new()).ok())
        .flatten()
        .map(|t| CStr::to_string_lossy(&t).into_owned())
}

pub fn describe(name: &[u8], stat: &Stat, target: Option<String>) -> FileInfo {
    let (name, name_b64) = match String::from_utf8(name.to_vec()) {
        Ok(name) => (name, None),
        Err(e) => (String::from_utf8_lossy(e.as_bytes()).into_owned(), Some(B64(e.into_bytes()))),
    };
    FileInfo {
        name,
        name_b64,
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::CharacterDevice => FileKind::CharDevice,
            FileType::BlockDevice => FileKind::BlockDevice,
            _ => FileKind::File,
        },
        size: stat.st_size as u64,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified_ms: stat.st_mtime * 1000 + stat.st_mtime_nsec as i64 / 1_000_000,
        target,
    }
}
