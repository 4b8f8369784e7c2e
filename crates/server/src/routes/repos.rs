//! Git repositories of a space: made, listed, changed, deleted. What is in them travels by git's protocol (`crate::git`).

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;
use wharf_domain::labels::Selector;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::repo::Branch;
use wharf_domain::{Code, Error, Name, NameOrId, RepoId, limits, quota};
use wharf_store::Scope;
use wharf_store::repos::{NewRepo, Repo, RepoPatch};
use wharf_wire::api;

use super::list_watch::{self, Watched};
use super::view;
use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{
    At, Auth, FromPath, Halt, IfMatch, Json, Keyed, Params, Query, SpacePath, Upgrade, WatchQuery, bounded,
};
use crate::problem::Problem;
use crate::stream;

pub(crate) struct RepoPath {
    at: SpacePath,
    repo: NameOrId<RepoId>,
}

impl FromPath for RepoPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SpacePath::from_path(p)?, repo: p.get("repo")? })
    }
}

fn show(app: &App, space: &Name, r: Repo) -> api::Repo {
    let base = app.settings.url();
    api::Repo {
        id: r.id,
        clone_url: format!("{}/git/{space}/{}.git", base.trim_end_matches('/'), r.name),
        name: r.name,
        description: r.description,
        labels: r.labels,
        default_branch: r.default_branch,
        protected: r.protected,
        size_bytes: r.size_bytes,
        max_bytes: r.max_bytes,
        pushed_at: r.pushed_at,
        created_at: r.created_at,
        updated_at: r.updated_at,
        resource_version: r.resource_version,
    }
}

fn check_bytes(max: Option<u64>) -> Result<(), Error> {
    if max.is_some_and(|n| n > quota::MAX) {
        let detail =
            format!("max_bytes is at most {}; leave it out for the installation's limit", quota::MAX);
        return Err(Error::new(Code::InvalidField, detail).field("max_bytes"));
    }
    Ok(())
}

struct Repos {
    app: App,
    labels: Selector,
}

impl Watched for Repos {
    const RESOURCE: Resource = Resource::Repos;
    type Object = api::Repo;

    async fn find(&self, scope: &mut Scope, id: Uuid) -> Result<Option<(String, api::Repo)>, Error> {
        let space = scope.space()?.name.clone();
        let at = NameOrId::Id(RepoId::from_uuid(id));
        let repo = show(&self.app, &space, scope.repos().permit(&at, Verb::Watch).await?.into_row());
        Ok(self.labels.matches(&repo.labels).then(|| (repo.name.to_string(), repo)))
    }
}

/// List git repositories
///
/// `watch=true` sends what changes from `resource_version` on instead.
#[utoipa::path(get, path = "/v1/spaces/{space}/repos", tag = "repos", params(WatchQuery),
    responses((status = 200, description = "A page of repositories, or their changes.", content(
        (api::WatchPage<api::Repo> = "application/json"), (api::WatchEvent<api::Repo> = "text/event-stream")))))]
pub(crate) async fn list_repos(
    State(app): State<App>,
    context: RequestContext,
    auth: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<WatchQuery>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let page = query.page()?;
    let from = query.resource_version.as_deref();
    if list_watch::is_watch(query.watch, from, query.is_paged())? {
        let watched = Repos { app: app.clone(), labels: page.labels };
        let watch = list_watch::open(&app, &auth, at.space, from, &headers, watched).await?;
        return Ok(stream::answer(&app, context, upgrade, watch));
    }
    let mut scope = app.store.scope(&auth.caller, &at.space).await?;
    let position = scope.position().await?;
    let space = scope.space()?.name.clone();
    let repos = scope.repos().list(&page).await?;
    let repos = view::page(repos, |r| show(&app, &space, r));
    Ok(Json(list_watch::page(repos, position)).into_response())
}

/// Make a git repository
///
/// It is empty; `clone_url` says where to push to. The default branch is protected unless `protected` says otherwise.
#[utoipa::path(post, path = "/v1/spaces/{space}/repos", tag = "repos", request_body = api::CreateRepo,
    responses((status = 201, body = api::Repo)))]
pub(crate) async fn create_repo(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Keyed { key, body }: Keyed<api::CreateRepo>,
) -> Result<impl IntoResponse, Halt> {
    check_bytes(body.max_bytes)?;
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let space = scope.space()?.name.clone();
    let permit = scope.repos().allow(&body.name).await?;
    scope.repos().room(&permit, &body.name).await?;
    let root = app.git.root().await?;
    let default_branch = body.default_branch.unwrap_or_else(Branch::main);
    // The directory first: a repository that is answered is there.
    let id = RepoId::new();
    let bytes = root.make(id, &default_branch).await.map_err(Error::from)?;
    let new = NewRepo {
        id,
        name: body.name,
        description: body.description,
        labels: body.labels,
        protected: body.protected.unwrap_or_else(|| vec![default_branch.clone().into()]),
        default_branch,
        max_bytes: body.max_bytes,
        bytes,
    };
    let made = match scope.repos().create(&permit, new).await {
        Ok(made) => made,
        Err(error) => {
            root.discard(id).map_err(Error::from)?;
            return Err(error.into());
        }
    };
    let repo = show(&app, &space, made);
    // Should the commit fail, the next start finds an empty directory without a row and removes it.
    scope.commit_reply(201, &repo).await?;
    Ok((StatusCode::CREATED, Json(repo)))
}

/// Get a git repository
#[utoipa::path(get, path = "/v1/spaces/{space}/repos/{repo}", tag = "repos",
    responses((status = 200, body = api::Repo)))]
pub(crate) async fn get_repo(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<RepoPath>,
) -> Result<Json<api::Repo>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let repo = scope.repos().permit(&at.repo, Verb::Get).await?.into_row();
    Ok(Json(show(&app, &scope.space()?.name, repo)))
}

/// Change a git repository
///
/// Its settings. Protection counts for every push that is not let in yet.
#[utoipa::path(patch, path = "/v1/spaces/{space}/repos/{repo}", tag = "repos", request_body = api::PatchRepo,
    responses((status = 200, body = api::Repo)))]
pub(crate) async fn patch_repo(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<RepoPath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchRepo>,
) -> Result<Json<api::Repo>, Problem> {
    check_bytes(body.max_bytes.flatten())?;
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.repos().permit(&at.repo, Verb::Update).await?;
    let patch = RepoPatch {
        description: body.description,
        labels: view::labels(&permit.labels, body.labels)?,
        default_branch: body.default_branch,
        protected: body.protected,
        max_bytes: body.max_bytes,
    };
    let moved = patch.default_branch.as_ref().is_some_and(|b| *b != permit.default_branch);
    let space = scope.space()?.name.clone();
    let root = if moved { Some(app.git.root().await?) } else { None };
    let changed = scope.repos().update(&permit, patch, version).await?;
    scope.commit().await?;
    if let Some(root) = root {
        // Should this not come about, the next start does it: the row tells.
        root.set_head(changed.id, &changed.default_branch).map_err(Error::from)?;
    }
    Ok(Json(show(&app, &space, changed)))
}

/// Delete a git repository
///
/// With everything in it.
#[utoipa::path(delete, path = "/v1/spaces/{space}/repos/{repo}", tag = "repos", responses((status = 204)))]
pub(crate) async fn delete_repo(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<RepoPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.repos().permit(&at.repo, Verb::Delete).await?;
    scope.repos().delete(&permit, version).await?;
    let id = permit.id;
    scope.commit().await?;
    app.git.clear(id).await;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct BranchesQuery {
    /// Entries of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 400)]
    cursor: Option<String>,
}

/// List a repository's branches
///
/// By name, with the commit each stands at.
#[utoipa::path(get, path = "/v1/spaces/{space}/repos/{repo}/branches", tag = "repos", params(BranchesQuery),
    responses((status = 200, body = api::Page<api::RepoBranch>)))]
pub(crate) async fn list_branches(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<RepoPath>,
    Query(query): Query<BranchesQuery>,
) -> Result<Json<api::Page<api::RepoBranch>>, Problem> {
    let limit = query.limit.unwrap_or(limits::PAGE_DEFAULT);
    if !(1..=limits::PAGE_MAX).contains(&limit) {
        let detail = format!("limit is {limit}; it must be between 1 and {}", limits::PAGE_MAX);
        return Err(Error::new(Code::InvalidField, detail).field("limit").into());
    }
    bounded("cursor", query.cursor.as_deref(), 400)?;
    let after = query.cursor.as_deref().map(|c| {
        let decoded = B64.decode(c).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let refuse =
            || Error::new(Code::InvalidField, "that is not a cursor of this list; start again without one");
        decoded.ok_or_else(|| refuse().field("cursor"))
    });
    let after = after.transpose()?;
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let repo = scope.repos().permit(&at.repo, Verb::Get).await?.into_row();
    drop(scope);
    let root = app.git.root().await?;
    let found = root.branches(repo.id, after.as_deref(), limit as usize + 1).await;
    let mut found = found.map_err(Error::from)?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| more).map(|b| B64.encode(&b.name));
    let items = found.into_iter().map(|b| api::RepoBranch {
        default: b.name == repo.default_branch.as_str(),
        protected: repo.protected.iter().any(|p| p.covers(&b.name)),
        name: b.name,
        commit: b.commit,
        committed_at: b.committed_at,
        author: b.author,
        subject: b.subject,
    });
    Ok(Json(api::Page { items: items.collect(), next_cursor }))
}
