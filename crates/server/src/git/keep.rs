//! Rows and directories brought together at start, and what is cleared away afterwards.

use std::collections::HashSet;
use std::time::Duration;

use wharf_domain::{Error, RepoId, SpaceId};
use wharf_git::{Collected, GitError, Root};
use wharf_store::repos::KeptRepo;

use super::{Git, lock};

/// Rows of one look.
const PAGE: i64 = 500;
/// Tries at a repository that somebody pushes to, and the pause between them.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(500);

/// Runs what blocks where it may.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GitError> + Send + 'static,
) -> Result<T, Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(Error::internal)??)
}

fn empty_trash(root: &Root) {
    let root = root.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = root.empty_trash() {
            tracing::warn!(%error, "deleted repositories still take room; the next start tries again");
        }
    });
}

impl Git {
    /// Once, before anything is served: whoever crashed in the middle left either side behind the other.
    pub(super) async fn reconcile(&self, root: &Root) -> Result<(), Error> {
        let system = self.system();
        let (mut known, mut after) = (HashSet::new(), None);
        loop {
            let page = system.kept_repos(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for repo in page {
                known.insert(repo.id);
                self.bring_together(root, repo).await?;
            }
        }
        for open in system.open_pushes(None).await? {
            if root.exists(open.repo) {
                self.settle_open(root, &open).await?;
            }
        }
        let listed = root.clone();
        for id in aside(move || listed.all()).await? {
            if known.contains(&id) {
                continue;
            }
            // One whose row was never committed has nothing in it. Any other belongs to rows that are not here.
            if root.is_empty(id).await.unwrap_or(false) {
                root.discard(id)?;
            } else {
                let to = root.set_aside(id)?;
                tracing::warn!(to = %to.display(), "a repository is on the disk that the database does not know; it was set aside");
            }
        }
        empty_trash(root);
        Ok(())
    }

    async fn bring_together(&self, root: &Root, repo: KeptRepo) -> Result<(), Error> {
        if repo.deleted {
            root.discard(repo.id)?;
            return self.system().repo_gone(repo.id).await;
        }
        if !root.exists(repo.id) {
            if repo.pushed {
                tracing::error!(repo = %repo.id, path = %root.path(repo.id).display(),
                    "the files of a repository are gone: restore the directory from a backup");
                return Ok(());
            }
            root.make(repo.id, &repo.default_branch).await?;
        }
        let (at, kept) = (root.clone(), repo.clone());
        aside(move || {
            at.set_head(kept.id, &kept.default_branch)?;
            at.tidy(kept.id)
        })
        .await?;
        if repo.garbage {
            self.collect_later(repo.space, repo.id);
        }
        Ok(())
    }

    /// The row is deleted; its directory follows.
    pub(crate) async fn clear(&self, repo: RepoId) {
        let Some(root) = self.0.root.get() else { return };
        let cleared = match root.discard(repo) {
            Ok(()) => self.system().repo_gone(repo).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = cleared {
            tracing::warn!(%error, %repo, "a deleted repository is not cleared away; the next start does it");
        }
        empty_trash(root);
    }

    /// Removes what a git left that was killed, as soon as nobody pushes.
    pub(super) async fn tidy(&self, repo: RepoId) {
        let Some(root) = self.0.root.get() else { return };
        for _ in 0..TRIES {
            let at = root.clone();
            if !at.exists(repo) {
                return;
            }
            match aside(move || at.tidy(repo)).await {
                Ok(Collected::Done) => return,
                Ok(Collected::Busy) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    tracing::warn!(%error, %repo, "what a killed git left could not be removed");
                    return;
                }
            }
        }
    }

    /// Has the collector come by; one repository at a time, and each once however often it is asked for.
    pub(super) fn collect_later(&self, space: SpaceId, repo: RepoId) {
        if !lock(&self.0.collecting).insert(repo) {
            return;
        }
        let git = self.clone();
        tokio::spawn(async move {
            let result = git.collect(space, repo).await;
            lock(&git.0.collecting).remove(&repo);
            if let Err(error) = result {
                tracing::warn!(%error, %repo, "a repository could not be collected; it is tried after its next push");
            }
        });
    }

    async fn collect(&self, space: SpaceId, repo: RepoId) -> Result<(), Error> {
        let root = self.root().await?.clone();
        for _ in 0..TRIES {
            let _one = self.0.collector.acquire().await.map_err(Error::internal)?;
            if !root.exists(repo) {
                return Ok(());
            }
            // What is measured is what is written down: no push is let in between. None waits for this either, as
            // the collector and pushes that have begun exclude each other.
            let turn = self.turn(repo).lock_owned().await;
            match root.collect(repo).await {
                Ok(Collected::Done) => {
                    let bytes = root.measure(repo).await?;
                    return self.system().repo_collected(space, repo, bytes).await;
                }
                Ok(Collected::Busy) => {
                    drop(turn);
                    tokio::time::sleep(PAUSE).await;
                }
                // Deleted under it.
                Err(_) if !root.exists(repo) => return Ok(()),
                Err(error) => {
                    self.tidy(repo).await;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}
