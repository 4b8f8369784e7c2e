//! The root the session's paths start from. Always through `openat2(RESOLVE_IN_ROOT)`: in a jail the root is `/` and nothing is
//! outside anyway; in tests it is a directory, and links that point out of it lead back in.
//!
//! Everything here takes a parent's descriptor and a last name, so that what was checked is what is acted on.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2};
use wharf_wire::host::path::{SessionPath, normalise};

use crate::limits;

pub struct Root {
    dir: OwnedFd,
    outside: PathBuf,
}

/// A place for a file that may not exist: the open directory and the name in it.
pub struct Place {
    pub dir: OwnedFd,
    pub name: String,
}

impl Root {
    pub fn open(path: &Path) -> io::Result<Self> {
        let outside = path.canonicalize()?;
        let dir =
            rustix::fs::open(&outside, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { dir, outside })
    }

    /// What a process of this machine calls a path of the session. The same in a jail.
    pub fn outside(&self, path: &SessionPath) -> PathBuf {
        if self.outside == Path::new("/") {
            PathBuf::from(path.as_str())
        } else {
            self.outside.join(path.relative())
        }
    }

    /// The root as a process of this machine calls it; `/` in a jail.
    pub fn outside_path(&self) -> &Path {
        &self.outside
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.dir
    }

    pub fn resolve(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        at(&self.dir, if path.is_empty() { "." } else { path }, flags, ResolveFlags::IN_ROOT)
    }

    pub fn directory(&self, path: &SessionPath) -> io::Result<OwnedFd> {
        self.resolve(path.relative(), OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// A regular file for reading. Anything else is refused: opening a FIFO or a device can block or act.
    pub fn open_file(&self, path: &SessionPath) -> io::Result<File> {
        let fd = self.resolve(path.relative(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        match kind {
            rustix::fs::FileType::RegularFile => Ok(File::from(fd)),
            rustix::fs::FileType::Directory => Err(io::Error::from_raw_os_error(libc::EISDIR)),
            _ => Err(io::Error::other("it is not a regular file")),
        }
    }

    /// The parent of `path`, and its name there; a link at the end is not followed.
    pub fn parent(&self, path: &SessionPath) -> io::Result<Place> {
        let Some((parent, name)) = path.split() else {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        };
        Ok(Place { dir: self.directory(&parent)?, name: name.to_owned() })
    }

    /// Like `parent`, but links at the end are followed to where a file would be written.
    pub fn writable_place(&self, path: &SessionPath) -> io::Result<Place> {
        let mut path = path.clone();
        for _ in 0..limits::LINKS {
            let place = self.parent(&path)?;
            match rustix::fs::readlinkat(&place.dir, place.name.as_str(), Vec::new()) {
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(place),
                Err(e) => return Err(e.into()),
                Ok(target) => {
                    let target =
                        target.into_string().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
                    let (parent, _) =
                        path.split().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
                    path = wharf_wire::host::path::normalise_from(&parent, &target)
                        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
                }
            }
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }

    /// Makes every missing directory down to `path`. Those made belong to `owner`.
    pub fn make_directories(&self, path: &SessionPath, mode: u32, owner: (u32, u32)) -> io::Result<OwnedFd> {
        match self.directory(path) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other,
        }
        let Some((parent, name)) = path.split() else { return self.directory(path) };
        let parent = self.make_directories(&parent, mode, owner)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) => own(&parent, name, owner)?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        self.directory(path)
    }

    /// Opens a directory of the host's own below the root, making it (mode 0700) when missing and following no link.
    pub fn private_directory(&self, path: &str) -> io::Result<OwnedFd> {
        let path = normalise(path).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let strict = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        match at(&self.dir, path.relative(), flags, strict) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other,
        }
        if let Some((parent, name)) = path.split() {
            let parent = if parent.is_root() {
                at(&self.dir, ".", flags, strict)?
            } else {
                // Directories above the host's own are the system's and stay readable for all.
                match at(&self.dir, parent.relative(), flags, strict) {
                    Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                        self.make_directories(&parent, 0o755, ids_of_this_process())?
                    }
                    other => other?,
                }
            };
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        at(&self.dir, path.relative(), flags, strict)
    }
}

fn ids_of_this_process() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// `openat2` with close-on-exec. EAGAIN means that a rename raced with `..` in the path; the kernel asks to try again.
pub fn at(
    dir: impl AsFd,
    path: impl AsRef<OsStr>,
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let path = Path::new(path.as_ref());
    let mut tries = 0;
    loop {
        match openat2(
            &dir,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(rustix::io::Errno::AGAIN) if tries < 16 => tries += 1,
            other => return Ok(other?),
        }
    }
}

/// Gives a new entry its owner; nothing to do when it has it.
pub fn own(dir: impl AsFd, name: &str, (uid, gid): (u32, u32)) -> io::Result<()> {
    if ids_of_this_process() == (uid, gid) {
        return Ok(());
    }
    rustix::fs::chownat(
        dir,
        OsStr::from_bytes(name.as_bytes()),
        Some(rustix::fs::Uid::from_raw(uid)),
        Some(rustix::fs::Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}
