//! Unpacks a tar stream into a directory. A member that is absolute, has `..` in its name, goes through a link that
//! leaves the target, or is a device, is refused and ends the unpacking; what came before it stays.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, fchmod, futimens, linkat, mkdirat,
    openat, statat, symlinkat, unlinkat,
};
use tar::{Archive, EntryType};
use tokio::sync::mpsc;
use wharf_domain::Code;
use wharf_wire::host::files::Unpacked;
use wharf_wire::host::path::{PATH_BYTES, member};

use crate::fault::{Fault, Result};
use crate::root::{at, own};

/// Bytes of extended headers (long names, PAX records) of one member.
const EXTENSION_BYTES: u64 = 64 * 1024;

/// The body as a blocking reader. A body that breaks off is an error, never an early end.
pub struct Incoming {
    pub chunks: mpsc::Receiver<io::Result<Bytes>>,
    pub left: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.left = chunk?,
            }
        }
        let n = buffer.len().min(self.left.len());
        buffer[..n].copy_from_slice(&self.left.split_to(n));
        Ok(n)
    }
}

pub struct Unpack {
    pub target: OwnedFd,
    pub owner: (u32, u32),
    /// Take owners and setuid bits from the archive.
    pub preserve_owner: bool,
}

impl Unpack {
    pub fn run(&self, mut from: Incoming) -> Result<Unpacked> {
        let mut done = Unpacked::default();
        let unpacked = self.members(&mut from, &mut done);
        if unpacked.is_ok() {
            // Behind the archive's end there may be padding; the sender wants to be rid of it.
            io::copy(&mut from, &mut io::sink()).map_err(|e| broken(&e))?;
        }
        unpacked.map(|()| done)
    }

    fn members(&self, from: &mut Incoming, done: &mut Unpacked) -> Result<()> {
        let mut archive = Archive::new(from);
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        // Raw: extensions are read here, with a bound; the library reads them whole.
        let entries = archive.entries().map_err(|e| broken(&e))?.raw(true);
        for entry in entries {
            let mut entry = entry.map_err(|e| broken(&e))?;
            let kind = entry.header().entry_type();
            match kind {
                EntryType::GNULongName => long_name = Some(text(&mut entry)?),
                EntryType::GNULongLink => long_link = Some(text(&mut entry)?),
                EntryType::XHeader => {
                    for (key, value) in pax(&extension(&mut entry)?)? {
                        match key.as_slice() {
                            b"path" => long_name = Some(value),
                            b"linkpath" => long_link = Some(value),
                            b"size" => {
                                return Err(refuse(
                                    "a member",
                                    "sizes over 8 GiB in PAX headers are not supported",
                                ));
                            }
                            _ => {}
                        }
                    }
                }
                EntryType::XGlobalHeader => drop(extension(&mut entry)?),
                _ => {
                    let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                    let link = long_link
                        .take()
                        .or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
                    self.member(&mut entry, &name, link, done)?;
                    done.members += 1;
                }
            }
        }
        Ok(())
    }

    fn member<R: Read>(
        &self,
        entry: &mut tar::Entry<'_, R>,
        raw: &[u8],
        link: Option<Vec<u8>>,
        done: &mut Unpacked,
    ) -> Result<()> {
        let shown = String::from_utf8_lossy(raw).into_owned();
        let failed = |e: io::Error| Fault::io("unpacking", &shown, &e);
        let header = entry.header();
        let bad = |e: io::Error| refuse(&shown, &e.to_string());
        let owner = if self.preserve_owner {
            (narrow(header.uid().map_err(bad)?, &shown)?, narrow(header.gid().map_err(bad)?, &shown)?)
        } else {
            self.owner
        };
        let mask = if self.preserve_owner { 0o7777 } else { 0o777 };
        let mode = Mode::from_raw_mode(header.mode().map_err(bad)? & mask);
        let modified = header.mtime().unwrap_or(0);
        let kind = header.entry_type();
        let Some(path) = member(raw).map_err(|e| refuse(&shown, &e.to_string()))? else {
            return if kind.is_dir() {
                Ok(())
            } else {
                Err(refuse(&shown, "only a directory can be the target itself"))
            };
        };
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", &path));
        let dir = self.directories(parent, owner).map_err(failed)?;
        match kind {
            EntryType::Directory => {
                match mkdirat(&dir, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) => own(&dir, name, owner).map_err(failed)?,
                    Err(rustix::io::Errno::EXIST) => {}
                    Err(e) => return Err(failed(e.into())),
                }
                let inner = at(&dir, name, OFlags::RDONLY | OFlags::DIRECTORY, BENEATH).map_err(failed)?;
                fchmod(&inner, mode).map_err(|e| failed(e.into()))
            }
            EntryType::Regular | EntryType::Continuous => {
                clear(&dir, name).map_err(failed)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(
                    openat(&dir, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| failed(e.into()))?,
                );
                let size = entry.size();
                let bytes = copy(entry, &mut file, &shown)?;
                if bytes != size {
                    return Err(broken(&io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("{shown} is cut short"),
                    )));
                }
                done.bytes += bytes;
                own(&dir, name, owner).map_err(failed)?;
                fchmod(&file, mode).map_err(|e| failed(e.into()))?;
                let when = Timespec { tv_sec: i64::try_from(modified).unwrap_or(0), tv_nsec: 0 };
                futimens(&file, &Timestamps { last_access: when, last_modification: when })
                    .map_err(|e| failed(e.into()))
            }
            EntryType::Symlink => {
                let target = link.filter(|l| !l.is_empty() && l.len() <= PATH_BYTES && !l.contains(&0));
                let target = target.ok_or_else(|| refuse(&shown, "the link has no target that could be"))?;
                clear(&dir, name).map_err(failed)?;
                symlinkat(target.as_slice(), &dir, name).map_err(|e| failed(e.into()))?;
                own(&dir, name, owner).map_err(failed)
            }
            EntryType::Link => {
                let target = link.ok_or_else(|| refuse(&shown, "the link has no target"))?;
                let target = member(&target)
                    .map_err(|e| refuse(&shown, &format!("its target: {e}")))?
                    .ok_or_else(|| refuse(&shown, "a directory cannot be linked to"))?;
                let (to, target) = target.rsplit_once('/').unwrap_or((".", &target));
                let to = at(&self.target, to, OFlags::RDONLY | OFlags::DIRECTORY, BENEATH).map_err(failed)?;
                clear(&dir, name).map_err(failed)?;
                linkat(&to, target, &dir, name, AtFlags::empty()).map_err(|e| failed(e.into()))
            }
            EntryType::Char | EntryType::Block => Err(refuse(&shown, "devices are not unpacked")),
            EntryType::Fifo => Err(refuse(&shown, "FIFOs are not unpacked")),
            _ => Err(refuse(
                &shown,
                &format!("members of type {:?} are not supported", kind.as_byte() as char),
            )),
        }
    }

    /// The directory `path` below the target; what is missing is made.
    fn directories(&self, path: &str, owner: (u32, u32)) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match at(&self.target, path, flags, BENEATH) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other,
        }
        let mut made = String::new();
        let mut dir = at(&self.target, ".", flags, BENEATH)?;
        for name in path.split('/') {
            if !made.is_empty() {
                made.push('/');
            }
            made.push_str(name);
            dir = match at(&self.target, &made, flags, BENEATH) {
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                    mkdirat(&dir, name, Mode::from_raw_mode(0o755))?;
                    own(&dir, name, owner)?;
                    at(&self.target, &made, flags, BENEATH)?
                }
                other => other?,
            };
        }
        Ok(dir)
    }
}

/// Links are followed as long as they stay below the target.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH;

/// Makes way for a member: what is there goes, unless it is a directory.
fn clear(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(io::Error::from_raw_os_error(libc::EISDIR))
        }
        Ok(_) => Ok(unlinkat(dir, name, AtFlags::empty())?),
    }
}

fn copy(from: &mut impl Read, to: &mut File, shown: &str) -> Result<u64> {
    use io::Write as _;
    let mut buffer = vec![0; crate::limits::PIECE_BYTES];
    let mut bytes = 0;
    loop {
        let n = from.read(&mut buffer).map_err(|e| broken(&e))?;
        if n == 0 {
            return Ok(bytes);
        }
        to.write_all(&buffer[..n]).map_err(|e| Fault::io("unpacking", shown, &e))?;
        bytes += n as u64;
    }
}

fn refuse(member: &str, why: &str) -> Fault {
    Fault::new(Code::InvalidField, format!("the archive's member {member:?} is refused: {why}"))
}

fn broken(error: &io::Error) -> Fault {
    Fault::new(Code::BadRequest, format!("the archive cannot be read: {error}"))
}

fn narrow(id: u64, member: &str) -> Result<u32> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| refuse(member, "its owner is no user id"))
}

fn extension(entry: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(EXTENSION_BYTES + 1).read_to_end(&mut bytes).map_err(|e| broken(&e))?;
    if bytes.len() as u64 > EXTENSION_BYTES {
        return Err(refuse("a member", "its extended header is over 64 KiB"));
    }
    Ok(bytes)
}

/// A long name, without the NUL at its end.
fn text(entry: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = extension(entry)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// Records of a PAX header: `length key=value\n` (POSIX.1-2001, pax).
pub fn pax(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let bad = || refuse("a member", "its PAX header is malformed");
    let mut records = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = rest.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize =
            std::str::from_utf8(&rest[..space]).ok().and_then(|n| n.parse().ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &rest[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        rest = &rest[length..];
    }
    Ok(records)
}
