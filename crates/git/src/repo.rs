//! Questions to one repository.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use wharf_domain::repo::{Branch, HEADS};
use wharf_domain::{RepoId, Time};

use crate::root::{QUICK, Root};
use crate::{GitError, Result, io};

/// A branch as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchInfo {
    pub name: String,
    pub commit: String,
    pub committed_at: Option<Time>,
    pub author: String,
    pub subject: String,
}

/// Runs a command of git to its end; what it says on stderr becomes the error's.
pub(crate) async fn quickly(command: Command, what: &str) -> Result<Vec<u8>> {
    let (code, out, said) = ask(command, what).await?;
    match code {
        Some(0) => Ok(out),
        code => Err(GitError::Failed {
            what: what.to_owned(),
            status: code.map_or_else(|| "a signal".to_owned(), |c| c.to_string()),
            said,
        }),
    }
}

pub(crate) async fn ask(mut command: Command, what: &str) -> Result<(Option<i32>, Vec<u8>, String)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ran = tokio::time::timeout(QUICK, command.output()).await;
    let out = ran.map_err(|_| GitError::Slow(what.to_owned()))?;
    let out = io(|| format!("run git {what}"), out)?;
    let said: String = String::from_utf8_lossy(&out.stderr).trim().chars().take(2000).collect();
    Ok((out.status.code(), out.stdout, said))
}

impl Root {
    /// What these refs stand at; those that are not there are left out.
    pub async fn refs(&self, id: RepoId, names: &[String]) -> Result<HashMap<String, String>> {
        let mut found = HashMap::new();
        // In pieces that fit on a command line.
        for names in names.chunks(500) {
            let mut command = self.git(Some(id));
            command.args(["for-each-ref", "--format=%(objectname) %(refname)", "--"]).args(names);
            let out = quickly(command, "for-each-ref").await?;
            for line in String::from_utf8_lossy(&out).lines() {
                if let Some((object, name)) = line.split_once(' ') {
                    found.insert(name.to_owned(), object.to_owned());
                }
            }
        }
        Ok(found)
    }

    /// Whether anything was ever pushed here and is still reachable.
    pub async fn is_empty(&self, id: RepoId) -> Result<bool> {
        let mut command = self.git(Some(id));
        command.args(["for-each-ref", "--count=1", "--format=%(refname)"]);
        Ok(quickly(command, "for-each-ref").await?.is_empty())
    }

    /// Whether `new` goes on from `old`. `quarantine` is where a push's own objects still are.
    pub async fn goes_on(&self, id: RepoId, quarantine: Option<&Path>, old: &str, new: &str) -> Result<bool> {
        let mut command = self.git(Some(id));
        if let Some(quarantine) = quarantine {
            command
                .env("GIT_OBJECT_DIRECTORY", quarantine)
                .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", self.path(id).join("objects"));
        }
        command.args(["merge-base", "--is-ancestor", old, new]);
        // 1 is no; anything else (a tag that is no commit, say) goes on from nothing.
        Ok(ask(command, "merge-base").await?.0 == Some(0))
    }

    /// Up to `limit` branches behind `after`, by name.
    pub async fn branches(&self, id: RepoId, after: Option<&str>, limit: usize) -> Result<Vec<BranchInfo>> {
        let mut names = self.git(Some(id));
        names.args(["for-each-ref", "--format=%(refname)", HEADS]);
        let out = quickly(names, "for-each-ref").await?;
        let text = String::from_utf8_lossy(&out);
        let page: Vec<&str> = text
            .lines()
            .filter(|full| after.is_none_or(|after| full.strip_prefix(HEADS).is_some_and(|n| n > after)))
            .take(limit)
            .collect();
        if page.is_empty() {
            return Ok(Vec::new());
        }
        let format = "--format=%(refname)%00%(objectname)%00%(committerdate:unix)%00%(authorname)%00%(contents:subject)";
        let mut command = self.git(Some(id));
        command.args(["for-each-ref", format, "--"]).args(&page);
        let out = quickly(command, "for-each-ref").await?;
        String::from_utf8_lossy(&out).lines().map(read_branch).collect()
    }

    /// Writes which branch a clone checks out. Atomic, and nothing when it is so already. Blocks.
    pub fn set_head(&self, id: RepoId, branch: &Branch) -> Result<()> {
        let path = self.path(id).join("HEAD");
        let wanted = format!("ref: {}\n", branch.full());
        if std::fs::read_to_string(&path).is_ok_and(|now| now == wanted) {
            return Ok(());
        }
        let new = self.path(id).join("HEAD.wharf");
        let write = || {
            std::fs::write(&new, &wanted)?;
            std::fs::File::open(&new)?.sync_all()?;
            std::fs::rename(&new, &path)
        };
        io(|| format!("write {}", path.display()), write())
    }

    /// Bytes of a repository's files.
    pub async fn measure(&self, id: RepoId) -> Result<u64> {
        self.measure_below(&self.path(id)).await
    }

    /// Bytes of the files of a directory that git made below a repository.
    pub async fn measure_below(&self, dir: &Path) -> Result<u64> {
        let dir = dir.to_owned();
        let measured = tokio::task::spawn_blocking(move || (bytes(&dir), dir)).await;
        let (bytes, dir) = measured.map_err(|e| GitError::Unreadable(e.to_string()))?;
        io(|| format!("measure {}", dir.display()), bytes)
    }
}

/// Files come and go while it looks: what is gone counts nothing.
fn bytes(dir: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    let mut dirs = vec![dir.to_owned()];
    let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    while let Some(at) = dirs.pop() {
        let entries = match std::fs::read_dir(&at) {
            Ok(entries) => entries,
            Err(e) if gone(&e) && at != dir => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(found) if found.is_dir() => dirs.push(entry.path()),
                Ok(found) => sum += found.len(),
                Err(e) if gone(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(sum)
}

fn read_branch(line: &str) -> Result<BranchInfo> {
    let mut parts = line.splitn(5, '\0');
    let mut next = || parts.next().ok_or_else(|| GitError::Unreadable(line.chars().take(200).collect()));
    let full = next()?;
    Ok(BranchInfo {
        name: full.strip_prefix(HEADS).unwrap_or(full).to_owned(),
        commit: next()?.to_owned(),
        committed_at: next()?.parse::<i64>().ok().map(|s| Time::from_millis(s.saturating_mul(1000))),
        author: next()?.to_owned(),
        subject: next()?.to_owned(),
    })
}
