//! A session's directory on the machine: where its sockets are, and what must still be known of it after a crash.
//!
//! It lies beside those of the native runtime and is told apart by [`FOREIGN`]. Only root and the control plane's group
//! can walk into it.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_domain::{JailId, SessionId, VolumeId};
use wharf_jail::jailer::FOREIGN;
use wharf_ports::runtime::{Fault, Result, Running};

use crate::settings::Settings;

pub const DOOR_DIR_INSIDE: &str = "/run/wharf/door";
/// Where the host fetches its socket when it starts.
pub const DOOR_INSIDE: &str = "/run/wharf/door/s";

/// Directories on their way in and out: no jail has such a name.
const FRESH: &str = "new";
const GONE: &str = "gone";

#[derive(Clone, Debug)]
pub struct Place {
    pub jail: JailId,
    dir: PathBuf,
}

/// Written before anything else is in the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub runtime: String,
    pub volume: VolumeId,
    pub session: SessionId,
    pub incarnation: u64,
    /// When the engine says that it started: one start of one container. Nothing while it is being made.
    pub started_at: Option<String>,
}

impl Place {
    /// A container keeps its directory, since its mounts cannot be changed: the volume's id names both.
    pub fn of(run_dir: &Path, volume: VolumeId) -> Self {
        let jail = JailId::from_uuid(volume.uuid());
        Self { jail, dir: run_dir.join("jails").join(jail.to_string()) }
    }

    pub fn door(&self) -> PathBuf {
        self.dir.join("door")
    }

    pub fn gateway(&self) -> PathBuf {
        self.dir.join("gateway")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("host.sock")
    }

    /// Makes it anew; what was there is gone.
    pub fn make(&self, record: &Record, settings: &Settings) -> io::Result<()> {
        self.wipe()?;
        // Under a name that is nobody's until it says whose it is.
        let fresh = self.dir.with_extension(FRESH);
        remove(&fresh)?;
        std::fs::DirBuilder::new().mode(0o700).create(&fresh)?;
        write(&fresh, record)?;
        for (name, mode, owner) in
            [("door", 0o755, None), ("gateway", 0o711, Some((settings.control_uid, settings.control_gid)))]
        {
            let path = fresh.join(name);
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
            if let Some((uid, gid)) = owner {
                chown(&path, Some(uid), Some(gid))?;
            }
        }
        chown(&fresh, Some(0), Some(settings.control_gid))?;
        std::fs::set_permissions(&fresh, Permissions::from_mode(0o710))?;
        std::fs::rename(&fresh, &self.dir)
    }

    /// The host's socket, for the control plane's user alone.
    pub fn listen(&self, settings: &Settings) -> io::Result<StdListener> {
        let path = self.socket();
        let listener = StdListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        chown(&path, Some(settings.control_uid), Some(settings.control_gid))?;
        Ok(listener)
    }

    /// The door, for whoever is in the container: that is process 1 alone while the door is open.
    pub fn open_door(&self) -> io::Result<StdListener> {
        let path = self.door().join("s");
        let listener = StdListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    pub fn shut_door(&self) -> io::Result<()> {
        std::fs::remove_file(self.door().join("s"))
    }

    pub fn save(&self, record: &Record) -> io::Result<()> {
        write(&self.dir, record)
    }

    /// `None` when there is none, or none that can be read.
    pub fn load(&self) -> Option<Record> {
        serde_json::from_slice(&std::fs::read(self.dir.join(FOREIGN)).ok()?).ok()
    }

    /// Out of sight first: the gateway binds its socket wherever it sees a jail's directory, and may be about to.
    pub fn wipe(&self) -> io::Result<()> {
        let gone = self.dir.with_extension(GONE);
        remove(&gone)?;
        match std::fs::rename(&self.dir, &gone) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => remove(&gone),
        }
    }

    /// What a process that died while it made or removed one left behind. Nobody else may be at work.
    pub fn sweep(settings: &Settings) -> io::Result<()> {
        for entry in std::fs::read_dir(settings.jails())?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == FRESH || e == GONE) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    pub fn running(&self, record: &Record) -> Running {
        Running {
            jail: self.jail,
            session: record.session,
            incarnation: record.incarnation,
            volume: record.volume,
            host_socket: self.socket(),
            warm: false,
        }
    }

    /// All that are ours, by their records.
    pub fn all(settings: &Settings) -> Vec<(Self, Record)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(settings.jails()).into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|n| n.parse::<JailId>().ok()) else {
                continue;
            };
            let place = Self::of(&settings.run_dir, VolumeId::from_uuid(id.uuid()));
            if let Some(record) = place.load() {
                found.push((place, record));
            }
        }
        found
    }
}

/// Nothing to remove is success. Somebody who found it before it was out of sight may still put a file there: once.
fn remove(dir: &Path) -> io::Result<()> {
    for _ in 0..3 {
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    std::fs::remove_dir_all(dir)
}

/// Whole or not at all, whenever the process dies.
fn write(dir: &Path, record: &Record) -> io::Result<()> {
    let fresh = dir.join("runtime.new");
    std::fs::write(&fresh, serde_json::to_vec(record)?)?;
    std::fs::rename(fresh, dir.join(FOREIGN))
}

/// A failure on this machine's own files.
pub fn local(step: &str, error: impl std::fmt::Display) -> Fault {
    Fault::Failed { step: step.to_owned(), cause: error.to_string() }
}

/// Refuses a run directory whose sockets' paths would be too long for the kernel.
pub fn check_length(run_dir: &Path) -> Result<()> {
    const LONGEST: usize = 107 - "/jails/".len() - 36 - "/host.sock".len();
    let length = run_dir.as_os_str().len();
    if length > LONGEST {
        return Err(Fault::Refused(format!(
            "the run directory's path has {length} bytes; unix sockets allow {LONGEST}"
        )));
    }
    Ok(())
}
