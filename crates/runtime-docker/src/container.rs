//! A session's container: how it is made, what the engine says of it, and its end.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerUpdateBody, HostConfig,
    HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountType, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptionsBuilder, KillContainerOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use wharf_domain::quota::Resources;
use wharf_domain::{SessionId, VolumeId};
use wharf_ports::runtime::{Fault, JailSpec, Result};

use crate::engine::{Abilities, Engine, PATIENCE, found};
use crate::forgotten;
use crate::names::{self, Names};
use crate::place::{self, Place};
use crate::profile;
use crate::settings::Settings;

/// Chromium keeps its frames there.
const SHM: i64 = 512 << 20;
/// The rate of `cpu.max`, in microseconds.
const PERIOD: i64 = 100_000;
/// What a killed container gets until the engine has noticed.
const KILLED: Duration = Duration::from_secs(20);
/// How long the engine's helper may take to notice that what it had forgotten is gone.
const FORGOTTEN: Duration = Duration::from_secs(5);

/// What the engine says of a container.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The engine's own; empty where it says none.
    pub id: String,
    pub session: Option<SessionId>,
    /// See [`made`].
    pub made: String,
    pub running: bool,
    pub paused: bool,
    /// Of process 1 on the machine; 0 when it is not up.
    pub pid: i32,
    pub started_at: String,
    pub exit: String,
    /// Where its writable layer is, where the storage driver has it as a directory.
    pub layer: Option<PathBuf>,
    pub limits: Limits,
    pub size_rw: Option<u64>,
}

/// The limits a container has now, in the engine's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub memory: i64,
    pub memory_swap: Option<i64>,
    pub cpu_quota: i64,
    pub cpu_shares: i64,
    pub pids: i64,
}

impl Limits {
    pub fn of(r: &Resources, abilities: &Abilities) -> Self {
        let memory = i64::from(r.memory_mib) << 20;
        Self {
            memory,
            // The same with swap as without: none.
            memory_swap: abilities.swap.then_some(memory),
            cpu_quota: i64::from(r.cpu_millis) * PERIOD / 1000,
            cpu_shares: (i64::from(r.cpu_millis) * 1024 / 1000).clamp(2, 262_144),
            pids: i64::from(r.pids),
        }
    }

    fn update(self) -> ContainerUpdateBody {
        ContainerUpdateBody {
            memory: Some(self.memory),
            memory_swap: self.memory_swap,
            cpu_period: Some(PERIOD),
            cpu_quota: Some(self.cpu_quota),
            cpu_shares: Some(self.cpu_shares),
            pids_limit: Some(self.pids),
            ..ContainerUpdateBody::default()
        }
    }
}

/// Refuses a computer with root inside where that is the machine's.
pub fn contained(spec: &JailSpec, abilities: &Abilities, settings: &Settings) -> Result<()> {
    if !spec.allow_root || abilities.user_namespaces || settings.waive_user_namespaces {
        return Ok(());
    }
    Err(Fault::Refused(
        "root inside would be root of the machine: the engine runs without user namespaces; set userns-remap there, start the \
         session without root (allow_root: false), or accept it with docker.waive_user_namespaces"
            .to_owned(),
    ))
}

/// Refuses limits this engine would only warn about.
pub fn sensible(r: &Resources, abilities: &Abilities) -> Result<()> {
    r.validate().map_err(|e| Fault::Refused(e.to_string()))?;
    for (has, what) in [(abilities.cpu, "CPU"), (abilities.memory, "memory"), (abilities.pids, "processes")] {
        if !has {
            return Err(Fault::Refused(format!(
                "the engine cannot limit {what} on this machine: it has no cgroup controller for it"
            )));
        }
    }
    if !abilities.swap_free {
        return Err(Fault::Refused(
            "the engine cannot keep a memory limit on this machine: it has swap, and its kernel does not count it for \
             containers; boot with swapaccount=1, or turn swap off"
                .to_owned(),
        ));
    }
    Ok(())
}

/// What of a container is decided when it is made: a session whose wish differs gets a new one on the same files.
pub fn made(spec: &JailSpec, settings: &Settings, disk: Option<u32>) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut rules = DefaultHasher::new();
    (profile::seccomp(), profile::CAPABILITIES, profile::MASKED, profile::READ_ONLY).hash(&mut rules);
    if !spec.allow_root {
        run(false).hash(&mut rules);
    }
    format!(
        "name={} root={} disk={} rules={:x} run={} host={}",
        spec.hostname,
        spec.allow_root,
        disk.map_or_else(|| "any".to_owned(), |mib| mib.to_string()),
        rules.finish(),
        settings.run_dir.display(),
        settings.host_binary.display(),
    )
}

/// The container of a session, as the native jail would be.
pub fn body(
    spec: &JailSpec,
    names: &Names,
    settings: &Settings,
    abilities: &Abilities,
    disk: Option<u32>,
) -> ContainerCreateBody {
    let volume = spec.volume.volume;
    let place = Place::of(&settings.run_dir, volume);
    let bind = |from: PathBuf, to: &str| Mount {
        typ: Some(MountType::BIND),
        source: Some(from.to_string_lossy().into_owned()),
        target: Some(to.to_owned()),
        read_only: Some(true),
        ..Mount::default()
    };
    let strings = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let mut security = vec![format!("seccomp={}", profile::seccomp())];
    if !spec.allow_root {
        security.push("no-new-privileges".to_owned());
    }
    let limits = Limits::of(&spec.resources, abilities);
    let (home, user) = if spec.allow_root { ("/root", "0:0") } else { ("/home/agent", "1000:1000") };
    ContainerCreateBody {
        hostname: Some(spec.hostname.to_string()),
        user: Some(user.to_owned()),
        image: Some(names.volume(volume)),
        entrypoint: Some(strings(&["/run/wharf/wharf-host"])),
        cmd: Some(vec!["--door".to_owned(), place::DOOR_INSIDE.to_owned()]),
        working_dir: Some("/".to_owned()),
        env: Some(vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            format!("HOME={home}"),
            "LANG=C.UTF-8".to_owned(),
            "container=wharf".to_owned(),
        ]),
        stop_signal: Some("SIGTERM".to_owned()),
        labels: Some(HashMap::from([
            (names::INSTALLATION.to_owned(), names.installation.clone()),
            (names::SESSION.to_owned(), spec.session.to_string()),
            (names::VOLUME.to_owned(), volume.to_string()),
            (names::MADE.to_owned(), made(spec, settings, disk)),
        ])),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            // The only resolver it can ever reach is on its own loopback.
            dns: Some(strings(&["127.0.0.1"])),
            extra_hosts: Some(vec![format!("{}:127.0.1.1", spec.hostname)]),
            memory: Some(limits.memory),
            memory_swap: limits.memory_swap,
            cpu_period: Some(PERIOD),
            cpu_quota: Some(limits.cpu_quota),
            cpu_shares: Some(limits.cpu_shares),
            pids_limit: Some(limits.pids),
            storage_opt: disk.map(|mib| HashMap::from([("size".to_owned(), format!("{mib}M"))])),
            shm_size: Some(SHM),
            // As in the native jail: a session without root runs its own resolver.
            sysctls: Some(HashMap::from([(
                "net.ipv4.ip_unprivileged_port_start".to_owned(),
                "0".to_owned(),
            )])),
            // Whoever the host is puts the desktop's socket there; what is mounted below stays.
            tmpfs: Some(HashMap::from([("/run/wharf".to_owned(), run(spec.allow_root))])),
            mounts: Some(vec![
                bind(settings.host_binary.clone(), "/run/wharf/wharf-host"),
                bind(place.door(), place::DOOR_DIR_INSIDE),
                bind(place.gateway(), "/run/wharf/gateway"),
            ]),
            cap_drop: Some(strings(&["ALL"])),
            cap_add: spec.allow_root.then(|| strings(&profile::CAPABILITIES)),
            security_opt: Some(security),
            masked_paths: Some(strings(&profile::MASKED)),
            readonly_paths: Some(strings(&profile::READ_ONLY)),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            ipc_mode: Some("private".to_owned()),
            init: Some(false),
            ulimits: Some(vec![ResourcesUlimits {
                name: Some("core".to_owned()),
                soft: Some(0),
                hard: Some(0),
            }]),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            // What the host says goes over its socket; what it writes to stderr is its own last words.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// How `/run/wharf` is mounted.
fn run(root: bool) -> String {
    let owner = if root { "" } else { ",uid=1000,gid=1000" };
    format!("rw,nosuid,nodev,noexec,size=64k,mode=755{owner}")
}

impl Seen {
    fn of(r: ContainerInspectResponse) -> Self {
        let state = r.state.unwrap_or_default();
        let host = r.host_config.unwrap_or_default();
        let labels = r.config.and_then(|c| c.labels).unwrap_or_default();
        let error = state.error.filter(|e| !e.is_empty()).map(|e| format!(": {e}")).unwrap_or_default();
        Self {
            id: r.id.unwrap_or_default(),
            session: labels.get(names::SESSION).and_then(|s| s.parse().ok()),
            made: labels.get(names::MADE).cloned().unwrap_or_default(),
            running: state.running.unwrap_or(false),
            paused: state.paused.unwrap_or(false),
            pid: state.pid.unwrap_or(0) as i32,
            started_at: state.started_at.unwrap_or_default(),
            exit: format!("it ended with {}{error}", state.exit_code.unwrap_or_default()),
            layer: r.graph_driver.and_then(|d| d.data.get("UpperDir").map(PathBuf::from)),
            limits: Limits {
                memory: host.memory.unwrap_or(0),
                memory_swap: host.memory_swap.filter(|s| *s > 0),
                cpu_quota: host.cpu_quota.unwrap_or(0),
                cpu_shares: host.cpu_shares.unwrap_or(0),
                pids: host.pids_limit.unwrap_or(0),
            },
            size_rw: r.size_rw.map(|n| n.max(0) as u64),
        }
    }
}

impl Engine {
    /// `size` walks the container's layer.
    pub async fn look(&self, volume: VolumeId, size: bool) -> Result<Option<Seen>> {
        let options = InspectContainerOptionsBuilder::new().size(size).build();
        let name = Names::container(volume);
        let asked = self.client(PATIENCE).await?.inspect_container(&name, Some(options)).await;
        Ok(found(asked.map_err(|e| self.fault("look at the container", e)))?.map(Seen::of))
    }

    /// One of that name is there already: success, it is looked at by whoever asked.
    pub async fn create(&self, volume: VolumeId, body: ContainerCreateBody) -> Result<()> {
        let step = "make the container";
        let options = CreateContainerOptionsBuilder::new().name(&Names::container(volume)).build();
        match self.client(PATIENCE).await?.create_container(Some(options), body).await {
            Ok(_) | Err(Error::DockerResponseServerError { status_code: 409, .. }) => Ok(()),
            // The engine's word for limits its storage driver cannot keep after all.
            Err(Error::DockerResponseServerError { message, .. }) if message.contains("storage-opt") => {
                Err(Fault::Refused(format!("{step}: {message}")))
            }
            Err(e) => Err(self.fault(step, e)),
        }
    }

    pub async fn update(&self, volume: VolumeId, limits: Limits) -> Result<()> {
        let name = Names::container(volume);
        match self.client(PATIENCE).await?.update_container(&name, limits.update()).await {
            Ok(()) => Ok(()),
            // Below what is in use, mostly; the kernel's reason is in it.
            Err(Error::DockerResponseServerError { message, status_code: 500 }) => {
                Err(Fault::Refused(format!("set the limits: {message}")))
            }
            Err(e) => Err(self.fault("set the limits", e)),
        }
    }

    pub async fn start(&self, volume: VolumeId) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.try_start(volume).await {
                Err(Fault::Failed { cause, .. })
                    if cause.contains("already exists") && begun.elapsed() < FORGOTTEN =>
                {
                    let id = self.look(volume, false).await?.map(|seen| seen.id).unwrap_or_default();
                    let ended = forgotten::end(&id).map_err(|e| Fault::Failed {
                        step: "end what the engine forgot".to_owned(),
                        cause: e.to_string(),
                    })?;
                    tracing::warn!(%volume, ended, "the engine had forgotten a container that was still there");
                    // Until its helper has noticed.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                done => return done,
            }
        }
    }

    async fn try_start(&self, volume: VolumeId) -> Result<()> {
        let name = Names::container(volume);
        let started =
            self.client(PATIENCE).await?.start_container(&name, None::<StartContainerOptions>).await;
        match started {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 304, .. }) => Ok(()),
            Err(e) => Err(self.fault("start the container", e)),
        }
    }

    /// SIGTERM to process 1, SIGKILL to all after `grace`; returns when the engine says that it is over.
    pub async fn end(&self, volume: VolumeId, grace: Duration) -> Result<()> {
        if !grace.is_zero() {
            self.kill(volume, "SIGTERM").await?;
            if self.ended(volume, grace).await? {
                return Ok(());
            }
        }
        self.kill(volume, "SIGKILL").await?;
        if self.ended(volume, KILLED).await? {
            return Ok(());
        }
        Err(Fault::Failed {
            step: "end the container".to_owned(),
            cause: format!("{} runs on after SIGKILL", Names::container(volume)),
        })
    }

    async fn kill(&self, volume: VolumeId, signal: &str) -> Result<()> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        let name = Names::container(volume);
        match self.client(PATIENCE).await?.kill_container(&name, Some(options)).await {
            // Not there, or not running any more.
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            Err(e) => Err(self.fault("end the container", e)),
        }
    }

    /// Waits at most that long for the end; answers whether it came.
    async fn ended(&self, volume: VolumeId, patience: Duration) -> Result<bool> {
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        let client = self.client(patience + PATIENCE).await?;
        let name = Names::container(volume);
        let mut waiting = Box::pin(client.wait_container(&name, Some(options)));
        match tokio::time::timeout(patience, waiting.next()).await {
            Err(_) => Ok(false),
            Ok(
                None
                | Some(
                    Ok(_)
                    | Err(
                        Error::DockerContainerWaitError { .. }
                        | Error::DockerResponseServerError { status_code: 404, .. },
                    ),
                ),
            ) => Ok(true),
            Ok(Some(Err(e))) => Err(self.fault("wait for the container's end", e)),
        }
    }

    /// A pause outlives whoever asked for it.
    pub async fn unpause(&self, volume: VolumeId) -> Result<()> {
        match self.client(PATIENCE).await?.unpause_container(&Names::container(volume)).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409 | 500, .. }) => Ok(()),
            Err(e) => Err(self.fault("let the container go on", e)),
        }
    }

    /// Nothing to remove is success.
    pub async fn remove(&self, volume: VolumeId) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::new().v(true).build();
        match self.client(PATIENCE).await?.remove_container(&Names::container(volume), Some(options)).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(e) => Err(self.fault("remove the container", e)),
        }
    }
}
