//! Turns in the volume: a file each below `/var/lib/wharf/turns`, which only root of the session may read (in a session
//! without root, below the agent's home). First line who asked what, then the events as they were sent.
//!
//! `{key}.running` becomes `{key}.done` when the turn ends. A `.running` file that no turn of this host writes belongs to a host that
//! died: it reads as interrupted, wherever it is found, so nothing has to be repaired at start. A turn whose agent can go on is
//! reopened instead, and written on. Not synced to the disk: it guards
//! against the death of the host, not of the machine.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, statat, unlinkat};
use serde::{Deserialize, Serialize};
use wharf_wire::host::turn::{Reason, Said, TurnEvent};

use super::{event_line, failed};
use crate::limits;
use crate::root::Root;

const DIRECTORY: &str = "/var/lib/wharf/turns";
/// Where a host that may not write there keeps them: it is `agent` itself then and has nothing that `agent` has not.
const HOME_DIRECTORY: &str = "/home/agent/.local/state/wharf/turns";
/// The key of a volume's setup script.
pub const SETUP: &str = "setup";
/// Bytes of one journal that are read; more than a turn may say.
const FILE_BYTES: u64 = 128 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// A turn's id, or `setup`.
    pub turn: String,
    pub seq: i64,
    pub agent: String,
}

pub struct Journal {
    dir: OwnedFd,
}

/// A turn that is over.
#[derive(Debug)]
pub struct Past {
    pub head: Head,
    pub lines: Vec<Bytes>,
    /// Its host died while it ran.
    pub interrupted: bool,
    /// Bytes of the file that could be read.
    length: u64,
}

impl Past {
    /// Events behind `after`; the end is always among them, else a caller that saw more than the disk did would wait for ever.
    pub fn events(&self, after: u64) -> Vec<Bytes> {
        let from = usize::try_from(after).unwrap_or(usize::MAX).min(self.lines.len());
        let mut events = self.lines[from..].to_vec();
        if self.interrupted {
            let n = after.max(self.lines.len() as u64) + 1;
            let done = failed(Reason::Interrupted, "the session's host died while the turn ran");
            events.push(event_line(&TurnEvent {
                n,
                at_ms: crate::process::now_ms(),
                by: None,
                said: Said::Done(done),
            }));
        }
        events
    }

    /// How it ended.
    pub fn done(&self) -> Option<wharf_wire::host::turn::Done> {
        let last = self.events(0).pop()?;
        match serde_json::from_slice::<TurnEvent>(&last).ok()?.said {
            Said::Done(done) => Some(done),
            _ => None,
        }
    }
}

impl Journal {
    pub fn open(root: &Root) -> io::Result<Self> {
        let dir = match root.private_directory(DIRECTORY) {
            Err(e)
                if !rustix::process::geteuid().is_root() && e.kind() == io::ErrorKind::PermissionDenied =>
            {
                root.private_directory(HOME_DIRECTORY)?
            }
            other => other?,
        };
        // A directory of that name that another made is not one to trust or to write to.
        rustix::fs::accessat(&dir, ".", rustix::fs::Access::WRITE_OK, AtFlags::empty())?;
        Ok(Self { dir })
    }

    /// The file of a turn about to start, with its head in it.
    pub fn begin(&self, head: &Head) -> io::Result<File> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::APPEND
            | OFlags::CLOEXEC;
        let name = running(&head.turn);
        let mut file = File::from(openat(&self.dir, name.as_str(), flags, Mode::from_raw_mode(0o600))?);
        let mut line = serde_json::to_vec(head)?;
        line.push(b'\n');
        if let Err(e) = file.write_all(&line) {
            let _ = unlinkat(&self.dir, name.as_str(), AtFlags::empty());
            return Err(e);
        }
        Ok(file)
    }

    /// The file of a turn that goes on, without what could not be read of it.
    pub fn reopen(&self, past: &Past) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::APPEND | OFlags::CLOEXEC;
        let file = File::from(openat(&self.dir, running(&past.head.turn).as_str(), flags, Mode::empty())?);
        file.set_len(past.length)?;
        Ok(file)
    }

    pub fn finish(&self, key: &str) -> io::Result<()> {
        Ok(renameat(&self.dir, running(key).as_str(), &self.dir, done(key).as_str())?)
    }

    pub fn forget(&self, key: &str) {
        for name in [running(key), done(key)] {
            let _ = unlinkat(&self.dir, name.as_str(), AtFlags::empty());
        }
    }

    /// The turn `key`, if there is one. The caller makes sure that it does not run now.
    pub fn read(&self, key: &str) -> io::Result<Option<Past>> {
        for name in [done(key), running(key)] {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = match openat(&self.dir, name.as_str(), flags, Mode::empty()) {
                Ok(fd) => File::from(fd),
                Err(rustix::io::Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            };
            let mut bytes = Vec::new();
            file.take(FILE_BYTES).read_to_end(&mut bytes)?;
            return Ok(Some(parse(key, &bytes)));
        }
        Ok(None)
    }

    /// Keys of all turns, oldest first: ids sort by the time they were made.
    pub fn keys(&self) -> io::Result<Vec<String>> {
        let mut keys: Vec<String> = self.files()?.into_iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    fn files(&self) -> io::Result<Vec<(String, String)>> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(key) = name.strip_suffix(".done").or_else(|| name.strip_suffix(".running")) {
                files.push((key.to_owned(), name));
            }
        }
        Ok(files)
    }

    /// Removes the oldest turns over the limits. Never `keep`, nor the setup.
    pub fn prune(&self, keep: &str) -> io::Result<()> {
        let mut files = self.files()?;
        files.retain(|(key, _)| key != keep && key != SETUP);
        files.sort_unstable();
        let size =
            |name: &str| statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).map_or(0, |s| s.st_size as u64);
        let (mut count, mut bytes) = (1, 0);
        for (_, name) in files.iter().rev() {
            count += 1;
            bytes += size(name);
            if count > limits::TURNS_KEPT || bytes > limits::TURNS_BYTES {
                unlinkat(&self.dir, name.as_str(), AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

fn running(key: &str) -> String {
    format!("{key}.running")
}

fn done(key: &str) -> String {
    format!("{key}.done")
}

/// Reads a journal. A line that is torn, out of order or no event ends it: what follows was never said for sure.
pub fn parse(key: &str, bytes: &[u8]) -> Past {
    let mut lines = bytes.split_inclusive(|b| *b == b'\n').filter(|l| l.ends_with(b"\n"));
    let head = lines.next().and_then(|l| serde_json::from_slice::<Head>(l).ok()).unwrap_or_else(|| Head {
        turn: key.to_owned(),
        seq: 0,
        agent: String::new(),
    });
    let length = bytes.iter().position(|b| *b == b'\n').map_or(0, |at| at as u64 + 1);
    let mut past = Past { head, lines: Vec::new(), interrupted: true, length };
    for line in lines {
        match serde_json::from_slice::<TurnEvent>(line) {
            Ok(event) if event.n == past.lines.len() as u64 + 1 => {
                past.lines.push(Bytes::copy_from_slice(line));
                past.length += line.len() as u64;
                if matches!(event.said, Said::Done(_)) {
                    past.interrupted = false;
                    break;
                }
            }
            _ => break,
        }
    }
    past
}
