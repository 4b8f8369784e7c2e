//! The settings: one typed tree, read once, from defaults < `wharf.toml` < `WHARF_…` environment < flags.
//!
//! Refuses a key it does not know (naming the nearest one and where the wrong one came from) and a value out of
//! its range, before anything starts. Secrets may be given as files and are never shown.

mod keys;
mod load;
mod show;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wharf_domain::Name;
use wharf_domain::quota::Resources;

pub use keys::schema;
pub use keys::{KEYS, Key, Kind};
pub use load::{Loaded, Origin, SettingsError, Sources};
pub use show::{hand_over, take_over};

/// What a process does. `wharf up` does all of it; `wharf serve --role …` some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The HTTP API.
    Server,
    /// Reconcilers, turns, retention.
    Operator,
    /// The only privileged process.
    Jailer,
    /// The way out of sessions.
    Gateway,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Server, Self::Operator, Self::Jailer, Self::Gateway];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Operator => "operator",
            Self::Jailer => "jailer",
            Self::Gateway => "gateway",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|r| r.as_str() == s)
            .ok_or_else(|| format!("there is no role {s:?}; roles are server, operator, jailer and gateway"))
    }
}

/// A secret setting: shown and written as `[hidden]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Every call is a place to look at in review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("[hidden]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

/// How sessions keep their writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeDriver {
    /// btrfs where the kernel has it, else plain directories.
    #[default]
    Auto,
    Btrfs,
    /// Copies instead of snapshots; disk limits are refused.
    Directory,
}

/// Settings of the process that starts jails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jailer {
    /// The socket of a jailer another process runs; this one's own is `<run_dir>/jailer.sock`.
    pub socket: Option<PathBuf>,
    /// First on-machine id handed to a jail; each running jail has 65536 of its own from here up.
    pub id_base: u32,
    /// Directory under every cgroup hierarchy that holds the jails of this installation.
    pub cgroup_prefix: String,
    /// Size of the sparse btrfs file, where the data directory is not on btrfs; four fifths of what is free when not
    /// set. A larger number grows an existing file.
    pub loop_size_mib: Option<u64>,
    pub volume_driver: VolumeDriver,
    /// Accepts sessions without a disk limit where the driver cannot keep one.
    pub waive_disk_limit: bool,
}

impl Default for Jailer {
    fn default() -> Self {
        Self {
            socket: None,
            id_base: 1 << 30,
            cgroup_prefix: "wharf".into(),
            loop_size_mib: None,
            volume_driver: VolumeDriver::Auto,
            waive_disk_limit: false,
        }
    }
}

/// Where sessions run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The jailer's own.
    #[default]
    Native,
    /// Docker Engine on this machine.
    Docker,
}

impl Runtime {
    pub const ALL: [Self; 2] = [Self::Native, Self::Docker];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Docker => "docker",
        }
    }
}

/// The Docker Engine sessions may run on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Docker {
    /// The engine's unix socket; `/run/docker.sock` when not set. When set, sessions made there earlier are looked after
    /// even if no setting names the runtime any more.
    pub host: Option<PathBuf>,
    /// Accepts sessions without a disk limit where the engine's storage driver cannot keep one.
    pub waive_disk_limit: bool,
    /// Accepts sessions that may become root where the engine has no user namespaces: root inside is then the machine's.
    pub waive_user_namespaces: bool,
}

fn base_image() -> Name {
    "base".parse().expect("a constant name")
}

/// What a session gets when its creator does not say, and the most anybody may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    pub default_image: Name,
    pub idle_timeout_seconds: u32,
    pub turn_timeout_seconds: u32,
    pub default_resources: Resources,
    pub max_resources: Resources,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            default_image: base_image(),
            idle_timeout_seconds: wharf_domain::limits::IDLE_TIMEOUT_SECONDS,
            turn_timeout_seconds: wharf_domain::limits::TURN_TIMEOUT_SECONDS,
            default_resources: Resources::default(),
            max_resources: Resources {
                cpu_millis: 64_000,
                memory_mib: 262_144,
                disk_mib: 1_048_576,
                pids: 32_768,
            },
        }
    }
}

/// The way out of sessions, and what it holds each of them to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Addresses that are not of the internet and may be reached all the same: `10.0.0.0/8`, `127.0.0.1:8443`.
    pub allow_private: Vec<String>,
    /// Certificates (PEM) that upstreams are trusted with beside those of the machine.
    pub ca_file: Option<PathBuf>,
    /// Connections a session may have open at the same time.
    pub max_connections: u32,
    /// Connections a session may open in a second, over a while.
    pub connections_per_second: u32,
    /// Bytes a session may send and receive in a second, over a while; it is slowed down to them. 0 is no limit.
    pub bytes_per_second: u64,
    /// How long a connection to an upstream may take.
    pub connect_timeout_seconds: u32,
    /// How long nothing may be said on a connection.
    pub idle_timeout_seconds: u32,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            allow_private: Vec::new(),
            ca_file: None,
            max_connections: 512,
            connections_per_second: 200,
            bytes_per_second: 0,
            connect_timeout_seconds: 15,
            idle_timeout_seconds: 600,
        }
    }
}

impl Gateway {
    /// The private addresses that may be reached; loading has refused what is none.
    pub fn exceptions(&self) -> Vec<wharf_domain::egress::address::Exception> {
        self.allow_private.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

/// Git repositories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Git {
    /// Bytes of a repository that has no limit of its own.
    pub max_repo_bytes: u64,
    /// Requests of git clients that are served at the same time.
    pub max_requests: u32,
    /// How long one of them may take.
    pub request_seconds: u32,
}

impl Default for Git {
    fn default() -> Self {
        Self { max_repo_bytes: 2 << 30, max_requests: 32, request_seconds: 3600 }
    }
}

/// Builds of agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Builds {
    /// Builds of one operator at the same time.
    pub parallel: u32,
    /// Builds of one space at the same time; the others of it wait, and those of other spaces do not.
    pub per_space: u32,
    /// How long the commands of one build may take.
    pub max_seconds: u32,
}

impl Default for Builds {
    fn default() -> Self {
        Self { parallel: 8, per_space: 2, max_seconds: 3600 }
    }
}

/// How long what is over is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Rows of deleted sessions.
    pub deleted_sessions_days: u32,
    /// Lines of the egress log.
    pub egress_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { deleted_sessions_days: 7, egress_days: 30 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives per module (`info,wharf_store=debug`).
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Human, level: "info".into() }
    }
}

/// The whole tree. Every path below `data_dir` has a method; nothing is written elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub data_dir: PathBuf,
    /// Sockets and mounts of what runs now; `<data_dir>/run` when not set.
    pub run_dir: Option<PathBuf>,
    pub listen: SocketAddr,
    /// Serves `/metrics` without a credential; not at all when not set.
    pub metrics_listen: Option<SocketAddr>,
    /// How clients outside reach this; the address listened on when not set.
    pub public_url: Option<String>,
    /// Host names of ports inside sessions: `https://*.ports.example.com`; none when not set.
    pub port_hosts: Option<String>,
    /// A PostgreSQL of one's own; a private one is run in the data directory when not set.
    pub database_url: Option<Secret>,
    /// The same, from the first line of a file.
    pub database_url_file: Option<PathBuf>,
    /// Who everything but the jailer runs as, when started as root. Made when missing.
    pub user: String,
    pub roles: BTreeSet<Role>,
    pub jailer: Jailer,
    /// `wharf-host`, beside the running executable when not set.
    pub host_binary: Option<PathBuf>,
    /// Where new sessions run.
    pub runtime: Runtime,
    /// The same for single images.
    pub runtimes: BTreeMap<Name, Runtime>,
    pub docker: Docker,
    /// How many computers of an image stand ready.
    pub warm: BTreeMap<Name, u32>,
    pub sessions: Sessions,
    pub gateway: Gateway,
    pub git: Git,
    pub builds: Builds,
    pub retention: Retention,
    pub log: Log,
    /// How long a drain may take before the rest is ended.
    pub shutdown_seconds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/wharf"),
            run_dir: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 7878)),
            metrics_listen: None,
            public_url: None,
            port_hosts: None,
            database_url: None,
            database_url_file: None,
            user: "wharf".into(),
            roles: Role::ALL.into(),
            jailer: Jailer::default(),
            host_binary: None,
            runtime: Runtime::Native,
            runtimes: BTreeMap::new(),
            docker: Docker::default(),
            warm: BTreeMap::from([(base_image(), 2)]),
            sessions: Sessions::default(),
            gateway: Gateway::default(),
            git: Git::default(),
            builds: Builds::default(),
            retention: Retention::default(),
            log: Log::default(),
            shutdown_seconds: 20,
        }
    }
}

impl Settings {
    pub fn has_role(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| self.data_dir.join("run"))
    }

    pub fn jailer_socket(&self) -> PathBuf {
        self.jailer.socket.clone().unwrap_or_else(|| self.run_dir().join("jailer.sock"))
    }

    /// Whether any session may run on Docker Engine.
    pub fn uses_docker(&self) -> bool {
        self.runtime == Runtime::Docker
            || self.runtimes.values().any(|r| *r == Runtime::Docker)
            || self.docker.host.is_some()
    }

    pub fn docker_host(&self) -> PathBuf {
        self.docker.host.clone().unwrap_or_else(|| PathBuf::from("/run/docker.sock"))
    }

    /// Where whoever speaks to Docker Engine listens for the control plane.
    pub fn docker_socket(&self) -> PathBuf {
        self.run_dir().join("docker.sock")
    }

    /// What the Docker runtime must not forget; owned by root, mode 0700.
    pub fn docker_dir(&self) -> PathBuf {
        self.data_dir.join("docker")
    }

    /// One directory a jail; the gateway's socket of each is in it.
    pub fn jails_dir(&self) -> PathBuf {
        self.run_dir().join("jails")
    }

    /// Sockets of the control plane itself, the private database's among them; owned by the unprivileged user.
    pub fn control_run_dir(&self) -> PathBuf {
        self.run_dir().join("control")
    }

    /// The private database cluster; owned by the unprivileged user.
    pub fn postgres_dir(&self) -> PathBuf {
        self.data_dir.join("postgres")
    }

    /// The key-encryption key and the signing keys' seal; owned by the unprivileged user, mode 0700.
    pub fn keys_dir(&self) -> PathBuf {
        self.data_dir.join("keys")
    }

    /// Images, volumes and snapshots; owned by root, mode 0700.
    pub fn jail_dir(&self) -> PathBuf {
        self.data_dir.join("jail")
    }

    /// Git repositories; owned by the unprivileged user, mode 0700.
    pub fn git_dir(&self) -> PathBuf {
        self.data_dir.join("git")
    }

    /// Where the control plane keeps uploads on their way; owned by the unprivileged user.
    pub fn spool_dir(&self) -> PathBuf {
        self.data_dir.join("spool")
    }

    /// `wharf-host`: as set, or beside the running executable.
    pub fn host_binary(&self) -> PathBuf {
        self.host_binary.clone().unwrap_or_else(|| {
            std::env::current_exe()
                .ok()
                .and_then(|exe| exe.parent().map(|dir| dir.join("wharf-host")))
                .unwrap_or_else(|| Path::new("wharf-host").to_owned())
        })
    }

    /// Host names of ports; loading has refused what is none.
    pub fn port_hosts(&self) -> Option<wharf_domain::port_host::PortHosts> {
        self.port_hosts.as_ref().and_then(|text| text.parse().ok())
    }

    /// The address clients are told.
    pub fn url(&self) -> String {
        self.public_url.clone().unwrap_or_else(|| format!("http://{}", self.listen))
    }
}
