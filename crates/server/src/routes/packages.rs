//! Agents of a space, their versions, and which of them is the active one.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;
use wharf_domain::labels::Selector;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{AgentId, Error, NameOrId};
use wharf_store::agents::{AgentPatch, NewAgent, Version};
use wharf_store::{PageRequest, Scope};
use wharf_wire::api;

use super::list_watch::{self, Watched};
use super::view;
use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{
    At, Auth, FromPath, Halt, IfMatch, Json, Keyed, Params, Query, SpacePath, Upgrade, WatchQuery,
};
use crate::problem::Problem;
use crate::stream;

pub(crate) struct AgentPath {
    pub at: SpacePath,
    pub agent: NameOrId<AgentId>,
}

impl FromPath for AgentPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SpacePath::from_path(p)?, agent: p.get("agent")? })
    }
}

pub(crate) struct VersionPath {
    at: AgentPath,
    version: i32,
}

impl FromPath for VersionPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: AgentPath::from_path(p)?, version: p.id("version", "version")? })
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

struct Agents(Selector);

impl Watched for Agents {
    const RESOURCE: Resource = Resource::Agents;
    type Object = api::AgentPackage;

    async fn find(&self, scope: &mut Scope, id: Uuid) -> Result<Option<(String, api::AgentPackage)>, Error> {
        let at = NameOrId::Id(AgentId::from_uuid(id));
        let agent = show(scope.agents().permit(&at, Verb::Watch).await?.into_row());
        Ok(self.0.matches(&agent.labels).then(|| (agent.name.to_string(), agent)))
    }
}

/// List agents
///
/// `watch=true` sends what changes from `resource_version` on instead.
#[utoipa::path(get, path = "/v1/spaces/{space}/agents", tag = "agents", params(WatchQuery),
    responses((status = 200, description = "A page of agents, or their changes.", content(
        (api::WatchPage<api::AgentPackage> = "application/json"),
        (api::WatchEvent<api::AgentPackage> = "text/event-stream")))))]
pub(crate) async fn list_agents(
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
        let watch = list_watch::open(&app, &auth, at.space, from, &headers, Agents(page.labels)).await?;
        return Ok(stream::answer(&app, context, upgrade, watch));
    }
    let mut scope = app.store.scope(&auth.caller, &at.space).await?;
    let position = scope.position().await?;
    let agents = scope.agents().list(&page).await?;
    Ok(Json(list_watch::page(view::page(agents, show), position)).into_response())
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

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct VersionsQuery {
    /// Entries of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 200)]
    cursor: Option<String>,
}

/// List an agent's versions
///
/// Newest first. A version never changes; that there is a new one, or another active one, is a change of the agent.
#[utoipa::path(get, path = "/v1/spaces/{space}/agents/{agent}/versions", tag = "agents", params(VersionsQuery),
    responses((status = 200, body = api::Page<api::AgentVersion>)))]
pub(crate) async fn list_agent_versions(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AgentPath>,
    Query(query): Query<VersionsQuery>,
) -> Result<Json<api::Page<api::AgentVersion>>, Problem> {
    let page = PageRequest::new(query.limit, query.cursor.as_deref(), None)?;
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.agents().permit(&at.agent, Verb::Get).await?;
    let versions = scope.agents().versions(&permit, &page).await?;
    Ok(Json(view::page(versions, |v| show_version(v, permit.active))))
}

/// Delete a version of an agent
///
/// Frees what it holds of the quota `package_bytes`. Refused for the active version, and while a session has it.
#[utoipa::path(delete, path = "/v1/spaces/{space}/agents/{agent}/versions/{version}", tag = "agents",
    responses((status = 204)))]
pub(crate) async fn delete_agent_version(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<VersionPath>,
    IfMatch(if_version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.at.space).await?;
    let permit = scope.agents().permit(&at.at.agent, Verb::Delete).await?;
    scope.agents().delete_version(&permit, at.version, if_version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
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
