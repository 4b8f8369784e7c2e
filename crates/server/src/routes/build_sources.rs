//! Builds from repositories of Wharf's own: their files are brought to the build, so its computer needs no way to them and no
//! credential. An agent follows the branch it was built from last: a push to that builds it anew, as whoever pushed.

use serde_json::json;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, NameOrId, RepoId, SpaceId};
use wharf_git::{Found, Root};
use wharf_store::agents::Follower;
use wharf_store::repos::Repo;
use wharf_store::{Caller, Store};
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
    Ok(Asked::of(json!({"git": git, "repo": repo.id, "branch": found.branch}), Some(blob)))
}

/// Begins the builds of agents that follow branches of a push. Answers what the pusher reads of them.
pub(crate) async fn pushed(
    app: &App,
    root: &Root,
    caller: &Caller,
    repo: &Repo,
    branches: &[String],
) -> Vec<String> {
    let followers = async {
        let mut scope = app.store.scope(caller, &NameOrId::Id(repo.space)).await?;
        let space = scope.space()?.name.clone();
        Ok::<_, Error>((space, scope.builds().following(repo.id, branches).await?))
    };
    let (space, followers) = match followers.await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, repo = %repo.id, "whom a push builds could not be looked up");
            return vec![
                "agents that follow this repository could not be looked up; they are not built".to_owned(),
            ];
        }
    };
    let mut said = Vec::new();
    for follower in followers {
        let begun = begin_for(app, root, caller, repo, space.as_str(), &follower).await;
        said.push(match begun {
            Ok(build) => {
                format!("build of agent {} begun; `wharf agent log {}` follows it", follower.name, build.id)
            }
            Err(error) => format!("agent {} is not built: {}", follower.name, error.public),
        });
    }
    said
}

async fn begin_for(
    app: &App,
    root: &Root,
    caller: &Caller,
    repo: &Repo,
    space: &str,
    follower: &Follower,
) -> Result<api::Build, Error> {
    let branch = Some(follower.branch.as_str());
    let found = root.find(repo.id, branch, &repo.default_branch).await?;
    let found = found.ok_or_else(|| Error::not_found("branch", &follower.branch))?;
    let at =
        AgentPath { at: SpacePath { space: NameOrId::Id(repo.space) }, agent: NameOrId::Id(follower.agent) };
    let asked = of_commit(&app.store, root, repo, space, &found, branch).await?;
    begin(app, caller, &at, asked, None).await
}

#[cfg(test)]
mod tests;
