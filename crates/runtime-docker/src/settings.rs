//! What the runtime is told before it starts. Nothing of it can be changed by a request.

use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Settings {
    /// The engine's unix socket.
    pub engine: PathBuf,
    /// Where running sessions have their sockets: `<run_dir>/jails/<id>`, beside those of the native runtime.
    pub run_dir: PathBuf,
    /// What must outlive the machine's memory: fences, and the name of this installation on the engine. Root's own.
    pub state_dir: PathBuf,
    /// The statically linked program that becomes process 1.
    pub host_binary: PathBuf,
    /// Who may connect to the sessions' sockets.
    pub control_uid: u32,
    pub control_gid: u32,
    /// Takes sessions without a disk limit where the engine's storage driver has none.
    pub waive_disk_limit: bool,
    /// Takes sessions that may become root where the engine has no user namespaces.
    pub waive_user_namespaces: bool,
}

impl Settings {
    pub fn new(engine: PathBuf, run_dir: PathBuf, state_dir: PathBuf, host_binary: PathBuf) -> Self {
        Self {
            engine,
            run_dir,
            state_dir,
            host_binary,
            control_uid: 0,
            control_gid: 0,
            waive_disk_limit: false,
            waive_user_namespaces: false,
        }
    }

    pub(crate) fn jails(&self) -> PathBuf {
        self.run_dir.join("jails")
    }
}

/// Where the broker listens.
pub fn broker_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("docker.sock")
}
