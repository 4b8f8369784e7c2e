//! The directory that holds all repositories:
//!
//! - `repos/<id>.git`, bare; whole as soon as it has that name
//! - `new/`, what is being made; emptied at start
//! - `trash/`, what was deleted, on its way out
//! - `lost/`, directories with content that no row names: kept for whoever restores a database
//! - `locks/<id>`, held shared by every push and alone by whoever removes something
//! - `hooks/`, ours; `home/`, empty

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::process::Command;
use wharf_domain::RepoId;
use wharf_domain::repo::Branch;

use crate::program::{self, Programs, Setting};
use crate::{GitError, Result, io, repo};

/// A quick question to git takes no longer.
pub(crate) const QUICK: Duration = Duration::from_secs(60);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Root(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    socket: PathBuf,
    programs: Programs,
    count: AtomicU64,
}

impl Root {
    /// Makes what is missing of the directory and writes the hooks: `program git-hook NAME` is what they run, `socket`
    /// where that one asks. Blocks.
    pub fn open(dir: &Path, socket: &Path, program: &Path) -> Result<Self> {
        let programs = program::find()?;
        let make = |path: &Path| {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            io(|| format!("make {}", path.display()), made)
        };
        make(dir)?;
        // git compares paths by their real names.
        let dir = io(|| format!("look at {}", dir.display()), dir.canonicalize())?;
        // What was being made when a server died is nothing.
        let new = dir.join("new");
        if new.exists() {
            io(|| format!("empty {}", new.display()), fs::remove_dir_all(&new))?;
        }
        for part in ["repos", "new", "trash", "lost", "locks", "hooks", "home"] {
            make(&dir.join(part))?;
        }
        if let Some(parent) = socket.parent() {
            make(parent)?;
        }
        let root =
            Self(Arc::new(Inner { dir, socket: socket.to_owned(), programs, count: AtomicU64::new(0) }));
        for hook in ["pre-receive", "post-receive"] {
            root.write_hook(hook, program)?;
        }
        Ok(root)
    }

    fn write_hook(&self, hook: &str, program: &Path) -> Result<()> {
        let quoted = program.display().to_string().replace('\'', r"'\''");
        let text = format!("#!/bin/sh\nexec '{quoted}' git-hook {hook}\n");
        let (at, new) = (self.hooks().join(hook), self.hooks().join(format!(".{hook}")));
        let write = || {
            let _ = fs::remove_file(&new);
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o500).open(&new)?;
            file.write_all(text.as_bytes())?;
            drop(file);
            fs::rename(&new, &at)
        };
        io(|| format!("write {}", at.display()), write())
    }

    pub fn socket(&self) -> &Path {
        &self.0.socket
    }

    pub(crate) fn programs(&self) -> &Programs {
        &self.0.programs
    }

    pub(crate) fn repos(&self) -> PathBuf {
        self.0.dir.join("repos")
    }

    fn hooks(&self) -> PathBuf {
        self.0.dir.join("hooks")
    }

    pub(crate) fn lock_file(&self, id: RepoId) -> PathBuf {
        self.0.dir.join("locks").join(id.to_string())
    }

    pub fn path(&self, id: RepoId) -> PathBuf {
        self.repos().join(format!("{id}.git"))
    }

    pub fn exists(&self, id: RepoId) -> bool {
        self.path(id).is_dir()
    }

    /// A command with git's environment and nothing else; it is ended with the future that runs it.
    pub(crate) fn dressed(&self, program: &Path, id: Option<RepoId>, more: &[Setting]) -> Command {
        let mut command = Command::new(program);
        let repo = id.map(|id| self.path(id));
        program::dress(&mut command, &self.0.dir.join("home"), &self.hooks(), repo.as_deref(), more);
        command
    }

    /// git itself, in a repository where one is named.
    pub(crate) fn git(&self, id: Option<RepoId>) -> Command {
        let mut command = self.dressed(&self.programs().git, id, &[]);
        if let Some(id) = id {
            command.arg("--git-dir").arg(self.path(id));
        }
        command
    }

    fn fresh(&self, part: &str, id: RepoId) -> PathBuf {
        let n = self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.dir.join(part).join(format!("{id}.{}.{n}", std::process::id()))
    }

    /// Makes an empty repository, whole or not at all; answers its bytes. One that is there already stays.
    pub async fn make(&self, id: RepoId, branch: &Branch) -> Result<u64> {
        if !self.exists(id) {
            let new = self.fresh("new", id);
            let mut init = self.git(None);
            init.args(["init", "--quiet", "--bare", "--template="])
                .arg(format!("--initial-branch={branch}"))
                .arg(&new);
            repo::quickly(init, "init").await?;
            io(|| "sync the new repository".into(), sync(&new))?;
            io(|| "put the new repository in its place".into(), fs::rename(&new, self.path(id)))?;
            io(|| "sync the repositories".into(), sync(&self.repos()))?;
        }
        self.measure(id).await
    }

    /// Takes a repository away. Its bytes go later, with [`Self::empty_trash`].
    pub fn discard(&self, id: RepoId) -> Result<()> {
        let _ = fs::remove_file(self.lock_file(id));
        match fs::rename(self.path(id), self.fresh("trash", id)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => io(|| format!("discard {}", self.path(id).display()), other),
        }
    }

    /// Puts a directory that no row names where nobody serves it from, and answers where that is.
    pub fn set_aside(&self, id: RepoId) -> Result<PathBuf> {
        let to = self.0.dir.join("lost").join(format!("{id}.git"));
        io(|| format!("set {} aside", self.path(id).display()), fs::rename(self.path(id), &to))?;
        Ok(to)
    }

    /// Removes what was discarded. Blocks.
    pub fn empty_trash(&self) -> Result<()> {
        let trash = self.0.dir.join("trash");
        let mut last = Ok(());
        for entry in io(|| "read the trash".into(), fs::read_dir(&trash))?.flatten() {
            if let Err(e) = fs::remove_dir_all(entry.path())
                && e.kind() != std::io::ErrorKind::NotFound
            {
                last = Err(GitError::Io { what: format!("remove {}", entry.path().display()), cause: e });
            }
        }
        last
    }

    /// Ids of the repositories on the disk. Blocks.
    pub fn all(&self) -> Result<Vec<RepoId>> {
        let entries = io(|| "read the repositories".into(), fs::read_dir(self.repos()))?;
        let id = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".git")?.parse().ok();
        Ok(entries.flatten().filter_map(|e| id(e.file_name())).collect())
    }
}

fn sync(dir: &Path) -> std::io::Result<()> {
    fs::File::open(dir)?.sync_all()
}
