//! The git server: which repositories lie on this machine, who is pushing to them, and what became of it.
//!
//! The rows decide; the disk follows. A push is let in by git's own pre-receive hook, which asks here, and written
//! down when its post-receive hook says it is done, or, when git died over it, by comparing what it wanted with
//! the refs that are there. Refuses to serve what it has not brought together with the rows first.

mod keep;
mod push;
mod smart;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use wharf_chassis::{Settings, Stop};
use wharf_domain::{Code, Error, PushId, RepoId};
use wharf_git::{Ask, Reply, Root};
use wharf_store::{Actor, Store, System};

use crate::app::App;
use push::Pushing;
pub(crate) use smart::router;

/// Between two looks for a git that was not there, a database that was away, or builds that are owed.
const AGAIN: Duration = Duration::from_secs(30);

/// Cheap to clone; one per process.
#[derive(Clone)]
pub struct Git(Arc<Inner>);

struct Inner {
    store: Store,
    settings: Arc<Settings>,
    /// What hooks run: `PROGRAM git-hook NAME`.
    program: PathBuf,
    root: OnceCell<Root>,
    /// Requests that have a git of their own.
    places: Arc<Semaphore>,
    pushes: Mutex<HashMap<PushId, Arc<Pushing>>>,
    /// From the moment a push is let in until it is written down the repository is its own.
    turns: Mutex<HashMap<RepoId, Weak<tokio::sync::Mutex<()>>>>,
    /// Repositories the collector will come to.
    collecting: Mutex<HashSet<RepoId>>,
    collector: Semaphore,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Git {
    /// Touches nothing: the first use does.
    pub fn new(store: &Store, settings: &Arc<Settings>, program: PathBuf) -> Self {
        Self(Arc::new(Inner {
            store: store.clone(),
            places: Arc::new(Semaphore::new(settings.git.max_requests as usize)),
            settings: settings.clone(),
            program,
            root: OnceCell::new(),
            pushes: Mutex::default(),
            turns: Mutex::default(),
            collecting: Mutex::default(),
            collector: Semaphore::new(1),
        }))
    }

    /// Makes ready what is there at start, so that no caller waits for it; then begins the builds that pushes are owed by a
    /// server that died over them, at once, and later those that were put off.
    pub(crate) async fn run(&self, app: &App, stop: Stop) {
        while let Err(error) = self.root().await {
            if error.code == Code::Unsupported {
                tracing::info!(reason = %error.public, "no git repositories");
                return;
            }
            tracing::warn!(%error, "the git repositories are not ready; it is tried again");
            if stop.or_drain(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
        }
        let mut since = Duration::ZERO;
        while stop.or_drain(self.make_up(app, since)).await.is_some() {
            // What is younger is in the hands of the push itself.
            since = AGAIN;
            if stop.or_drain(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
        }
    }

    /// The repositories, brought together with their rows.
    pub(crate) async fn root(&self) -> Result<&Root, Error> {
        self.0.root.get_or_try_init(|| self.open()).await
    }

    async fn open(&self) -> Result<Root, Error> {
        let (dir, program) = (self.0.settings.git_dir(), self.0.program.clone());
        let socket = self.0.settings.control_run_dir().join("git.sock");
        let opened = tokio::task::spawn_blocking(move || Root::open(&dir, &socket, &program)).await;
        let root = opened.map_err(Error::internal)??;
        self.reconcile(&root).await?;
        let weak = Arc::downgrade(&self.0);
        let gate = wharf_git::listen(&root, move |ask: Ask| {
            let weak = weak.clone();
            async move {
                match weak.upgrade() {
                    Some(inner) => Self(inner).hear(ask).await,
                    None => Reply::no("the server is gone; push again"),
                }
            }
        })?;
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let gone = async {
                while weak.strong_count() > 0 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            tokio::select! {
                () = gate => {}
                () = gone => {}
            }
        });
        Ok(root)
    }

    fn system(&self) -> System {
        self.0.store.system(Actor::Git)
    }

    /// Bytes of a repository that has no limit of its own.
    pub(crate) fn most_bytes(&self) -> u64 {
        self.0.settings.git.max_repo_bytes
    }

    fn turn(&self, repo: RepoId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.0.turns);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&repo).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(repo, Arc::downgrade(&turn));
        turn
    }
}
