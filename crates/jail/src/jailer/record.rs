//! What the jailer must still know of a jail after a crash: one file each, replaced at once.
//!
//! Not synced: the files matter only while the machine that runs the jails is up.

use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::{JailId, SessionId, VolumeId};
use wharf_wire::jailer::Running;

use crate::step::{At, Step};

/// Every record fills it, so that one write within one page replaces the whole: a killed process has written all of it
/// or nothing. A rename would do the same, but some file systems then start writing to the disk.
const LENGTH: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Being made; what is found of it after a crash is removed.
    Starting,
    /// Ready, nobody's.
    Warm,
    /// Being handed to a session; after a crash neither warm nor the session's, so removed.
    Claiming,
    Running,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub jail: JailId,
    pub phase: Phase,
    /// `None` for a warm jail, whose volume is then nobody's either.
    pub session: Option<SessionId>,
    pub incarnation: u64,
    pub volume: VolumeId,
    pub image: ImageRef,
    pub resources: Resources,
    pub allow_root: bool,
    pub warm: bool,
    /// Which range of ids it holds.
    pub slot: u32,
    /// With `started` and `boot` these name one process for ever; 0 while starting.
    pub pid: i32,
    pub started: u64,
    pub boot: String,
}

impl Record {
    pub fn running(&self, run_dir: &Path) -> Option<Running> {
        Some(Running {
            jail: self.jail,
            session: self.session?,
            incarnation: self.incarnation,
            volume: self.volume,
            host_socket: socket(run_dir, self.jail).to_string_lossy().into_owned(),
            warm: self.warm,
        })
    }

    pub fn save(&self, run_dir: &Path) -> Result<(), Step> {
        let step = "write the jail's state";
        let mut text = serde_json::to_vec(self).at(step)?;
        if text.len() > LENGTH {
            return Err(Step::failed(step, format!("{} bytes, more than {LENGTH}", text.len())));
        }
        text.resize(LENGTH, b' ');
        let path = directory(run_dir, self.jail).join("state.json");
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .at(step)?;
        file.write_all_at(&text, 0).at(step)
    }

    pub fn load(directory: &Path) -> Result<Self, Step> {
        let text = std::fs::read(directory.join("state.json")).at("read a jail's state")?;
        serde_json::from_slice(&text).at("read a jail's state")
    }
}

pub(super) fn directory(run_dir: &Path, jail: JailId) -> PathBuf {
    run_dir.join("jails").join(jail.to_string())
}

pub(super) fn socket(run_dir: &Path, jail: JailId) -> PathBuf {
    directory(run_dir, jail).join("host.sock")
}

/// Extension of a jail's directory that is not yet as it should be.
pub(super) const MAKING: &str = "making";

/// The gateway puts its socket for the jail there.
pub(super) fn gateway(run_dir: &Path, jail: JailId) -> PathBuf {
    directory(run_dir, jail).join("gateway")
}
