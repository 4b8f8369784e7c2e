//! Role bindings: a role given to a principal, in one space or everywhere.

use axum::extract::State;
use http::StatusCode;
use wharf_domain::rbac::Verb;
use wharf_domain::{BindingId, Error, Name, NameOrId};
use wharf_store::NewBinding;
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, IfMatch, Json, Keyed, ListQuery, Params, Query};
use crate::problem::Problem;

pub(crate) struct BindingPath {
    binding: NameOrId<BindingId>,
}

impl FromPath for BindingPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { binding: p.get("role_binding")? })
    }
}

/// List role bindings
#[utoipa::path(get, path = "/v1/role-bindings", tag = "access", params(ListQuery),
    responses((status = 200, body = api::Page<api::RoleBinding>)))]
pub(crate) async fn list_role_bindings(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::RoleBinding>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.global(&caller).await?;
    let bindings = scope.bindings().list(&page).await?;
    Ok(Json(view::try_page(bindings, view::binding)?))
}

/// Make a role binding
///
/// Nobody can give what they may not do themselves.
#[utoipa::path(post, path = "/v1/role-bindings", tag = "access", request_body = api::CreateRoleBinding,
    responses((status = 201, body = api::RoleBinding)))]
pub(crate) async fn create_role_binding(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Keyed { key, body }: Keyed<api::CreateRoleBinding>,
) -> Result<(StatusCode, Json<api::RoleBinding>), Halt> {
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.global(&caller).await?;
    claim.attach(&mut scope);
    let name = match &body.name {
        Some(name) => name.clone(),
        None => made_up(&body)?,
    };
    let permit = scope.bindings().allow(Verb::Create, &name).await?;
    let new = NewBinding {
        name,
        role: NameOrId::Name(body.role),
        principal_kind: view::store_kind(body.principal.kind),
        principal: NameOrId::Name(body.principal.name),
        space: body.space.map(NameOrId::Name),
        labels: body.labels,
    };
    let binding = view::binding(scope.bindings().create(&permit, new).await?)?;
    scope.commit_reply(201, &binding).await?;
    Ok((StatusCode::CREATED, Json(binding)))
}

/// `principal-role[-space]`, cut to a name.
fn made_up(body: &api::CreateRoleBinding) -> Result<Name, Error> {
    let mut text = format!("{}-{}", body.principal.name, body.role);
    if let Some(space) = &body.space {
        text = format!("{text}-{space}");
    }
    text.truncate(63);
    text.trim_end_matches('-').parse()
}

/// Get a role binding
#[utoipa::path(get, path = "/v1/role-bindings/{role_binding}", tag = "access",
    responses((status = 200, body = api::RoleBinding)))]
pub(crate) async fn get_role_binding(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<BindingPath>,
) -> Result<Json<api::RoleBinding>, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.bindings().permit(&at.binding, Verb::Get).await?;
    Ok(Json(view::binding(permit.into_row())?))
}

/// Delete a role binding
///
/// Counts at once.
#[utoipa::path(delete, path = "/v1/role-bindings/{role_binding}", tag = "access", responses((status = 204)))]
pub(crate) async fn delete_role_binding(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<BindingPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.bindings().permit(&at.binding, Verb::Delete).await?;
    scope.bindings().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
