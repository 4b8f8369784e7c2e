//! The engine's API as the runtime uses it: every call bounded in time, every failure a [`Fault`] with its step.
//!
//! The engine's socket comes and goes with the engine, so a client is made for each call, in the version of the API both
//! speak. Refuses to guess: what the engine answered is passed on in its own words.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::models::SystemInfo;
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use wharf_ports::runtime::{Fault, Result};

/// A healthy engine answers in milliseconds; a busy one takes its time with containers.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// An engine that is there says so at once, even while a container of its keeps it waiting.
const GREETING: Duration = Duration::from_secs(10);
/// Copying gigabytes.
pub const LONG_PATIENCE: Duration = Duration::from_secs(3600);
/// The engine's abilities do not change while it runs.
const KNOWN_FOR: Duration = Duration::from_secs(30);

pub struct Engine {
    socket: PathBuf,
    version: Mutex<Option<(usize, usize)>>,
    info: Mutex<Option<(Instant, Abilities)>>,
    /// What a try of the disk limit came to, for one storage driver.
    disk: Mutex<Option<(String, bool)>>,
}

/// What this engine can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Storage driver and, where it says so, what it stands on: `overlay2 on extfs`.
    pub storage: String,
    pub cgroups: String,
    pub cpu: bool,
    pub memory: bool,
    /// Whether it counts what is swapped out.
    pub swap: bool,
    /// Whether nothing of a container is swapped out beyond its memory limit: it is counted, or there is no swap.
    pub swap_free: bool,
    pub pids: bool,
    /// Whether the storage driver can limit a container's layer: by its name here, and by [`crate::disk`] once it was tried.
    pub disk: bool,
    /// Whether root in a container is nobody outside.
    pub user_namespaces: bool,
    pub server: String,
}

impl Abilities {
    fn of(info: &SystemInfo) -> Self {
        let driver = info.driver.clone().unwrap_or_default();
        let below = info.driver_status.iter().flatten().find_map(|pair| match pair.as_slice() {
            [key, value] if key == "Backing Filesystem" => Some(value.clone()),
            _ => None,
        });
        let has = |flag: Option<bool>| flag.unwrap_or(false);
        Self {
            // What `--storage-opt size` needs, by the engine's documentation. Whether it has it, as project quotas on xfs,
            // only a try says.
            disk: match driver.as_str() {
                "btrfs" | "zfs" => true,
                "overlay2" => below.as_deref() == Some("xfs"),
                _ => false,
            },
            storage: below.map_or_else(|| driver.clone(), |below| format!("{driver} on {below}")),
            cgroups: info.cgroup_version.map_or_else(|| "v1".to_owned(), |v| format!("v{v}")),
            cpu: has(info.cpu_cfs_quota),
            memory: has(info.memory_limit),
            swap: has(info.swap_limit),
            swap_free: has(info.swap_limit) || !machine_swaps(),
            pids: has(info.pids_limit),
            user_namespaces: info
                .security_options
                .iter()
                .flatten()
                .any(|o| o.contains("name=userns") || o.contains("name=rootless")),
            server: info.server_version.clone().unwrap_or_default(),
        }
    }
}

/// Whether the machine has swap now. The engine is on the same one.
fn machine_swaps() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().nth(1).is_some())
}

impl Engine {
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            version: Mutex::default(),
            info: Mutex::default(),
            disk: Mutex::default(),
        }
    }

    /// A client in the version both sides speak.
    pub async fn client(&self, patience: Duration) -> Result<Docker> {
        let address = self.socket.to_string_lossy();
        let known = *self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let connect = |version: &ClientVersion| {
            Docker::connect_with_unix(&address, patience.as_secs().max(1), version)
                .map_err(|e| self.away(&e.to_string()))
        };
        if let Some((major_version, minor_version)) = known {
            return connect(&ClientVersion { major_version, minor_version });
        }
        let fresh = connect(API_DEFAULT_VERSION)?.with_timeout(PATIENCE);
        let agreed = fresh.negotiate_version().await.map_err(|e| self.fault("greet", e))?;
        let version = agreed.client_version();
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((version.major_version, version.minor_version));
        Ok(agreed.with_timeout(patience))
    }

    /// Whether it is there at all.
    pub async fn greet(&self) -> Result<()> {
        let said = self.client(GREETING).await?.ping().await;
        said.map(drop).map_err(|e| self.fault("greet", e))
    }

    pub async fn abilities(&self) -> Result<Abilities> {
        let held = || self.info.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, known)) = &*held()
            && at.elapsed() < KNOWN_FOR
        {
            return Ok(known.clone());
        }
        let info = self.client(PATIENCE).await?.info().await.map_err(|e| self.fault("ask what it can", e))?;
        let mut abilities = Abilities::of(&info);
        abilities.disk = abilities.disk && self.limits_disk(&abilities.storage).await?;
        *held() = Some((Instant::now(), abilities.clone()));
        Ok(abilities)
    }

    /// Tried once with a container that is never started, and remembered while the engine stays.
    async fn limits_disk(&self, storage: &str) -> Result<bool> {
        let held = || self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let known = held().as_ref().filter(|(of, _)| of == storage).map(|(_, can)| *can);
        if let Some(can) = known {
            return Ok(can);
        }
        let can = crate::disk::try_limit(self).await?;
        *held() = Some((storage.to_owned(), can));
        Ok(can)
    }

    fn away(&self, why: &str) -> Fault {
        // The next engine at this socket may be another one.
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.info.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.disk.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Fault::Away(format!("Docker Engine at {}: {why}", self.socket.display()))
    }

    /// What a failure means to a caller that expected it to work.
    pub fn fault(&self, step: &str, error: Error) -> Fault {
        match error {
            Error::DockerResponseServerError { status_code: 400, message } => {
                Fault::Refused(format!("{step}: {message}"))
            }
            Error::DockerResponseServerError { status_code: 404, message } => Fault::Missing(message),
            Error::DockerResponseServerError { status_code: 409, message } => Fault::InUse(message),
            Error::DockerResponseServerError { message, .. }
            | Error::DockerStreamError { error: message } => {
                Fault::Failed { step: step.to_owned(), cause: message }
            }
            Error::RequestTimeoutError => self.away(&format!("{step}: no answer in time")),
            Error::SocketNotFoundError(_)
            | Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. } => self.away(&format!("{step}: {}", chain(&error))),
            other => Fault::Failed { step: step.to_owned(), cause: other.to_string() },
        }
    }
}

/// The whole of what went wrong: the outermost error of an HTTP client says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        text = format!("{text}: {inner}");
        next = inner.source();
    }
    text
}

/// `None` where the engine says that there is no such thing.
pub fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Fault::Missing(_)) => Ok(None),
        Err(other) => Err(other),
    }
}
