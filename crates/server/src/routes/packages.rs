//! Agents of a space, their versions, and which of them is the active one.

use axum::extract::State;
use http::StatusCode;
use wharf_domain::rbac::Verb;
use wharf_domain::{AgentId, Error, NameOrId};
use wharf_store::agents::{AgentPatch, NewAgent, Version};
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, IfMatch, Json, Keyed, ListQuery, Params, Query, SpacePath};
use crate::problem::Problem;

pub(crate) struct AgentPath {
    pub at: SpacePath,
    pub agent: NameOrId<AgentId>,
}

impl FromPath for AgentPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SpacePath::from_path(p)?, agent: p.get("agent")? })
    }
}

fn show(a: wharf_store::agents::Agent) -> api::AgentPackage {
    api::AgentPackage {
        id: a.id,
        name: a.name,
        description: a.description,
        labels: a.labels,
        active_version: a.active,
        created_at: a.created_at,
        updated_at: a.updated_at,
        resource_version: a.resource_version,
    }
}

fn show_version(v: Version, active: Option<i32>) -> api::AgentVersion {
    api::AgentVersion {
        version: v.version,
        active: active == Some(v.version),
        build: v.build,
        digest: v.digest,
        size_bytes: v.bytes,
        manifest: v.manifest,
        created_by: v.created_by,
        created_at: v.created_at,
    }
}

/// List agents
#[utoipa::path(get, path = "/v1/spaces/{space}/agents", tag = "agents", params(ListQuery),
    responses((status = 200, body = api::Page<api::AgentPackage>)))]
pub(crate) async fn list_agents(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::AgentPackage>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let agents = scope.agents().list(&page).await?;
    Ok(Json(view::page(agents, show)))
}

/// Make an agent
///
/// It has no version until a build of it succeeds.
#[utoipa::path(post, path = "/v1/spaces/{space}/agents", tag = "agents", request_body = api::CreateAgent,
    responses((status = 201, body = api::AgentPackage)))]
pub(crate) async fn create_agent(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Keyed { key, body }: Keyed<api::CreateAgent>,
) -> Result<(StatusCode, Json<api::AgentPackage>), Halt> {
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.agents().allow(&body.name).await?;
    let new = NewAgent { name: body.name, description: body.description, labels: body.labels };
    let agent = show(scope.agents().create(&permit, new).await?);
    scope.commit_reply(201, &agent).await?;
    Ok((StatusCode::CREATED, Json(agent)))
}

/// Get an agent
#[utoipa::path(get, path = "/v1/spaces/{space}/agents/{agent}", tag = "agents",
    responses((status = 200, body = api::AgentPackage)))]
pub(crate) async fn get_agent(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AgentPath>,
) -> Result<Json<api::AgentPackage>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    Ok(Json(show(scope.agents().permit(&at.agent, Verb::Get).await?.into_row())))
}

/// Change an agent
#[utoipa::path(patch, path = "/v1/spaces/{space}/agents/{agent}", tag = "agents", request_body = api::PatchAgent,
    responses((status = 200, body = api::AgentPackage)))]
pub(crate) async fn patch_agent(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AgentPath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchAgent>,
) -> Result<Json<api::AgentPackage>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.agents().permit(&at.agent, Verb::Update).await?;
    let patch =
        AgentPatch { description: body.description, labels: view::labels(&permit.labels, body.labels)? };
    let agent = show(scope.agents().update(&permit, patch, version).await?);
    scope.commit().await?;
    Ok(Json(agent))
}

/// Delete an agent
///
/// With its versions and builds. Sessions that have it keep it.
#[utoipa::path(delete, path = "/v1/spaces/{space}/agents/{agent}", tag = "agents", responses((status = 204)))]
pub(crate) async fn delete_agent(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AgentPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.agents().permit(&at.agent, Verb::Delete).await?;
    scope.agents().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List an agent's versions
///
/// Newest first, up to 500.
#[utoipa::path(get, path = "/v1/spaces/{space}/agents/{agent}/versions", tag = "agents",
    responses((status = 200, body = api::AgentVersions)))]
pub(crate) async fn list_agent_versions(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AgentPath>,
) -> Result<Json<api::AgentVersions>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.agents().permit(&at.agent, Verb::Get).await?;
    let versions = scope.agents().versions(&permit).await?;
    let items = versions.into_iter().map(|v| show_version(v, permit.active)).collect();
    Ok(Json(api::AgentVersions { items }))
}

/// Make a version the active one
///
/// Going back to an earlier version, or forward again. Sessions that run keep the version they have.
#[utoipa::path(post, path = "/v1/spaces/{space}/agents/{agent}/activate", tag = "agents",
    request_body = api::ActivateVersion, responses((status = 200, body = api::AgentPackage)))]
pub(crate) async fn activate_agent_version(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AgentPath>,
    Json(body): Json<api::ActivateVersion>,
) -> Result<Json<api::AgentPackage>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.agents().permit(&at.agent, Verb::Update).await?;
    let agent = show(scope.agents().activate(&permit, body.version).await?);
    scope.commit().await?;
    Ok(Json(agent))
}
