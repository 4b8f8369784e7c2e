//! What killed gits leave behind, and what nobody can reach any more.
//!
//! Every push holds the repository's lock shared, in all its processes: `flock` hands it down. Whoever gets it alone
//! therefore knows that every `.lock` and every half received pack belongs to nobody. Readers need no lock: what they
//! opened stays readable.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use wharf_domain::RepoId;

use crate::root::Root;
use crate::{GitError, Result, io};

/// The status of `flock` when another has the lock; git has none like it.
pub(crate) const BUSY: i32 = 75;
/// What a collection may take. Pushes wait meanwhile.
const COLLECTING: Duration = Duration::from_secs(15 * 60);
/// Packs from which on they are joined: each costs every reader a look.
const MANY_PACKS: usize = 30;

/// What came of collecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collected {
    Done,
    /// Somebody pushes: another time.
    Busy,
}

impl Root {
    /// Removes what killed processes left, if nobody pushes just now. Blocks briefly.
    pub fn tidy(&self, id: RepoId) -> Result<Collected> {
        let path = self.lock_file(id);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = io(|| format!("open {}", path.display()), file)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(Collected::Busy),
            Err(fs::TryLockError::Error(e)) => return io(|| format!("lock {}", path.display()), Err(e)),
        }
        let swept = sweep(&self.path(id));
        io(|| format!("tidy {}", self.path(id).display()), swept)?;
        drop(file);
        Ok(Collected::Done)
    }

    /// Whether there are so many packs that they should be joined.
    pub fn scattered(&self, id: RepoId) -> bool {
        let packs = fs::read_dir(self.path(id).join("objects/pack"));
        packs.is_ok_and(|all| {
            all.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "pack")).count() > MANY_PACKS
        })
    }

    /// Joins packs and removes what no ref leads to.
    pub async fn collect(&self, id: RepoId) -> Result<Collected> {
        let mut command = self.dressed(&self.programs().flock, Some(id), &[]);
        command
            .args(["--exclusive", "--nonblock", "--no-fork", "--conflict-exit-code"])
            .arg(BUSY.to_string())
            .arg(self.lock_file(id))
            .arg(&self.programs().git)
            .arg("--git-dir")
            .arg(self.path(id))
            .args(["gc", "--quiet", "--prune=now"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let ran = tokio::time::timeout(COLLECTING, command.output()).await;
        let out = io(|| "run git gc".into(), ran.map_err(|_| GitError::Slow("gc".into()))?)?;
        match out.status.code() {
            Some(0) => Ok(Collected::Done),
            Some(BUSY) => Ok(Collected::Busy),
            code => Err(GitError::Failed {
                what: "gc".into(),
                status: code.map_or_else(|| "a signal".to_owned(), |c| c.to_string()),
                said: String::from_utf8_lossy(&out.stderr).trim().chars().take(2000).collect(),
            }),
        }
    }
}

/// As git writes it, in small letters.
fn is_lock(name: &str) -> bool {
    name.strip_suffix(".lock").is_some()
}

/// Everything that only a running git may own. The caller knows that none runs.
fn sweep(repo: &Path) -> std::io::Result<()> {
    let own =
        |name: &str| is_lock(name) || name == "HEAD.wharf" || name == "gc.pid" || name.starts_with(".tmp-");
    let temporary =
        |name: &str| is_lock(name) || ["tmp_", "incoming-", ".tmp-"].iter().any(|t| name.starts_with(t));
    remove(repo, &own)?;
    locks(&repo.join("refs"))?;
    let objects = repo.join("objects");
    remove(&objects, &temporary)?;
    remove(&objects.join("pack"), &temporary)?;
    remove(&objects.join("info"), &temporary)?;
    for entry in read(&objects)? {
        // Loose objects lie in directories of two letters.
        if entry.file_name().len() == 2 {
            remove(&entry.path(), &temporary)?;
        }
    }
    Ok(())
}

fn read(dir: &Path) -> std::io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn remove(dir: &Path, which: &dyn Fn(&str) -> bool) -> std::io::Result<()> {
    for entry in read(dir)? {
        if entry.file_name().to_str().is_some_and(which) {
            tracing::info!(path = %entry.path().display(), "removing what a git left that was killed");
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

fn locks(dir: &Path) -> std::io::Result<()> {
    remove(dir, &is_lock)?;
    for entry in read(dir)? {
        if entry.file_type()?.is_dir() {
            locks(&entry.path())?;
        }
    }
    Ok(())
}
