//! The file that remembers servers and logins: `~/.config/wharf/config.toml`, mode 0600.
//!
//! Several commands may run at once. Every change happens under an exclusive lock on a sibling file, reads the file
//! anew and replaces it whole, so no reader sees half of it and no writer undoes another. A file that cannot be read as
//! configuration is an error that names the place; it is never overwritten.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use wharf_domain::Time;

/// Everything in the file.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The context used when nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<String, Context>,
}

/// A server, and who one is there. No `Debug`: it holds tokens.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    pub url: String,
    /// The space commands act in when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// An API token, when logged in with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The pair of a password login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Tokens>,
}

/// An access token, what renews it, and when it ends.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    pub access_token: String,
    pub refresh_token: String,
    pub expires_at: Time,
}

/// Where the file is.
#[derive(Clone, Debug)]
pub struct Store {
    /// `None` where a user has no home: then there is nothing to read, and nowhere to write.
    path: Option<PathBuf>,
}

/// Holds the lock until dropped.
pub struct Locked {
    store: Store,
    _lock: fs::File,
}

impl Store {
    /// `$XDG_CONFIG_HOME/wharf/config.toml`, or below `~/.config`.
    pub fn user() -> Self {
        let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let base = match (of("XDG_CONFIG_HOME"), of("HOME")) {
            (Some(dir), _) if dir.is_absolute() => dir,
            (_, Some(home)) => home.join(".config"),
            _ => return Self { path: None },
        };
        Self::at(base.join("wharf").join("config.toml"))
    }

    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()) }
    }

    /// Where it is; an error where there is no place for it.
    pub fn path(&self) -> anyhow::Result<&Path> {
        self.path
            .as_deref()
            .context("neither HOME nor XDG_CONFIG_HOME is set, so there is no place for the configuration")
    }

    /// Reads the file; a missing one is an empty one.
    pub fn read(&self) -> anyhow::Result<Config> {
        let Some(path) = &self.path else { return Ok(Config::default()) };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(e) => return Err(e).with_context(|| format!("{} cannot be read", path.display())),
        };
        toml::from_str(&text).map_err(|e| {
            // Only the message and the line: the text around it may be a token.
            let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            anyhow::anyhow!(
                "{} is damaged: line {line}: {}; mend that line, or move the file away and log in again",
                path.display(),
                e.message().lines().next().unwrap_or("not TOML"),
            )
        })
    }

    /// Waits for the lock. Blocks; a holder keeps it at most for one request to the server.
    pub fn lock(&self) -> anyhow::Result<Locked> {
        let path = self.path()?;
        let dir = path.parent().context("the configuration has no directory")?;
        fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        let path = path.with_extension("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        file.lock().with_context(|| format!("{} cannot be locked", path.display()))?;
        Ok(Locked { store: self.clone(), _lock: file })
    }

    /// Changes the file under the lock.
    pub fn change<T>(&self, f: impl FnOnce(&mut Config) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let locked = self.lock()?;
        let mut config = locked.read()?;
        let answer = f(&mut config)?;
        locked.write(&config)?;
        Ok(answer)
    }
}

impl Locked {
    pub fn read(&self) -> anyhow::Result<Config> {
        self.store.read()
    }

    /// Replaces the file whole: written beside it with mode 0600, synced, renamed over it.
    pub fn write(&self, config: &Config) -> anyhow::Result<()> {
        let path = self.store.path()?;
        let text = toml::to_string_pretty(config).context("the configuration cannot be written as TOML")?;
        let beside = path.with_extension(format!("toml.{}", std::process::id()));
        let write = || -> std::io::Result<()> {
            let mut file =
                fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?; // one left behind may be wider
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, path)
        };
        write()
            .inspect_err(|_| drop(fs::remove_file(&beside)))
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}

impl Config {
    /// The context of that name, or an error that lists what there is.
    pub fn context(&self, name: &str) -> anyhow::Result<&Context> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            crate::exit::Refusal::not_found(
                format!("there is no context {name}"),
                if known.is_empty() {
                    "`wharf login URL` makes one".to_owned()
                } else {
                    format!("there are: {}", known.join(", "))
                },
            )
            .into()
        })
    }
}
