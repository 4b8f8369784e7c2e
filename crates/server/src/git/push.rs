//! One push: let in or refused when git's pre-receive hook asks, written down when it is done.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::OwnedMutexGuard;
use wharf_domain::rbac::Verb;
use wharf_domain::repo::RefUpdate;
use wharf_domain::{Code, Error, NameOrId, PushId, RepoId, SpaceId, Time, limits};
use wharf_git::{Ask, Ended, Hold, Reply, Root};
use wharf_store::repos::{NewPush, OpenPush, Repo, Settled};
use wharf_store::{Caller, Credential};

use super::{Git, lock};
use crate::app::App;
use crate::routes::build_sources;

/// How long a push waits for the one before it, whose refs are being moved.
const TURN: Duration = Duration::from_secs(60);
/// Rights older than this are asked for again when the pack is there: it may have been long on its way.
const FRESH: Duration = Duration::from_secs(15);
/// Refused refs that are named.
const NAMED: usize = 10;
/// Tries to write down what became of a push; after that the next push does, or the next start.
const TRIES: u32 = 5;

/// What the server knows of a push that has a git at work.
pub(super) struct Pushing {
    pub id: PushId,
    pub credential: Credential,
    pub caller: Caller,
    /// What begins the builds of those who follow.
    app: App,
    pub since: Time,
    pub space: SpaceId,
    pub repo: RepoId,
    pub hold: Hold,
    let_in: Mutex<Option<(OpenPush, OwnedMutexGuard<()>)>>,
}

impl Pushing {
    pub fn new(id: PushId, credential: Credential, caller: Caller, repo: &Repo, app: App) -> Arc<Self> {
        Arc::new(Self {
            id,
            credential,
            caller,
            since: app.store.now(),
            app,
            space: repo.space,
            repo: repo.id,
            hold: Hold::default(),
            let_in: Mutex::default(),
        })
    }
}

fn short(object: &str) -> &str {
    object.get(..10).unwrap_or(object)
}

fn object(found: Option<&String>) -> String {
    found.map_or_else(|| "not there".to_owned(), |o| format!("at {}", short(o)))
}

impl Git {
    pub(super) fn begin(&self, pushing: &Arc<Pushing>) {
        lock(&self.0.pushes).insert(pushing.id, pushing.clone());
    }

    /// Answers a hook. Boxed, because opening the repositories is part of it and it of that.
    pub(super) fn hear(self, ask: Ask) -> BoxFuture<'static, Reply> {
        Box::pin(async move { self.answer(ask).await })
    }

    async fn answer(&self, ask: Ask) -> Reply {
        let Some(pushing) = lock(&self.0.pushes).get(&ask.push).cloned() else {
            return Reply::no("this push is not one of the server's, or it is over; push again");
        };
        let answer = match ask.hook.as_str() {
            "pre-receive" => self.let_in(&pushing, ask).await.map(|()| Vec::new()),
            "post-receive" => match self.settle(&pushing).await {
                Ok(Some(settled)) => {
                    let builds = self.build(&pushing, &settled).await;
                    Ok(told(settled).into_iter().chain(builds).collect())
                }
                other => other.map(|_| Vec::new()),
            },
            other => Err(Error::new(Code::BadRequest, format!("there is no hook {other} here"))),
        };
        match answer {
            Ok(say) => Reply::yes(say),
            Err(error) => {
                if error.code == Code::Internal {
                    tracing::error!(%error, "a push was refused because something broke inside");
                } else {
                    tracing::debug!(%error, "a push was refused");
                }
                Reply { ok: false, say: error.public.lines().map(str::to_owned).collect() }
            }
        }
    }

    async fn let_in(&self, pushing: &Arc<Pushing>, ask: Ask) -> Result<(), Error> {
        if ask.updates.len() > limits::PUSH_REFS {
            let detail = format!(
                "a push changes up to {} refs (PUSH_REFS) and this one {}; push fewer at a time",
                limits::PUSH_REFS,
                ask.updates.len()
            );
            return Err(Error::new(Code::TooLarge, detail));
        }
        let root = self.root().await?;
        let turn = tokio::time::timeout(TURN, self.turn(pushing.repo).lock_owned()).await;
        let turn = turn
            .map_err(|_| Error::new(Code::Timeout, "other pushes to the repository take long; push again"))?;
        // What a push before this one left open, when the database was away at its end.
        for open in self.system().open_pushes(Some(pushing.repo)).await? {
            self.settle_open(root, &open).await?;
        }
        let caller = self.caller_now(pushing).await?;
        let at = NameOrId::Id(pushing.repo);
        let mut scope = self.0.store.scope(&caller, &NameOrId::Id(pushing.space)).await?;
        let repo = scope.repos().permit(&at, Verb::Update).await?.into_row();
        // The transaction does not wait for git.
        drop(scope);
        let objects = root.path(repo.id).join("objects");
        let quarantine = ask.quarantine.filter(|q| q.starts_with(&objects));
        let judged = judge(root, &repo, &ask.updates, quarantine.as_deref()).await?;
        let bytes = match &quarantine {
            Some(dir) => root.measure_below(dir).await?,
            None => 0,
        };
        let mut scope = self.0.store.scope(&caller, &NameOrId::Id(pushing.space)).await?;
        let permit = scope.repos().permit(&at, Verb::Update).await?;
        let changed = permit.protected != repo.protected || permit.default_branch != repo.default_branch;
        let judged = match judged {
            Ok(_) if changed => {
                Err("the repository's protected branches were changed in this moment; push again".to_owned())
            }
            other => other,
        };
        let rewinds = match judged {
            Ok(rewinds) => rewinds,
            Err(why) => {
                return self.refuse(scope, &permit, &ask.updates, Error::new(Code::Forbidden, why)).await;
            }
        };
        let push =
            NewPush { id: pushing.id, updates: ask.updates, bytes, rewinds, max_bytes: self.most_bytes() };
        if let Err(error) = scope.repos().admit(&permit, &push).await {
            if error.code != Code::QuotaExceeded {
                return Err(error);
            }
            // What the quota's statement changed must not stay.
            drop(scope);
            let mut scope = self.0.store.scope(&caller, &NameOrId::Id(pushing.space)).await?;
            let permit = scope.repos().permit(&at, Verb::Update).await?;
            return self.refuse(scope, &permit, &push.updates, error).await;
        }
        let open = OpenPush { id: push.id, repo: repo.id, space: repo.space, updates: push.updates };
        // Before the commit: from here on its end is looked after, whether or not its answer is lost.
        *lock(&pushing.let_in) = Some((open, turn));
        pushing.hold.hold();
        scope.commit().await
    }

    async fn refuse(
        &self,
        mut scope: wharf_store::Scope,
        permit: &wharf_store::Permit<Repo>,
        updates: &[RefUpdate],
        why: Error,
    ) -> Result<(), Error> {
        scope.repos().refused(permit, updates, &why.public);
        scope.commit().await?;
        Err(why)
    }

    async fn caller_now(&self, pushing: &Pushing) -> Result<Caller, Error> {
        if self.0.store.now().since(pushing.since) < FRESH {
            return Ok(pushing.caller.clone());
        }
        let caller = self.0.store.authenticate(pushing.credential.clone(), pushing.caller.meta()).await;
        caller.map_err(|e| {
            if e.code == Code::Unauthenticated || e.code == Code::TokenExpired {
                Error::new(
                    e.code,
                    "the credential of this push is not valid any more; nothing of it was taken",
                )
            } else {
                e
            }
        })
    }

    /// Writes down what became of a push that was let in; nothing when none was, or it is done already.
    async fn settle(&self, pushing: &Pushing) -> Result<Option<Settled>, Error> {
        let Some((open, turn)) = lock(&pushing.let_in).take() else { return Ok(None) };
        let root = self.root().await?;
        match self.settle_open(root, &open).await {
            Ok(settled) => {
                drop(turn);
                Ok(settled)
            }
            Err(error) => {
                *lock(&pushing.let_in) = Some((open, turn));
                Err(error)
            }
        }
    }

    /// Builds the agents that follow what was pushed. What keeps one from it is said, and is no fault of the push.
    async fn build(&self, pushing: &Pushing, settled: &Settled) -> Vec<String> {
        let (Ok(root), false) = (self.root().await, settled.due.is_empty()) else { return Vec::new() };
        build_sources::pushed(&pushing.app, root, &pushing.caller, &settled.repo, &settled.due).await
    }

    /// Begins the builds that pushes have been owed for that long.
    pub(super) async fn make_up(&self, app: &App, since: Duration) {
        let Ok(root) = self.root().await else { return };
        match self.system().owed_builds(since).await {
            Ok(owed) => {
                for due in owed {
                    build_sources::make_up(app, root, &due).await;
                }
            }
            Err(error) => tracing::debug!(%error, "builds that pushes are owed are looked for later"),
        }
    }

    /// The refs on the disk tell: nobody else moves them before this is written down.
    pub(super) async fn settle_open(&self, root: &Root, open: &OpenPush) -> Result<Option<Settled>, Error> {
        let names: Vec<String> = open.updates.iter().map(|u| u.name.clone()).collect();
        let refs = root.refs(open.repo, &names).await?;
        let is_done = |u: &&RefUpdate| match refs.get(&u.name) {
            Some(now) => *now == u.new,
            None => u.deletes(),
        };
        let done: Vec<RefUpdate> = open.updates.iter().filter(is_done).cloned().collect();
        let bytes = root.measure(open.repo).await?;
        let settled = self.system().settle_push(open, &done, bytes).await?;
        if let Some(settled) = &settled
            && (settled.garbage || root.scattered(open.repo))
        {
            self.collect_later(open.space, open.repo);
        }
        Ok(settled)
    }

    /// The processes of a push have ended, in whatever way.
    pub(super) async fn end(&self, pushing: &Pushing, ended: Option<&Ended>) {
        lock(&self.0.pushes).remove(&pushing.id);
        let mut pause = Duration::from_millis(200);
        for attempt in 1..=TRIES {
            match self.settle(pushing).await {
                Ok(Some(settled)) => {
                    self.build(pushing, &settled).await;
                    break;
                }
                Ok(None) => break,
                Err(error) if attempt == TRIES => {
                    tracing::warn!(%error, repo = %pushing.repo, "what became of a push is not written down; the next push does it");
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
        drop(lock(&pushing.let_in).take());
        if !ended.is_some_and(Ended::whole) {
            self.tidy(pushing.repo).await;
        }
    }
}

/// What the pusher reads when it is done.
fn told(settled: Settled) -> Vec<String> {
    let repo = settled.repo;
    let used = settled.done.is_empty().then(|| "no ref was changed".to_owned());
    let full = repo
        .max_bytes
        .filter(|most| repo.size_bytes * 10 > most * 9)
        .map(|most| format!("repository {} holds {} of {most} bytes", repo.name, repo.size_bytes));
    used.into_iter().chain(full).collect()
}

/// Holds the updates to the refs as they are and to what is protected. Answers whether they rewind branches or delete
/// refs that are not, or what is wrong with them.
async fn judge(
    root: &Root,
    repo: &Repo,
    updates: &[RefUpdate],
    quarantine: Option<&std::path::Path>,
) -> Result<Result<bool, String>, Error> {
    let names: Vec<String> = updates.iter().map(|u| u.name.clone()).collect();
    let now = root.refs(repo.id, &names).await?;
    let (mut refused, mut rewinds) = (Vec::new(), false);
    for update in updates {
        let there = now.get(&update.name);
        let expected = if update.creates() { there.is_none() } else { there == Some(&update.old) };
        if !expected {
            let wanted =
                if update.creates() { "not there".to_owned() } else { format!("at {}", short(&update.old)) };
            refused.push(format!(
                "{} is {}, and this push takes it to be {wanted}: somebody else pushed meanwhile; fetch and push again",
                update.name,
                object(there)
            ));
            continue;
        }
        let branch = update.branch();
        let cover = branch.and_then(|b| repo.protected.iter().find(|p| p.covers(b)));
        let lift = |pattern: &wharf_domain::repo::BranchPattern| {
            format!("wharf repo update {} --unprotect '{pattern}' lifts that", repo.name)
        };
        if update.deletes() {
            if let (Some(branch), Some(pattern)) = (branch, cover) {
                let advice = lift(pattern);
                refused.push(format!("branch {branch} is protected and cannot be deleted; {advice}"));
            } else if branch == Some(repo.default_branch.as_str()) {
                refused.push(format!(
                    "branch {} is the default branch and cannot be deleted; make another one that first: wharf repo update {} --default-branch NAME",
                    repo.default_branch, repo.name
                ));
            }
            rewinds = true;
            continue;
        }
        if update.creates() || root.goes_on(repo.id, quarantine, &update.old, &update.new).await? {
            continue;
        }
        rewinds = true;
        if let (Some(branch), Some(pattern)) = (branch, cover) {
            let advice = lift(pattern);
            refused.push(format!(
                "branch {branch} is protected: this push would take commits away from it (a forced push); fetch and merge or rebase, or {advice}"
            ));
        }
    }
    if refused.is_empty() {
        return Ok(Ok(rewinds));
    }
    let more = refused.len().saturating_sub(NAMED);
    refused.truncate(NAMED);
    if more > 0 {
        refused.push(format!("and {more} more"));
    }
    refused.push("nothing of this push was taken".to_owned());
    Ok(Err(refused.join("\n")))
}
