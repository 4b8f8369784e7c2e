//! Which session of its own an agent had, kept in the volume: an agent that can load it goes on where it was after its process,
//! its computer or the machine came back.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat, renameat};

use crate::root::Root;

const DIRECTORY: &str = "/var/lib/wharf/acp";
const HOME_DIRECTORY: &str = "/home/agent/.local/state/wharf/acp";
/// Bytes of a session's id.
const ID_BYTES: u64 = 4096;

fn directory(root: &Root) -> io::Result<OwnedFd> {
    match root.private_directory(DIRECTORY) {
        Err(e) if !rustix::process::geteuid().is_root() && e.kind() == io::ErrorKind::PermissionDenied => {
            root.private_directory(HOME_DIRECTORY)
        }
        other => other,
    }
}

/// A file name that any agent's name can have.
fn file(agent: &str) -> String {
    use std::fmt::Write as _;
    agent.bytes().fold(String::from("a-"), |mut name, b| {
        let _ = if b.is_ascii_alphanumeric() || b == b'-' {
            write!(name, "{}", b as char)
        } else {
            write!(name, "_{b:02x}")
        };
        name
    })
}

pub fn read(root: &Root, agent: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(directory(root).ok()?, file(agent).as_str(), flags, Mode::empty()).ok()?;
    let mut id = String::new();
    File::from(fd).take(ID_BYTES).read_to_string(&mut id).ok()?;
    (!id.is_empty()).then_some(id)
}

pub fn write(root: &Root, agent: &str, session: &str) -> io::Result<()> {
    let directory = directory(root)?;
    let (name, fresh) = (file(agent), format!("{}.new", file(agent)));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(&directory, fresh.as_str(), flags, Mode::from_raw_mode(0o600))?;
    File::from(fd).write_all(session.as_bytes())?;
    Ok(renameat(&directory, fresh.as_str(), &directory, name.as_str())?)
}
