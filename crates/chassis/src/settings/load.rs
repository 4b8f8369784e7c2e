//! Reading the settings from their four places, in order, with the origin of every value kept for errors and for
//! `wharf config show`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Serialized, Toml};
use figment::value::Value;
use figment::{Figment, Metadata, Provider};

use super::{KEYS, Key, Kind, Secret, Settings};

/// Variables that begin like settings and belong to the client or to the tests.
const NOT_SETTINGS: &[&str] = &[
    "CONFIG",
    "URL",
    "SERVER",
    "TOKEN",
    "SPACE",
    "CONTEXT",
    "OUTPUT",
    "PASSWORD_FILE",
    "USER_NAME",
    "CLIENT_CONFIG",
];
const NOT_SETTINGS_PREFIXES: &[&str] = &["TEST_", "BENCH_", "DEMO_", "SOAK_", "CRASH_", "SCHEMATHESIS_"];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{origin}: there is no setting `{key}`{}", hint(.nearest.as_deref()))]
    Unknown { key: String, nearest: Option<String>, origin: Origin },
    #[error("{origin}: `{key}`: {problem}")]
    Invalid { key: String, problem: String, origin: Origin },
    #[error("cannot read {}: {cause}", .path.display())]
    Unreadable { path: PathBuf, cause: std::io::Error },
    #[error("{} is not TOML: {problem}", .path.display())]
    NotToml { path: PathBuf, problem: String },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<SettingsError>),
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "; `wharf config schema` lists all".to_owned(),
        |key| format!("; did you mean `{key}`?"),
    )
}

/// What to read. Tests give their own; [`Sources::of_process`] is the real one.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; must exist when given.
    pub file: Option<PathBuf>,
    pub environment: Vec<(String, String)>,
    /// Dotted key and value, with the flag's name for errors.
    pub flags: Vec<(String, String, String)>,
    pub root: bool,
    pub home: Option<PathBuf>,
}

/// Settings with the origin of every key that is not a default.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub origins: BTreeMap<String, Origin>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

/// One value from one place, as a figment provider.
struct Single {
    key: String,
    value: Value,
}

impl Provider for Single {
    fn metadata(&self) -> Metadata {
        Metadata::named("setting")
    }

    fn data(&self) -> figment::Result<figment::value::Map<figment::Profile, figment::value::Dict>> {
        let nested = figment::util::nest(&self.key, self.value.clone());
        Ok(figment::Profile::Default.collect(nested.into_dict().unwrap_or_default()))
    }
}

impl Sources {
    /// The environment of this process, with the flags and file its command line gave.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String, String)>, root: bool) -> Self {
        // Lossy: a name or value that is not UTF-8 is shown, and refused, by its replacement characters.
        let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        let environment: Vec<_> = std::env::vars_os().map(|(k, v)| (text(k), text(v))).collect();
        let file = file.or_else(|| {
            environment
                .iter()
                .find(|(k, v)| k == "WHARF_CONFIG" && !v.is_empty())
                .map(|(_, v)| PathBuf::from(v))
        });
        let home = std::env::var_os("HOME").map(PathBuf::from);
        Self { file, environment, flags, root, home }
    }

    /// Reads, checks and resolves everything.
    pub fn load(&self) -> Result<Loaded, SettingsError> {
        let mut errors = Vec::new();
        let mut singles: Vec<(String, Value, Origin)> = Vec::new();
        for (name, value) in &self.environment {
            let Some(rest) = name.strip_prefix("WHARF_") else { continue };
            if NOT_SETTINGS.contains(&rest) || NOT_SETTINGS_PREFIXES.iter().any(|p| rest.starts_with(p)) {
                continue;
            }
            let key = environment_key(rest);
            singles.push((key.clone(), scalar(&key, value), Origin::Environment(name.clone())));
        }
        for (key, value, flag) in &self.flags {
            singles.push((key.clone(), scalar(key, value), Origin::Flag(flag.clone())));
        }

        // The file is looked for in the data directory, which only the places above the file can move.
        let moved = singles.iter().rev().find(|(key, ..)| key == "data_dir");
        let default_dir = self.default_data_dir();
        let data_dir =
            moved.and_then(|(_, v, _)| v.as_str()).map_or_else(|| default_dir.clone(), PathBuf::from);
        let file = self.find_file(&data_dir)?;

        let defaults = Settings { data_dir: default_dir, ..Settings::default() };
        let mut figment = Figment::from(Serialized::defaults(defaults));
        let mut origins = BTreeMap::new();
        if let Some(path) = &file {
            let text = std::fs::read_to_string(path)
                .map_err(|cause| SettingsError::Unreadable { path: path.clone(), cause })?;
            let table: toml::Table = text.parse().map_err(|e: toml::de::Error| SettingsError::NotToml {
                path: path.clone(),
                problem: e.to_string(),
            })?;
            let mut keys = Vec::new();
            leaves(&table, "", &mut keys);
            for key in keys {
                check_known(&key, &Origin::File(path.clone()), &mut errors);
                origins.insert(
                    known(&key).map_or(key.clone(), |k| k.path.to_owned()),
                    Origin::File(path.clone()),
                );
            }
            figment = figment.merge(Toml::string(&text));
        }
        for (key, value, origin) in singles {
            check_known(&key, &origin, &mut errors);
            origins.insert(known(&key).map_or(key.clone(), |k| k.path.to_owned()), origin);
            figment = figment.merge(Single { key, value });
        }
        if !errors.is_empty() {
            return Err(one_or_several(errors));
        }

        let origin_of = |key: &str| {
            let named = known(key).map_or(key, |k| k.path);
            origins.get(named).cloned().unwrap_or(Origin::Default)
        };
        let mut settings: Settings = figment.extract().map_err(|e| {
            one_or_several(
                e.into_iter()
                    .map(|e| {
                        let key = e.path.join(".");
                        SettingsError::Invalid { problem: e.kind.to_string(), origin: origin_of(&key), key }
                    })
                    .collect(),
            )
        })?;
        Self::resolve(&mut settings, &origin_of)?;
        check_ranges(&settings, &origin_of)?;
        Ok(Loaded { settings, origins, file })
    }

    fn default_data_dir(&self) -> PathBuf {
        match (&self.home, self.root) {
            (Some(home), false) => home.join(".local/share/wharf"),
            _ => PathBuf::from("/var/lib/wharf"),
        }
    }

    fn find_file(&self, data_dir: &Path) -> Result<Option<PathBuf>, SettingsError> {
        if let Some(path) = &self.file {
            std::fs::metadata(path)
                .map_err(|cause| SettingsError::Unreadable { path: path.clone(), cause })?;
            return Ok(Some(path.clone()));
        }
        let beside = data_dir.join("wharf.toml");
        let candidates = [Some(beside), self.root.then(|| PathBuf::from("/etc/wharf/wharf.toml"))];
        Ok(candidates.into_iter().flatten().find(|p| p.exists()))
    }

    /// Makes paths absolute and takes secrets out of their files.
    fn resolve(s: &mut Settings, origin_of: &dyn Fn(&str) -> Origin) -> Result<(), SettingsError> {
        for path in [
            Some(&mut s.data_dir),
            s.run_dir.as_mut(),
            s.jailer.socket.as_mut(),
            s.host_binary.as_mut(),
            s.docker.host.as_mut(),
            s.gateway.ca_file.as_mut(),
        ]
        .into_iter()
        .flatten()
        {
            *path = std::path::absolute(&*path)
                .map_err(|cause| SettingsError::Unreadable { path: path.clone(), cause })?;
        }
        if let Some(path) = &s.database_url_file {
            if s.database_url.is_some() {
                return Err(SettingsError::Invalid {
                    key: "database_url_file".into(),
                    problem: "database_url is set too; give one of them".into(),
                    origin: origin_of("database_url_file"),
                });
            }
            let text = std::fs::read_to_string(path)
                .map_err(|cause| SettingsError::Unreadable { path: path.clone(), cause })?;
            s.database_url = Some(Secret::new(text.lines().next().unwrap_or_default().trim()));
        }
        Ok(())
    }
}

/// `JAILER__SOCKET` and, where it is unambiguous, `JAILER_SOCKET` → `jailer.socket`.
fn environment_key(rest: &str) -> String {
    let lower = rest.to_lowercase();
    let dotted = lower.replace("__", ".");
    if known(&dotted).is_some() {
        return dotted;
    }
    KEYS.iter().find(|k| k.path.replace('.', "_") == lower).map_or(dotted, |k| k.path.to_owned())
}

/// The key a path stands for; entries of a map stand for the map.
fn known(path: &str) -> Option<&'static Key> {
    Key::find(path).or_else(|| {
        let (map, _) = path.split_once('.')?;
        Key::find(map).filter(|k| matches!(k.kind, Kind::Counts | Kind::Choices(_)))
    })
}

fn check_known(key: &str, origin: &Origin, errors: &mut Vec<SettingsError>) {
    if known(key).is_none() {
        errors.push(SettingsError::Unknown {
            key: key.to_owned(),
            nearest: Key::nearest(key).map(str::to_owned),
            origin: origin.clone(),
        });
    }
}

/// A value from outside a file: numbers and maps are read as TOML would, everything else is text as it stands.
fn scalar(key: &str, text: &str) -> Value {
    match known(key).map(|k| k.kind) {
        Some(Kind::Whole { .. }) => {
            text.trim().parse::<u64>().map_or_else(|_| Value::from(text), Value::from)
        }
        Some(Kind::Flag) => text.trim().parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
        Some(Kind::Counts) if key.contains('.') => {
            text.trim().parse::<u64>().map_or_else(|_| Value::from(text), Value::from)
        }
        Some(Kind::Choices(_)) if key.contains('.') => Value::from(text),
        Some(Kind::Counts | Kind::Choices(_)) => text.parse().unwrap_or_else(|_| Value::from(text)),
        Some(Kind::Roles | Kind::Texts) => Value::from(
            text.split(',')
                .map(|r| Value::from(r.trim()))
                .filter(|v| v.as_str() != Some(""))
                .collect::<Vec<_>>(),
        ),
        _ => Value::from(text),
    }
}

fn leaves(table: &toml::Table, prefix: &str, out: &mut Vec<String>) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => leaves(inner, &path, out),
            toml::Value::Table(_) if KEYS.iter().any(|k| k.path.starts_with(&format!("{path}."))) => {}
            _ => out.push(path),
        }
    }
}

fn one_or_several(mut errors: Vec<SettingsError>) -> SettingsError {
    if errors.len() == 1 { errors.remove(0) } else { SettingsError::Several(errors) }
}

/// What types alone cannot say.
fn check_ranges(s: &Settings, origin_of: &dyn Fn(&str) -> Origin) -> Result<(), SettingsError> {
    let mut errors = Vec::new();
    let mut refuse = |key: &str, problem: String| {
        errors.push(SettingsError::Invalid { key: key.into(), problem, origin: origin_of(key) });
    };
    let tree = serde_json::to_value(s).unwrap_or_default();
    for key in KEYS {
        let Kind::Whole { min, max } = key.kind else { continue };
        let pointer = format!("/{}", key.path.replace('.', "/"));
        if let Some(value) = tree.pointer(&pointer).and_then(serde_json::Value::as_u64)
            && !(min..=max).contains(&value)
        {
            refuse(key.path, format!("is {value}; it must be between {min} and {max}"));
        }
    }
    if s.has_role(super::Role::Jailer)
        && s.jailer.socket.as_ref().is_some_and(|p| *p != s.run_dir().join("jailer.sock"))
    {
        refuse(
            "jailer.socket",
            "is where another process's jailer listens; this one's is <run_dir>/jailer.sock".into(),
        );
    }
    if s.roles.is_empty() {
        refuse("roles", "names no role; leave it out for all of them".into());
    }
    for text in &s.gateway.allow_private {
        if let Err(error) = text.parse::<wharf_domain::egress::address::Exception>() {
            refuse("gateway.allow_private", error.public);
        }
    }
    let prefix_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let prefix = &s.jailer.cgroup_prefix;
    if prefix.is_empty() || !prefix.chars().all(prefix_ok) {
        refuse(
            "jailer.cgroup_prefix",
            format!("{prefix:?} is not one directory name of letters, digits, - and _"),
        );
    }
    let user_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if s.user.is_empty() || s.user == "root" || s.user.len() > 32 || !s.user.chars().all(user_ok) {
        refuse("user", format!("{:?} is not the name of an unprivileged user", s.user));
    }
    if let Some(url) = &s.public_url
        && !(url.starts_with("http://") || url.starts_with("https://"))
    {
        refuse("public_url", format!("{url:?} does not begin with http:// or https://"));
    }
    if let Some(text) = &s.port_hosts
        && let Err(error) = text.parse::<wharf_domain::port_host::PortHosts>()
    {
        refuse("port_hosts", error.public);
    }
    if let Some(url) = &s.database_url
        && !(url.expose().starts_with("postgres://") || url.expose().starts_with("postgresql://"))
    {
        refuse("database_url", "does not begin with postgres:// or postgresql://".into());
    }
    // sun_path holds 107 bytes, and a session's host socket is the longest path under run_dir.
    let longest =
        s.run_dir().as_os_str().len() + "/jails/00000000-0000-0000-0000-000000000000/host.sock".len();
    if longest > 107 {
        refuse(
            if s.run_dir.is_some() { "run_dir" } else { "data_dir" },
            format!(
                "is too long: unix sockets below it would take {longest} of 107 bytes; set a shorter run_dir"
            ),
        );
    }
    // The filter itself would take any word for a module's name.
    let level = |l: &str| matches!(l, "off" | "error" | "warn" | "info" | "debug" | "trace");
    let directive =
        |d: &str| d.split_once('=').map_or_else(|| level(d), |(module, l)| !module.is_empty() && level(l));
    if !s.log.level.split(',').all(|d| directive(d.trim())) {
        refuse("log.level", format!("{:?} is not a level or a list of module=level", s.log.level));
    }
    if errors.is_empty() { Ok(()) } else { Err(one_or_several(errors)) }
}
