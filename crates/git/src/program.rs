//! Which git, and what it is given: an environment of its own and settings by environment, which nothing else can add to.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::{GitError, Result};

/// Where programs are looked for; the only `PATH` git and its hooks ever see.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What every git of the server is told. The environment counts as the command line does, so what a repository says
/// itself loses against it.
const SETTINGS: &[(&str, &str)] = &[
    // Durable before it is told: packs and refs.
    ("core.fsync", "committed"),
    ("core.fsyncMethod", "fsync"),
    // Large things are streamed instead of held, and packing stays small beside the rest of the machine.
    ("core.bigFileThreshold", "16m"),
    ("core.deltaBaseCacheLimit", "64m"),
    ("pack.threads", "2"),
    ("pack.windowMemory", "64m"),
    ("pack.deltaCacheSize", "64m"),
    ("core.alternateRefsCommand", "/bin/false"),
    // What comes in is looked at. What old and honest histories get wrong is let pass.
    ("transfer.fsckObjects", "true"),
    ("receive.fsck.missingEmail", "ignore"),
    ("receive.fsck.missingNameBeforeEmail", "ignore"),
    ("receive.fsck.missingSpaceBeforeDate", "ignore"),
    ("receive.fsck.badTimezone", "ignore"),
    ("receive.fsck.zeroPaddedFilemode", "ignore"),
    // One pack for each push: fewer files, and one to sync.
    ("receive.unpackLimit", "1"),
    ("receive.autogc", "false"),
    ("receive.updateServerInfo", "false"),
    ("receive.advertisePushOptions", "false"),
    ("receive.denyDeleteCurrent", "refuse"),
    // Would name commits that are collected a moment later.
    ("gc.writeCommitGraph", "false"),
    ("gc.auto", "0"),
    ("gc.autoDetach", "false"),
    ("maintenance.auto", "false"),
    ("gc.cruftPacks", "false"),
    // Objects nobody can reach are nobody's to ask for, as far as the protocol has it.
    ("uploadpack.allowAnySHA1InWant", "false"),
    ("uploadpack.allowReachableSHA1InWant", "false"),
    ("uploadpack.allowTipSHA1InWant", "false"),
    // Partial clones, without the filters that cost much.
    ("uploadpack.allowFilter", "true"),
    ("uploadpackfilter.allow", "false"),
    ("uploadpackfilter.blob:none.allow", "true"),
    ("uploadpackfilter.blob:limit.allow", "true"),
    ("uploadpackfilter.tree.allow", "true"),
    ("uploadpackfilter.tree.maxDepth", "1"),
    ("http.getanyfile", "false"),
    ("http.uploadpack", "true"),
    ("http.receivepack", "true"),
    ("http.maxRequestBuffer", "33554432"),
    // The server's git reaches nobody.
    ("protocol.allow", "never"),
];

/// The programs that are needed.
#[derive(Clone, Debug)]
pub struct Programs {
    pub git: PathBuf,
    /// Of util-linux: holds a lock for as long as any process it started lives.
    pub flock: PathBuf,
}

fn on_path(name: &str) -> Option<PathBuf> {
    PATH.split(':').map(|dir| Path::new(dir).join(name)).find(|p| p.is_file())
}

/// Finds them, or names the one that is missing.
pub fn find() -> Result<Programs> {
    let git = on_path("git").ok_or(GitError::Missing("git"))?;
    let flock = on_path("flock").ok_or(GitError::Missing("flock"))?;
    Ok(Programs { git, flock })
}

/// One setting more for a single run.
pub(crate) type Setting = (&'static str, String);

/// Gives the command an environment with nothing of this process in it.
pub(crate) fn dress(command: &mut Command, home: &Path, hooks: &Path, repo: Option<&Path>, more: &[Setting]) {
    command
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .current_dir(home);
    let mut settings: Vec<(&str, String)> = SETTINGS.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
    settings.push(("core.hooksPath", hooks.display().to_string()));
    if let Some(repo) = repo {
        settings.push(("safe.directory", repo.display().to_string()));
        command.env("GIT_CEILING_DIRECTORIES", repo.parent().unwrap_or(repo));
    }
    settings.extend(more.iter().cloned());
    command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (n, (key, value)) in settings.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{n}"), key).env(format!("GIT_CONFIG_VALUE_{n}"), value);
    }
}
