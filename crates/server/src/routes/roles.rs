//! Roles: named lists of rules.

use axum::extract::State;
use http::StatusCode;
use wharf_domain::rbac::Verb;
use wharf_domain::{Error, NameOrId, RoleId};
use wharf_store::{NewRole, RolePatch};
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, IfMatch, Json, Keyed, ListQuery, Params, Query};
use crate::problem::Problem;

pub(crate) struct RolePath {
    role: NameOrId<RoleId>,
}

impl FromPath for RolePath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { role: p.get("role")? })
    }
}

/// List roles
#[utoipa::path(get, path = "/v1/roles", tag = "access", params(ListQuery),
    responses((status = 200, body = api::Page<api::Role>)))]
pub(crate) async fn list_roles(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::Role>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.global(&caller).await?;
    let roles = scope.roles().list(&page).await?;
    Ok(Json(view::page(roles, view::role)))
}

/// Make a role
///
/// Nobody can put into a role what they may not do themselves.
#[utoipa::path(post, path = "/v1/roles", tag = "access", request_body = api::CreateRole,
    responses((status = 201, body = api::Role)))]
pub(crate) async fn create_role(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Keyed { key, body }: Keyed<api::CreateRole>,
) -> Result<(StatusCode, Json<api::Role>), Halt> {
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.global(&caller).await?;
    claim.attach(&mut scope);
    let permit = scope.roles().allow(Verb::Create, &body.name).await?;
    let new = NewRole { name: body.name, rules: body.rules, labels: body.labels };
    let role = view::role(scope.roles().create(&permit, new).await?);
    scope.commit_reply(201, &role).await?;
    Ok((StatusCode::CREATED, Json(role)))
}

/// Get a role
#[utoipa::path(get, path = "/v1/roles/{role}", tag = "access", responses((status = 200, body = api::Role)))]
pub(crate) async fn get_role(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<RolePath>,
) -> Result<Json<api::Role>, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.roles().permit(&at.role, Verb::Get).await?;
    Ok(Json(view::role(permit.into_row())))
}

/// Change a role
///
/// Counts at once for everybody who has it.
#[utoipa::path(patch, path = "/v1/roles/{role}", tag = "access", request_body = api::PatchRole,
    responses((status = 200, body = api::Role)))]
pub(crate) async fn patch_role(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<RolePath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchRole>,
) -> Result<Json<api::Role>, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.roles().permit(&at.role, Verb::Update).await?;
    let patch = RolePatch { rules: body.rules, labels: view::labels(&permit.labels, body.labels)? };
    let role = view::role(scope.roles().update(&permit, patch, version).await?);
    scope.commit().await?;
    Ok(Json(role))
}

/// Delete a role
///
/// One that is bound cannot be deleted.
#[utoipa::path(delete, path = "/v1/roles/{role}", tag = "access", responses((status = 204)))]
pub(crate) async fn delete_role(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<RolePath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.roles().permit(&at.role, Verb::Delete).await?;
    scope.roles().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
