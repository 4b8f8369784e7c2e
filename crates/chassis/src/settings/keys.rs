//! Every key there is, with its type and meaning: what `wharf config schema` prints, what a misspelt key is
//! compared with and which keys are secret. A test holds it equal to the tree itself.

use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Path,
    Text,
    Flag,
    Address,
    Url,
    Whole {
        min: u64,
        max: u64,
    },
    OneOf(&'static [&'static str]),
    Roles,
    /// Image name → whole number.
    Counts,
    /// Image name → one of these.
    Choices(&'static [&'static str]),
    /// Texts; with commas between them where they come as one.
    Texts,
}

#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted, as in `wharf.toml`.
    pub path: &'static str,
    pub kind: Kind,
    pub doc: &'static str,
    pub secret: bool,
}

const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, kind, doc, secret: false }
}

const fn whole(min: u64, max: u64) -> Kind {
    Kind::Whole { min, max }
}

pub const KEYS: &[Key] = &[
    key(
        "data_dir",
        Kind::Path,
        "where everything is kept; /var/lib/wharf for root, ~/.local/share/wharf otherwise",
    ),
    key("run_dir", Kind::Path, "sockets and mounts of what runs now; <data_dir>/run when not set"),
    key("listen", Kind::Address, "address and port of the API"),
    key(
        "metrics_listen",
        Kind::Address,
        "address and port that serves /metrics without a credential; off when not set",
    ),
    key("public_url", Kind::Url, "how clients outside reach the API"),
    key(
        "port_hosts",
        Kind::Text,
        "host names of ports inside sessions, as https://*.ports.example.com; none when not set",
    ),
    Key {
        path: "database_url",
        kind: Kind::Url,
        doc: "a PostgreSQL of your own; a private one is run when not set",
        secret: true,
    },
    key("database_url_file", Kind::Path, "file whose first line is the database URL"),
    key(
        "user",
        Kind::Text,
        "unprivileged user everything but the jailer runs as when started as root; made when missing",
    ),
    key("roles", Kind::Roles, "what this process does"),
    key(
        "jailer.socket",
        Kind::Path,
        "socket of a jailer another process runs; <run_dir>/jailer.sock when not set",
    ),
    key("jailer.id_base", whole(65_536, 4_000_000_000), "first user id handed to jails, 65536 ids each"),
    key("jailer.cgroup_prefix", Kind::Text, "directory of this installation under every cgroup hierarchy"),
    key(
        "jailer.loop_size_mib",
        whole(256, 1 << 30),
        "size of the sparse btrfs file, where data_dir is not on btrfs; 4/5 of what is free when not set",
    ),
    key(
        "jailer.volume_driver",
        Kind::OneOf(&["auto", "btrfs", "directory"]),
        "how sessions keep their writes",
    ),
    key(
        "jailer.waive_disk_limit",
        Kind::Flag,
        "accept sessions without a disk limit where the driver cannot keep one",
    ),
    key("host_binary", Kind::Path, "wharf-host; beside the running executable when not set"),
    key("runtime", Kind::OneOf(&["native", "docker"]), "where new sessions run"),
    key("runtimes", Kind::Choices(&["native", "docker"]), "where new sessions of an image run, if elsewhere"),
    key(
        "docker.host",
        Kind::Path,
        "unix socket of Docker Engine; /run/docker.sock when not set. Keep it set while sessions live there",
    ),
    key(
        "docker.waive_disk_limit",
        Kind::Flag,
        "accept sessions without a disk limit where the engine's storage driver cannot keep one",
    ),
    key(
        "docker.waive_user_namespaces",
        Kind::Flag,
        "accept sessions whose root is the machine's, where the engine has no user namespaces",
    ),
    key("warm", Kind::Counts, "how many computers of an image stand ready"),
    key("sessions.default_image", Kind::Text, "image of a session that names none"),
    key(
        "sessions.idle_timeout_seconds",
        whole(0, 31_536_000),
        "idle time after which a session closes, when it does not say; 0 is never",
    ),
    key(
        "sessions.turn_timeout_seconds",
        whole(1, 604_800),
        "time a turn may take, when the session does not say",
    ),
    key(
        "sessions.default_resources.cpu_millis",
        whole(10, 1_024_000),
        "CPU of a session that does not say; 1000 is one core",
    ),
    key(
        "sessions.default_resources.memory_mib",
        whole(16, 16_777_216),
        "memory of a session that does not say",
    ),
    key(
        "sessions.default_resources.disk_mib",
        whole(16, 1_073_741_824),
        "disk of a session that does not say",
    ),
    key("sessions.default_resources.pids", whole(8, 4_194_304), "processes of a session that does not say"),
    key("sessions.max_resources.cpu_millis", whole(10, 1_024_000), "the most CPU a session may ask for"),
    key("sessions.max_resources.memory_mib", whole(16, 16_777_216), "the most memory a session may ask for"),
    key("sessions.max_resources.disk_mib", whole(16, 1_073_741_824), "the most disk a session may ask for"),
    key("sessions.max_resources.pids", whole(8, 4_194_304), "the most processes a session may ask for"),
    key(
        "gateway.allow_private",
        Kind::Texts,
        "private addresses sessions may reach: networks or addresses, with or without a port",
    ),
    key("gateway.ca_file", Kind::Path, "PEM certificates upstreams are trusted with beside the machine's"),
    key("gateway.max_connections", whole(1, 100_000), "connections a session may have open at the same time"),
    key("gateway.connections_per_second", whole(1, 100_000), "connections a session may open in a second"),
    key(
        "gateway.bytes_per_second",
        whole(0, 1 << 40),
        "bytes a session is slowed down to, both ways together; 0 is no limit",
    ),
    key("gateway.connect_timeout_seconds", whole(1, 300), "how long a connection to an upstream may take"),
    key("gateway.idle_timeout_seconds", whole(1, 86_400), "how long nothing may be said on a connection"),
    key(
        "git.max_repo_bytes",
        whole(1 << 20, 1 << 50),
        "bytes of a git repository that has no limit of its own",
    ),
    key("git.max_requests", whole(1, 10_000), "requests of git clients that are served at the same time"),
    key("git.request_seconds", whole(10, 86_400), "how long one request of a git client may take"),
    key("builds.parallel", whole(1, 1000), "builds of agents that run at the same time"),
    key(
        "builds.per_space",
        whole(1, 1000),
        "builds of one space that run at the same time; more of them wait",
    ),
    key(
        "builds.max_seconds",
        whole(1, 86_400),
        "how long the commands of a build may take; a package that asks for more is refused",
    ),
    key("retention.egress_days", whole(1, 3650), "how long lines of the egress log are kept"),
    key("retention.deleted_sessions_days", whole(0, 36_500), "how long rows of deleted sessions are kept"),
    key("log.format", Kind::OneOf(&["human", "json"]), "how log lines look on stderr"),
    key("log.level", Kind::Text, "error, warn, info, debug or trace, or directives per module"),
    key("shutdown_seconds", whole(1, 3600), "how long a drain may take before the rest is ended"),
];

impl Key {
    pub fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|k| k.path == path)
    }

    /// The key someone most likely meant, if one is near at all.
    pub fn nearest(path: &str) -> Option<&'static str> {
        let last = |p: &str| p.rsplit('.').next().unwrap_or(p).to_owned();
        KEYS.iter()
            .map(|k| {
                let whole = strsim::damerau_levenshtein(k.path, path);
                // A known key in the wrong section is as near as a slip of the pen.
                let moved = strsim::damerau_levenshtein(&last(k.path), &last(path)) + 1;
                (whole.min(moved), k.path)
            })
            .min()
            .filter(|(distance, best)| *distance <= (best.len() / 3).max(2))
            .map(|(_, best)| best)
    }
}

impl Kind {
    fn schema(self) -> Value {
        match self {
            Self::Path | Self::Text => json!({"type": "string"}),
            Self::Flag => json!({"type": "boolean"}),
            Self::Address => {
                json!({"type": "string", "description": "address:port", "examples": ["127.0.0.1:7878"]})
            }
            Self::Url => json!({"type": "string", "format": "uri"}),
            Self::Whole { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
            Self::OneOf(values) => json!({"enum": values}),
            Self::Roles => json!({"type": "array", "uniqueItems": true,
                "items": {"enum": super::Role::ALL.map(super::Role::as_str)}}),
            Self::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Self::Choices(values) => json!({"type": "object", "additionalProperties": {"enum": values}}),
            Self::Counts => {
                json!({"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}})
            }
        }
    }
}

/// The tree as JSON Schema (draft 2020-12), for editors and for whoever generates `wharf.toml`.
pub fn schema() -> Value {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "wharf.toml",
        "type": "object", "additionalProperties": false, "properties": {},
    });
    for key in KEYS {
        let mut at = &mut root;
        let mut parts = key.path.split('.').peekable();
        while let Some(part) = parts.next() {
            let properties = &mut at["properties"];
            if parts.peek().is_some() {
                if properties[part].is_null() {
                    properties[part] =
                        json!({"type": "object", "additionalProperties": false, "properties": {}});
                }
                at = &mut properties[part];
            } else {
                let mut leaf = key.kind.schema();
                leaf["description"] = json!(key.doc);
                if key.secret {
                    leaf["writeOnly"] = json!(true);
                }
                properties[part] = leaf;
                break;
            }
        }
    }
    root
}
