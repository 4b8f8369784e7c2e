//! Builds from repositories of Wharf's own: their files are brought to the build, so its computer needs no way to them and no
//! credential. An agent follows the branch it was built from last: a push to that builds it anew, as whoever pushed.

use serde_json::json;
use wharf_domain::manifest::{self, Place};
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, NameOrId, RepoId, SpaceId, limits};
use wharf_git::{Found, Root};
use wharf_store::repos::{Due, Repo};
use wharf_store::{Actor, Caller, Store};
use wharf_wire::api;

use super::builds::{Asked, begin, keep};
use super::packages::AgentPath;
use crate::app::App;
use crate::extract::SpacePath;

/// What an address of Wharf's own names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Own<'a> {
    space: &'a str,
    repo: &'a str,
}

/// `/git/{space}/{repo}.git`, alone or behind the address this server is reached at.
pub(super) fn own<'a>(url: &'a str, host: Option<&str>, public: &str) -> Option<Own<'a>> {
    let path = match url.split_once("://") {
        None => url.strip_prefix('/')?,
        Some(("http" | "https", rest)) => {
            let (at, path) = rest.split_once('/')?;
            let known = public.split_once("://").map_or(public, |(_, rest)| rest).trim_end_matches('/');
            if Some(at) != host && at != known {
                return None;
            }
            path
        }
        Some(_) => return None,
    };
    let (space, repo) = path.strip_prefix("git/")?.split_once('/')?;
    let repo = repo.strip_suffix(".git").unwrap_or(repo);
    (!repo.contains('/')).then_some(Own { space, repo })
}

/// The source of a build that somebody asks for.
pub(super) async fn of_repo(
    app: &App,
    caller: &Caller,
    space: &NameOrId<SpaceId>,
    own: &Own<'_>,
    git: &api::GitSource,
) -> Result<Asked, Error> {
    let refuse = |field: &str, detail: String| Error::new(Code::InvalidReference, detail).field(field);
    let mut scope = app.store.scope(caller, space).await?;
    let here = scope.space()?;
    if own.space != here.name.as_str() && own.space != here.id.to_string() {
        let detail = "an agent is built from a repository of its own space, and this is one of another";
        return Err(refuse("git.url", detail.to_owned()));
    }
    let space = here.name.clone();
    let at: NameOrId<RepoId> = own.repo.parse().map_err(|e: Error| e.field("git.url"))?;
    let repo = scope.repos().permit(&at, Verb::Get).await.map_err(|e| match e.code {
        Code::NotFound => refuse("git.url", e.public),
        _ => e,
    })?;
    let repo = repo.into_row();
    drop(scope);
    let root = app.git.root().await?;
    let Some(found) = root.find(repo.id, git.reference.as_deref(), &repo.default_branch).await? else {
        let detail = match &git.reference {
            Some(name) => format!("repository {} has no branch, tag or commit {name}", repo.name),
            None => format!(
                "branch {} of repository {} is not there: push to it first",
                repo.default_branch, repo.name
            ),
        };
        return Err(refuse("git.ref", detail));
    };
    of_commit(&app.store, root, &repo, space.as_str(), &found, git.reference.as_deref()).await
}

async fn of_commit(
    store: &Store,
    root: &Root,
    repo: &Repo,
    space: &str,
    found: &Found,
    reference: Option<&str>,
) -> Result<Asked, Error> {
    let blob = keep(store, root.archive(repo.id, &found.commit)?).await?;
    let url = format!("/git/{space}/{}.git", repo.name);
    let git = json!({"url": url, "ref": reference, "commit": found.commit});
    let text = root.text(repo.id, &found.commit, manifest::FILE, limits::MANIFEST_BYTES).await?;
    let wanted = text.map(|text| manifest::place(&text)).unwrap_or_default();
    Ok(Asked {
        wanted,
        ..Asked::of(json!({"git": git, "repo": repo.id, "branch": found.branch}), Some(blob))
    })
}

/// What became of a build that is owed.
enum Begun {
    Yes(api::Build),
    /// By somebody else.
    Already,
    /// It may be begun later.
    NotYet(Error),
    /// It will not be, however often it is tried.
    Never(Error),
}

/// Begins the builds that a push owes, as who pushed. Answers what the pusher reads of them.
pub(crate) async fn pushed(app: &App, root: &Root, caller: &Caller, repo: &Repo, due: &[Due]) -> Vec<String> {
    let mut said = Vec::new();
    for due in due {
        let name = &due.name;
        match begin_owed(app, root, caller, repo, due).await {
            Begun::Yes(build) => {
                said.push(format!("build of agent {name} begun; `wharf agent log {}` follows it", build.id));
            }
            Begun::Already => {}
            Begun::NotYet(error) if error.code != Code::QuotaExceeded => {
                tracing::info!(%error, agent = %name, "a build that a push owes is begun later");
                said.push(format!("agent {name} is not built yet: {}; it is tried again", error.public));
            }
            // Who pushed is told, and knows better when to try again.
            Begun::NotYet(error) | Begun::Never(error) => {
                give_up(app, due, &error).await;
                said.push(format!("agent {name} is not built: {}", error.public));
            }
        }
    }
    said
}

/// Tries until a build that is owed is given up, half a minute apart.
const TRIES: i32 = 60;

/// Begins a build that a push owes and that the server which took the push did not begin.
pub(crate) async fn make_up(app: &App, root: &Root, due: &Due) {
    let begun = async {
        let caller = app.store.on_behalf(&due.by).await?;
        let mut scope = app.store.scope(&caller, &due.space()).await?;
        let repo = scope.repos().permit(&NameOrId::Id(due.repo), Verb::Get).await?.into_row();
        drop(scope);
        Ok(begin_owed(app, root, &caller, &repo, due).await)
    };
    let begun = begun.await.unwrap_or_else(judged);
    match begun {
        Begun::Yes(build) => {
            tracing::info!(agent = %due.name, build = %build.id, push = %due.push, "began a build that a push was owed");
        }
        Begun::Already => {}
        Begun::Never(error) => give_up(app, due, &error).await,
        Begun::NotYet(error) => match app.store.system(Actor::Git).build_put_off(due).await {
            Ok(tries) if tries >= TRIES => give_up(app, due, &error).await,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a build that a push owes is tried again later"),
        },
    }
}

async fn give_up(app: &App, due: &Due, error: &Error) {
    tracing::info!(%error, agent = %due.name, push = %due.push, "a build that a push owes is given up");
    if let Err(error) = app.store.system(Actor::Git).build_given_up(due, &error.public).await {
        tracing::warn!(%error, agent = %due.name, "that a build is given up is not written down; it is tried again");
    }
}

/// Whether it is worth trying again.
fn judged(error: Error) -> Begun {
    match error.code {
        Code::Unavailable | Code::Timeout | Code::Internal | Code::QuotaExceeded | Code::RateLimited => {
            Begun::NotYet(error)
        }
        Code::PreconditionFailed => Begun::Already,
        _ => Begun::Never(error),
    }
}

async fn begin_owed(app: &App, root: &Root, caller: &Caller, repo: &Repo, due: &Due) -> Begun {
    let begun = async {
        let mut scope = app.store.scope(caller, &due.space()).await?;
        let space = scope.space()?.name.clone();
        let last = scope.builds().asked_last(due.agent).await?;
        drop(scope);
        let branch = Some(due.branch.as_str());
        let found = root.find(repo.id, branch, &repo.default_branch).await?;
        let found = found.ok_or_else(|| Error::not_found("branch", &due.branch))?;
        let at = AgentPath { at: SpacePath { space: due.space() }, agent: NameOrId::Id(due.agent) };
        let asked = of_commit(&app.store, root, repo, space.as_str(), &found, branch).await?;
        // What was named with the build before holds on, but for the image where the package has come to name one.
        let Place { image, resources } = last;
        let named = Place { image: image.filter(|_| asked.wanted.image.is_none()), resources };
        begin(app, caller, &at, Asked { named, ..asked }.owed_to(due), None).await
    };
    begun.await.map_or_else(judged, Begun::Yes)
}

#[cfg(test)]
mod tests;
