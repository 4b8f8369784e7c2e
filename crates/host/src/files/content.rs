//! Reading and writing one file, streaming: its size is bounded by the disk, not by memory.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::header::{ACCEPT_RANGES, CONTENT_RANGE, HeaderValue};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, fchown, openat, renameat, statat, unlinkat};
use wharf_domain::Code;
use wharf_wire::host::files::{WriteOptions, Written};
use wharf_wire::host::path::SessionPath;

use crate::accounts;
use crate::fault::{Fault, Result};
use crate::host::{Host, off_thread};
use crate::limits;
use crate::reply::{self, Reply, Sender};
use crate::request::{self, Incomes, Query, Range};
use crate::root::Place;

pub async fn read(host: Arc<Host>, request: Incomes) -> Result<Reply> {
    let mut query = Query::of(&request)?;
    let path = query.path("path")?;
    query.finish()?;
    let range = Range::of(&request)?;
    let (file, size) = off_thread({
        let path = path.clone();
        move || {
            let failed = |e: io::Error| match e.raw_os_error() {
                Some(_) => Fault::io("reading", path.as_str(), &e),
                None => Fault::new(Code::InvalidState, format!("reading {path}: {e}")),
            };
            let file = host.root.open_file(&path).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            Ok((file, size))
        }
    })
    .await?;
    let (status, first, length) = match range {
        Some(range) => {
            let (first, length) = range.within(size)?;
            (StatusCode::PARTIAL_CONTENT, first, Some(length))
        }
        // Files of /proc say 0 and have content.
        None => (StatusCode::OK, 0, (size > 0).then_some(size)),
    };
    let (sender, mut reply) = reply::stream(status, "application/octet-stream", length);
    reply.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let (Some(_), Some(length)) = (range, length)
        && let Ok(value) = HeaderValue::try_from(format!("bytes {first}-{}/{size}", first + length - 1))
    {
        reply.headers_mut().insert(CONTENT_RANGE, value);
    }
    tokio::spawn(send(Arc::new(file), first, length, sender));
    Ok(reply)
}

async fn send(file: Arc<File>, mut at: u64, length: Option<u64>, sender: Sender) {
    let mut left = length;
    while left != Some(0) {
        let most = left.map_or(limits::PIECE_BYTES, |l| l.min(limits::PIECE_BYTES as u64) as usize);
        let from = Arc::clone(&file);
        let chunk = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; most];
            let n = from.read_at(&mut chunk, at)?;
            chunk.truncate(n);
            io::Result::Ok(chunk)
        })
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)));
        match chunk {
            Ok(chunk) if chunk.is_empty() => {
                if left.is_some() {
                    sender
                        .fail(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"))
                        .await;
                }
                return;
            }
            Ok(chunk) => {
                at += chunk.len() as u64;
                left = left.map(|l| l - chunk.len() as u64);
                if sender.bytes(chunk).await.is_err() {
                    return;
                }
            }
            Err(e) => return sender.fail(e).await,
        }
    }
}

pub async fn write(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    let written = write_body(host, &mut request).await;
    if written.is_err() {
        request::drain(&mut request).await;
    }
    reply::json(&written?)
}

async fn write_body(host: Arc<Host>, request: &mut Incomes) -> Result<Written> {
    let mut query = Query::of(request)?;
    let path = query.path("path")?;
    let options = WriteOptions {
        mode: query.mode("mode")?,
        owner: query.take("owner"),
        parents: query.flag("parents")?,
        append: query.flag("append")?,
    };
    query.finish()?;
    let promised = request::promised(request);
    let target = off_thread({
        let (host, path) = (Arc::clone(&host), path.clone());
        move || Target::open(&host, path, &options)
    })
    .await?;
    let mut target = Some(target);
    let mut bytes = 0_u64;
    let mut pending: Vec<u8> = Vec::new();
    let mut is_over = false;
    while !is_over {
        match request.body_mut().frame().await {
            None => is_over = true,
            // `target` is dropped on the way out and takes its temporary file with it.
            Some(Err(e)) => return Err(request::broken(&e)),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    bytes += data.len() as u64;
                    pending.extend_from_slice(data);
                }
            }
        }
        if pending.len() >= limits::PIECE_BYTES * 4 || (is_over && !pending.is_empty()) {
            let (chunk, open) = (std::mem::take(&mut pending), target.take());
            target = off_thread(move || {
                if let Some(open) = &open {
                    open.write(&chunk)?;
                }
                Ok(open)
            })
            .await?;
        }
    }
    if promised.is_some_and(|p| p != bytes) {
        return Err(Fault::new(Code::BadRequest, format!("the body ended after {bytes} bytes")));
    }
    let size = off_thread(move || target.map_or(Ok(0), Target::finish)).await?;
    Ok(Written { bytes, size })
}

static TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A file being written: a temporary one that takes the place of another when it is whole, or one that grows.
struct Target {
    path: SessionPath,
    place: Place,
    file: File,
    /// Removed again unless it was renamed.
    temporary: Option<String>,
}

impl Target {
    fn open(host: &Host, path: SessionPath, options: &WriteOptions) -> Result<Self> {
        let failed = |e: io::Error| Fault::io("writing", path.as_str(), &e);
        let owner = accounts::owner(&host.root, host.power, options.owner.as_deref())?;
        if options.parents
            && let Some((parent, _)) = path.split()
        {
            host.root.make_directories(&parent, 0o755, owner).map_err(failed)?;
        }
        let place = host.root.writable_place(&path).map_err(failed)?;
        let there = match statat(&place.dir, place.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Some(stat),
                FileType::Directory => return Err(failed(io::Error::from_raw_os_error(libc::EISDIR))),
                _ => {
                    return Err(Fault::new(
                        Code::InvalidState,
                        format!("writing {path}: it is not a regular file"),
                    ));
                }
            },
            Err(rustix::io::Errno::NOENT) => None,
            Err(e) => return Err(failed(e.into())),
        };
        let mode = options.mode.or(there.as_ref().map(|s| s.st_mode & 0o7777)).unwrap_or(0o644);
        let (uid, gid) = match (&options.owner, &there) {
            (None, Some(stat)) => (stat.st_uid, stat.st_gid),
            _ => owner,
        };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::CREATE | OFlags::NONBLOCK;
        let (fd, temporary) = if options.append {
            (open_at(&place, &place.name, flags | OFlags::APPEND).map_err(failed)?, None)
        } else {
            let mark = TEMPORARY.fetch_add(1, Ordering::Relaxed);
            let name = format!(".wharf-{}-{mark}~", std::process::id());
            (open_at(&place, &name, flags | OFlags::EXCL).map_err(failed)?, Some(name))
        };
        let target = Self { path, place, file: File::from(fd), temporary };
        if !options.append || there.is_none() || options.owner.is_some() {
            target.owned_by(uid, gid)?;
        }
        // After the owner: a change of owner clears setuid bits.
        if !options.append || there.is_none() || options.mode.is_some() {
            fchmod(&target.file, Mode::from_raw_mode(mode)).map_err(|e| target.failed(e.into()))?;
        }
        Ok(target)
    }

    fn owned_by(&self, uid: u32, gid: u32) -> Result<()> {
        let stat = rustix::fs::fstat(&self.file).map_err(|e| self.failed(e.into()))?;
        if (stat.st_uid, stat.st_gid) == (uid, gid) {
            return Ok(());
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        fchown(&self.file, Some(uid), Some(gid)).map_err(|e| self.failed(e.into()))
    }

    fn failed(&self, e: io::Error) -> Fault {
        Fault::io("writing", self.path.as_str(), &e)
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        use std::io::Write as _;
        (&self.file).write_all(bytes).map_err(|e| self.failed(e))
    }

    /// Puts the file where it belongs; its size then.
    fn finish(mut self) -> Result<u64> {
        if let Some(temporary) = self.temporary.take() {
            let done =
                renameat(&self.place.dir, temporary.as_str(), &self.place.dir, self.place.name.as_str());
            if let Err(e) = done {
                self.temporary = Some(temporary);
                return Err(self.failed(e.into()));
            }
        }
        self.file.metadata().map(|m| m.len()).map_err(|e| self.failed(e))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = unlinkat(&self.place.dir, temporary.as_str(), AtFlags::empty());
        }
    }
}

fn open_at(place: &Place, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat(&place.dir, name, flags, Mode::from_raw_mode(0o600))?)
}
