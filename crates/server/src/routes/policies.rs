//! Policies of a space: the guardrails of its sessions.

use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use wharf_domain::guard::{PRIORITY, PRIORITY_MAX};
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, NameOrId, PolicyId};
use wharf_store::{NewPolicy, Policy, PolicyPatch};
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, IfMatch, Json, Keyed, ListQuery, Params, Query, SpacePath};
use crate::problem::Problem;

pub(crate) struct PolicyPath {
    at: SpacePath,
    policy: NameOrId<PolicyId>,
}

impl FromPath for PolicyPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SpacePath::from_path(p)?, policy: p.get("policy")? })
    }
}

fn show(p: Policy) -> api::Policy {
    api::Policy {
        id: p.id,
        name: p.name,
        priority: p.priority,
        rules: p.rules,
        labels: p.labels,
        created_at: p.created_at,
        updated_at: p.updated_at,
        resource_version: p.resource_version,
    }
}

fn priority(given: Option<u16>) -> Result<Option<u16>, Error> {
    if given.is_some_and(|p| p > PRIORITY_MAX) {
        let detail = format!("a priority is 0 to {PRIORITY_MAX}; the smaller is asked first");
        return Err(Error::new(Code::InvalidField, detail).field("priority"));
    }
    Ok(given)
}

/// List policies
#[utoipa::path(get, path = "/v1/spaces/{space}/policies", tag = "guardrails", params(ListQuery),
    responses((status = 200, body = api::Page<api::Policy>)))]
pub(crate) async fn list_policies(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::Policy>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let policies = scope.policies().list(&page).await?;
    Ok(Json(view::page(policies, show)))
}

/// Make a policy
///
/// Its rules are asked in their order, those of the policy with the smallest priority first; the first that matches decides. It holds for
/// every session of the space from their next request on.
#[utoipa::path(post, path = "/v1/spaces/{space}/policies", tag = "guardrails", request_body = api::CreatePolicy,
    responses((status = 201, body = api::Policy)))]
pub(crate) async fn create_policy(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Keyed { key, body }: Keyed<api::CreatePolicy>,
) -> Result<impl IntoResponse, Halt> {
    wharf_guard::check(&body.rules)?;
    let new = NewPolicy {
        name: body.name,
        labels: body.labels,
        priority: priority(body.priority)?.unwrap_or(PRIORITY),
        rules: body.rules,
    };
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.policies().allow(&new.name).await?;
    let policy = show(scope.policies().create(&permit, new).await?);
    scope.commit_reply(201, &policy).await?;
    Ok((StatusCode::CREATED, Json(policy)))
}

/// Get a policy
#[utoipa::path(get, path = "/v1/spaces/{space}/policies/{policy}", tag = "guardrails",
    responses((status = 200, body = api::Policy)))]
pub(crate) async fn get_policy(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<PolicyPath>,
) -> Result<Json<api::Policy>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.policies().permit(&at.policy, Verb::Get).await?;
    Ok(Json(show(permit.into_row())))
}

/// Change a policy
///
/// Approvals that wait go on waiting: they were asked for by the rules of their time.
#[utoipa::path(patch, path = "/v1/spaces/{space}/policies/{policy}", tag = "guardrails",
    request_body = api::PatchPolicy, responses((status = 200, body = api::Policy)))]
pub(crate) async fn patch_policy(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<PolicyPath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchPolicy>,
) -> Result<Json<api::Policy>, Problem> {
    if let Some(rules) = &body.rules {
        wharf_guard::check(rules)?;
    }
    let priority = priority(body.priority)?;
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.policies().permit(&at.policy, Verb::Update).await?;
    let patch =
        PolicyPatch { labels: view::labels(&permit.labels, body.labels)?, priority, rules: body.rules };
    let policy = show(scope.policies().update(&permit, patch, version).await?);
    scope.commit().await?;
    Ok(Json(policy))
}

/// Delete a policy
#[utoipa::path(delete, path = "/v1/spaces/{space}/policies/{policy}", tag = "guardrails",
    responses((status = 204)))]
pub(crate) async fn delete_policy(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<PolicyPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.policies().permit(&at.policy, Verb::Delete).await?;
    scope.policies().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
