//! Writes an archive's members into a directory, and nowhere else.
//!
//! An archive is a stranger's text. Absolute names and `..` are refused. Every parent directory is resolved by the
//! kernel with the target as its root (`RESOLVE_IN_ROOT`), so a symbolic link in the archive leads where it will lead in
//! the session, never out. Names are unlinked before they are made, so nothing is written through a link.
//!
//! Left out and counted: device nodes. Left out: extended attributes other than file capabilities, ACLs and `user.*`,
//! since `trusted.*` and `user.overlay.*` would speak to the overlay the tree becomes part of.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    fchmod, fchown, fsetxattr, futimens, linkat, mkdirat, mkfifoat, openat, openat2, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::tarball::{Kind, Member, Tarball, content_error};
use crate::step::{At, Step};
use crate::volume::remove_tree;

/// Free space and inodes to leave: a full disk would end running sessions.
const RESERVE_BYTES: u64 = 1 << 30;
const RESERVE_INODES: u64 = 20_000;
/// How much is written between two looks at the free space.
const LOOK_EVERY: u64 = 64 << 20;
const MAX_PATH: usize = 4095;
const MAX_SEGMENT: usize = 255;

pub(super) struct Unpacker {
    root: OwnedFd,
    /// The parent of the last member: archives list a directory's entries together.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories' times, set last: making their entries changes them.
    directories: Vec<(Vec<u8>, i64)>,
    /// With layers: what the present layer made, which its own whiteouts do not touch.
    layer: Option<HashSet<Vec<u8>>>,
    pub bytes: u64,
    pub skipped: u64,
    unlooked: u64,
}

impl Unpacker {
    pub(super) fn new(root: &Path) -> Result<Self, Step> {
        let root: OwnedFd = File::open(root).at("open the image's tree")?.into();
        fchmod(&root, Mode::from_raw_mode(0o755)).at("chmod the image's tree")?;
        Ok(Self {
            root,
            parent: None,
            directories: Vec::new(),
            layer: None,
            bytes: 0,
            skipped: 0,
            unlooked: LOOK_EVERY,
        })
    }

    /// All members of one archive.
    pub(super) fn unpack<R: Read>(&mut self, tarball: &mut Tarball<R>) -> Result<(), Step> {
        while let Some(member) = tarball.next()? {
            self.member(&member, tarball)?;
        }
        Ok(())
    }

    /// All members of one layer over those before, with the OCI image layer's whiteouts.
    pub(super) fn unpack_layer<R: Read>(&mut self, tarball: &mut Tarball<R>) -> Result<(), Step> {
        self.layer = Some(HashSet::new());
        self.parent = None;
        self.unpack(tarball)
    }

    /// Sets what could only be set last.
    pub(super) fn finish(mut self) -> Result<(u64, u64), Step> {
        for (path, modified) in std::mem::take(&mut self.directories) {
            // A later layer may have removed or replaced it.
            if let Ok(dir) = self.resolve(&path, OFlags::RDONLY | OFlags::DIRECTORY) {
                futimens(&dir, &times(modified)).at("set a directory's times")?;
            }
        }
        Ok((self.bytes, self.skipped))
    }

    fn member<R: Read>(&mut self, member: &Member, tarball: &mut Tarball<R>) -> Result<(), Step> {
        let path = clean(&member.path)?;
        self.look_at_space(member.size)?;
        if path.is_empty() {
            return match member.kind {
                Kind::Directory => self.describe_root(member),
                _ => Err(refuse(member, "it would replace the root")),
            };
        }
        let (parent_path, name) = split(&path);
        if self.layer.is_some() {
            if name == b".wh..wh..opq" {
                return self.clear(parent_path);
            }
            if let Some(hidden) = name.strip_prefix(b".wh.") {
                let hidden = clean(&[parent_path, b"/", hidden].concat())
                    .map_err(|_| refuse(member, "a whiteout of nothing"))?;
                return self.remove(&hidden);
            }
        }
        if member.kind == Kind::Device {
            self.skipped += 1;
            return Ok(());
        }
        let what = || format!("unpack {}", String::from_utf8_lossy(&path));
        let parent = match self.parent_of(parent_path) {
            Err(Errno::EXIST | Errno::NOTDIR | Errno::LOOP) => {
                return Err(refuse(member, "what it lies in is no directory, or a link that leads nowhere"));
            }
            answer => answer.at_with(what)?,
        };
        self.make_room(&parent, name, member)?;
        match member.kind {
            Kind::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = openat(&parent, name, flags, Mode::from_raw_mode(0o600)).at_with(what)?;
                let mut file = File::from(fd);
                self.bytes += copy_content(tarball, &mut file)?;
                describe(&file, member).at_with(what)?;
                futimens(&file, &times(member.modified)).at_with(what)?;
            }
            Kind::Directory => {
                match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error).at_with(what),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = openat(&parent, name, flags, Mode::empty()).at_with(what)?;
                describe(&dir, member).at_with(what)?;
                self.directories.push((path.clone(), member.modified));
            }
            Kind::Symlink => {
                if member.link.is_empty() || member.link.len() > MAX_PATH {
                    return Err(refuse(member, "its target is empty or too long"));
                }
                symlinkat(member.link.as_slice(), &parent, name).at_with(what)?;
                own(&parent, name, member).at_with(what)?;
            }
            Kind::HardLink => {
                let target =
                    clean(&member.link).map_err(|_| refuse(member, "it links outside the archive"))?;
                let (target_parent, target_name) = split(&target);
                let from = self.resolve(target_parent, OFlags::PATH | OFlags::DIRECTORY).at_with(what)?;
                linkat(&from, target_name, &parent, name, AtFlags::empty()).at_with(what)?;
            }
            Kind::Pipe => {
                mkfifoat(&parent, name, Mode::from_raw_mode(member.mode)).at_with(what)?;
                own(&parent, name, member).at_with(what)?;
            }
            Kind::Device => {}
        }
        self.parent = Some((parent_path.to_vec(), parent));
        if let Some(made) = &mut self.layer {
            made.insert(path);
        }
        Ok(())
    }

    fn describe_root(&mut self, member: &Member) -> Result<(), Step> {
        let root: OwnedFd =
            openat(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .at("open the image's tree")?;
        describe(&root, member).at("describe the image's root")?;
        self.directories.push((Vec::new(), member.modified));
        Ok(())
    }

    /// Removes what stands where `member` goes; a directory over a directory is merged.
    fn make_room(&mut self, parent: &OwnedFd, name: &[u8], member: &Member) -> Result<(), Step> {
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Step::failed("look at what is replaced", error)),
            Ok(stat) => match (FileType::from_raw_mode(stat.st_mode), member.kind) {
                (FileType::Directory, Kind::Directory) => Ok(()),
                (FileType::Directory, _) => self.remove_in(parent, name),
                _ => unlinkat(parent, name, AtFlags::empty()).at("replace an earlier member"),
            },
        }
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), Step> {
        let (parent, name) = split(path);
        match self.resolve(parent, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(parent) => self.remove_in(&parent, name),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(Step::failed("apply a whiteout", error)),
        }
    }

    fn remove_in(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<(), Step> {
        // It may be, or be above, the directory held open.
        self.parent = None;
        remove_tree(parent, name)
    }

    /// An opaque whiteout: of what earlier layers put into the directory, nothing stays.
    fn clear(&mut self, path: &[u8]) -> Result<(), Step> {
        let dir = match self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(Step::failed("apply a whiteout", error)),
        };
        let made = self.layer.take().unwrap_or_default();
        for entry in rustix::fs::Dir::read_from(&dir).at("list a directory")? {
            let entry = entry.at("list a directory")?;
            let name = entry.file_name().to_bytes();
            let own = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
            if name != b"." && name != b".." && !made.contains(&own) {
                self.remove_in(&dir, name)?;
            }
        }
        self.layer = Some(made);
        Ok(())
    }

    /// The directory `path`, made with what is missing above it.
    fn parent_of(&mut self, path: &[u8]) -> Result<OwnedFd, Errno> {
        if let Some((held, dir)) = self.parent.take()
            && held == path
        {
            return Ok(dir);
        }
        match self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            answer => return answer,
        }
        let (above, name) = split(path);
        let above = self.parent_of(above)?;
        mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
        if let Some(made) = &mut self.layer {
            made.insert(path.to_vec());
        }
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn resolve(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { b".".as_slice() } else { path };
        openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    fn look_at_space(&mut self, size: u64) -> Result<(), Step> {
        // Small files take an inode and a block.
        self.unlooked = self.unlooked.saturating_add(size.max(4096));
        if self.unlooked < LOOK_EVERY {
            return Ok(());
        }
        self.unlooked = 0;
        let stat = rustix::fs::fstatvfs(&self.root).at("ask for free space")?;
        let free = stat.f_bavail * stat.f_frsize;
        // File systems without a fixed number of inodes say 0 of 0.
        let inodes_low = stat.f_files > 0 && stat.f_favail < RESERVE_INODES;
        if free < RESERVE_BYTES.saturating_add(size) || inodes_low {
            return Err(Step::refused(
                "unpack the archive",
                format!("the disk is nearly full: {} MiB free", free >> 20),
            ));
        }
        Ok(())
    }
}

fn copy_content<R: Read>(tarball: &mut Tarball<R>, file: &mut File) -> Result<u64, Step> {
    let mut buffer = vec![0_u8; 128 << 10];
    let mut content = tarball.content();
    let mut total = 0;
    loop {
        let read = content.read(&mut buffer).map_err(content_error)?;
        if read == 0 {
            return Ok(total);
        }
        file.write_all(&buffer[..read]).at("write a file of the image")?;
        total += read as u64;
    }
}

/// Owner, then mode (a change of owner clears set-user-id), then attributes.
fn describe(fd: impl std::os::fd::AsFd, member: &Member) -> Result<(), Errno> {
    fchown(&fd, Some(Uid::from_raw(member.user)), Some(Gid::from_raw(member.group)))?;
    fchmod(&fd, Mode::from_raw_mode(member.mode))?;
    for (name, value) in &member.attributes {
        if kept(name) {
            fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty())?;
        }
    }
    Ok(())
}

fn kept(attribute: &[u8]) -> bool {
    attribute == b"security.capability"
        || attribute.starts_with(b"system.posix_acl_")
        || (attribute.starts_with(b"user.") && !attribute.starts_with(b"user.overlay."))
}

fn own(parent: &OwnedFd, name: &[u8], member: &Member) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(member.user), Gid::from_raw(member.group));
    chownat(parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    utimensat(parent, name, &times(member.modified), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(modified: i64) -> Timestamps {
    let time = Timespec { tv_sec: modified, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// A member's name as a relative path without `.`; empty for the root itself.
fn clean(path: &[u8]) -> Result<Vec<u8>, Step> {
    let refuse = |why: &str| {
        let shown: String = String::from_utf8_lossy(path).chars().take(120).collect();
        Err(Step::refused("unpack the archive", format!("member {shown:?}: {why}")))
    };
    if path.starts_with(b"/") {
        return refuse("its name is absolute");
    }
    if path.len() > MAX_PATH {
        return refuse("its name is too long");
    }
    if path.contains(&0) {
        return refuse("its name holds a zero byte");
    }
    let mut clean = Vec::with_capacity(path.len());
    for segment in path.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => return refuse("its name leads upwards"),
            _ if segment.len() > MAX_SEGMENT => return refuse("a part of its name is too long"),
            _ => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(segment);
            }
        }
    }
    Ok(clean)
}

/// Parent and last segment.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn refuse(member: &Member, why: &str) -> Step {
    let shown: String = String::from_utf8_lossy(&member.path).chars().take(120).collect();
    Step::refused("unpack the archive", format!("member {shown:?}: {why}"))
}
