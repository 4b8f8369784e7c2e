//! What a jailer is told before it starts. Nothing of it can be changed by a request.

use std::path::{Path, PathBuf};

use wharf_domain::quota::Resources;

use crate::step::Step;
use crate::volume::PoolSettings;

/// Ids from a region no distribution hands out to people or their containers (2^30 and up).
pub const DEFAULT_FIRST_ID: u32 = 1 << 30;
/// Unix socket paths end at 107 bytes; the longest below a run directory is `/jails/<uuid>/host.sock`.
const LONGEST_RUN_DIR: usize = 107 - "/jails/".len() - 36 - "/host.sock".len();

#[derive(Clone, Debug)]
pub struct JailerSettings {
    /// Sockets and the state of running jails; lost with the machine's memory, kept over a restart of the jailer.
    pub run_dir: PathBuf,
    /// The only user besides root who may talk to the jailer, and the owner of hosts' sockets.
    pub control_uid: u32,
    pub control_gid: u32,
    /// The statically linked program that becomes process 1 of every jail.
    pub host_binary: PathBuf,
    /// Name of our directory in each cgroup tree; one per jailer on a machine.
    pub cgroup_parent: String,
    /// Outside id of the first jail's root; each jail takes 65536.
    pub first_id: u32,
    pub pool: PoolSettings,
    /// End all jails with the jailer on SIGTERM. Otherwise they go on and the next jailer adopts them.
    pub stop_jails_on_exit: bool,
    /// Limits of a jail that waits for a session.
    pub warm: Resources,
}

impl JailerSettings {
    pub fn new(run_dir: PathBuf, pool: PoolSettings, host_binary: PathBuf) -> Self {
        Self {
            run_dir,
            control_uid: 0,
            control_gid: 0,
            host_binary,
            cgroup_parent: "wharf".to_owned(),
            first_id: DEFAULT_FIRST_ID,
            pool,
            stop_jails_on_exit: false,
            warm: Resources { cpu_millis: 1000, memory_mib: 512, disk_mib: 1024, pids: 256 },
        }
    }

    /// Where the jailer listens.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.run_dir)
    }

    pub(crate) fn validate(&self) -> Result<(), Step> {
        let refuse = |why: String| Err(Step::refused("check the jailer's settings", why));
        for path in [&self.run_dir, &self.host_binary] {
            if !path.is_absolute() {
                return refuse(format!("{} is not an absolute path", path.display()));
            }
        }
        let length = self.run_dir.as_os_str().len();
        if length > LONGEST_RUN_DIR {
            return refuse(format!(
                "the run directory's path has {length} bytes; unix sockets allow {LONGEST_RUN_DIR}"
            ));
        }
        let name = &self.cgroup_parent;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return refuse(format!("{name:?} is not a name for a cgroup: use letters, digits, '-' and '_'"));
        }
        if self.first_id < crate::launch::IDS {
            return refuse(format!("ids of jails would begin at {}, among the machine's own", self.first_id));
        }
        if !rustix::process::geteuid().is_root() {
            return refuse("the jailer needs root".to_owned());
        }
        Ok(())
    }
}

pub fn socket_in(run_dir: &Path) -> PathBuf {
    run_dir.join("jailer.sock")
}
