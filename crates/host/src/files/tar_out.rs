//! A path of the session as a tar stream. Links are packed as links; sockets, FIFOs and devices have no place in an
//! archive of a session's work and are left out.
//!
//! Members of a directory are named relative to it, a single file by its name, so that what `PUT /files/tar` unpacks
//! into another directory is the same tree.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, OFlags, ResolveFlags, Stat, readlinkat, statat};
use tar::{Builder, EntryType, Header};
use wharf_wire::host::path::SessionPath;

use crate::limits;
use crate::reply::Sender;
use crate::root::{Root, at};

/// Where an archive starts: an open directory, or one file in an open directory.
pub enum Start {
    Directory(OwnedFd),
    Entry(OwnedFd, String),
}

impl Start {
    pub fn open(root: &Root, path: &SessionPath) -> io::Result<Self> {
        if path.is_root() {
            return root.directory(path).map(Self::Directory);
        }
        let place = root.parent(path)?;
        let stat = statat(&place.dir, place.name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => root.directory(path).map(Self::Directory),
            FileType::RegularFile | FileType::Symlink => Ok(Self::Entry(place.dir, place.name)),
            _ => Err(io::Error::other("it is neither a file, a directory nor a link")),
        }
    }

    /// Packs everything; blocks as long as the reader takes.
    pub fn pack(self, sender: &Sender) {
        let mut builder = Builder::new(Chunks { sender, chunk: Vec::new() });
        let packed = match self {
            Self::Directory(dir) => directory(&mut builder, &dir, Path::new(""), 0),
            Self::Entry(dir, name) => entry(&mut builder, &dir, name.as_bytes(), Path::new(&name), 0),
        };
        let done = packed.and_then(|()| builder.into_inner()).and_then(|mut out| out.flush());
        if let Err(e) = done {
            sender.blocking_fail(e);
        }
    }
}

struct Chunks<'a> {
    sender: &'a Sender,
    chunk: Vec<u8>,
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= limits::PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() { Ok(()) } else { self.sender.blocking(std::mem::take(&mut self.chunk)) }
    }
}

fn directory(out: &mut Builder<Chunks<'_>>, dir: &OwnedFd, path: &Path, depth: usize) -> io::Result<()> {
    if depth >= limits::DEPTH {
        return Err(io::Error::other(format!("directories nest deeper than {}", limits::DEPTH)));
    }
    let mut names: Vec<Vec<u8>> = Vec::new();
    for found in Dir::read_from(dir)? {
        let name = found?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    // The same tree gives the same archive.
    names.sort_unstable();
    for name in names {
        let path = path.join(std::ffi::OsStr::from_bytes(&name));
        match entry(out, dir, &name, &path, depth) {
            // Removed while we walked.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn entry(
    out: &mut Builder<Chunks<'_>>,
    dir: impl AsFd,
    name: &[u8],
    path: &Path,
    depth: usize,
) -> io::Result<()> {
    let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let name = std::ffi::OsStr::from_bytes(name);
    let strict = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
            let file = File::from(at(&dir, name, flags, strict)?);
            let stat = rustix::fs::fstat(&file)?;
            let size = stat.st_size as u64;
            let mut header = header(&stat, EntryType::Regular, size);
            // A file that changes while it is read must not shift what follows: shorter is padded, longer is cut.
            out.append_data(&mut header, path, file.chain(io::repeat(0)).take(size))
        }
        FileType::Directory => {
            let inner = at(&dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, strict)?;
            let mut header = header(&stat, EntryType::Directory, 0);
            out.append_data(&mut header, path.join(""), io::empty())?;
            directory(out, &inner, path, depth + 1)
        }
        FileType::Symlink => {
            let target = readlinkat(&dir, name, Vec::new())?.into_bytes();
            let mut header = header(&stat, EntryType::Symlink, 0);
            out.append_link(&mut header, path, std::ffi::OsString::from_vec(target))
        }
        _ => Ok(()),
    }
}

fn header(stat: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header
}
