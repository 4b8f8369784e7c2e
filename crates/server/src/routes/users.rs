//! Users: people who log in.

use axum::extract::State;
use http::StatusCode;
use wharf_domain::rbac::Verb;
use wharf_domain::{Error, NameOrId, UserId};
use wharf_store::{NewPrincipal, PrincipalPatch};
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, IfMatch, Json, Keyed, ListQuery, Params, Query};
use crate::problem::Problem;

pub(crate) struct UserPath {
    user: NameOrId<UserId>,
}

impl FromPath for UserPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { user: p.get("user")? })
    }
}

/// List users
#[utoipa::path(get, path = "/v1/users", tag = "principals", params(ListQuery),
    responses((status = 200, body = api::Page<api::User>)))]
pub(crate) async fn list_users(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::User>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.global(&caller).await?;
    let users = scope.users().list(&page).await?;
    Ok(Json(view::page(users, view::user)))
}

/// Make a user
#[utoipa::path(post, path = "/v1/users", tag = "principals", request_body = api::CreateUser,
    responses((status = 201, body = api::User)))]
pub(crate) async fn create_user(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Keyed { key, body }: Keyed<api::CreateUser>,
) -> Result<(StatusCode, Json<api::User>), Halt> {
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.global(&caller).await?;
    claim.attach(&mut scope);
    let permit = scope.users().allow(Verb::Create, &body.name).await?;
    let new = NewPrincipal {
        display_name: body.display_name.unwrap_or_else(|| body.name.to_string()),
        name: body.name,
        labels: body.labels,
        password: Some(view::plain(body.password)),
    };
    let user = view::user(scope.users().create(&permit, new).await?);
    scope.commit_reply(201, &user).await?;
    Ok((StatusCode::CREATED, Json(user)))
}

/// Get a user
#[utoipa::path(get, path = "/v1/users/{user}", tag = "principals", responses((status = 200, body = api::User)))]
pub(crate) async fn get_user(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<UserPath>,
) -> Result<Json<api::User>, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.users().permit(&at.user, Verb::Get).await?;
    Ok(Json(view::user(permit.into_row())))
}

/// Change a user
///
/// Setting a password or disabling someone needs every right that user has.
#[utoipa::path(patch, path = "/v1/users/{user}", tag = "principals", request_body = api::PatchUser,
    responses((status = 200, body = api::User)))]
pub(crate) async fn patch_user(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<UserPath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchUser>,
) -> Result<Json<api::User>, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.users().permit(&at.user, Verb::Update).await?;
    let patch = PrincipalPatch {
        display_name: body.display_name,
        labels: view::labels(&permit.labels, body.labels)?,
        disabled: body.disabled,
        password: body.password.map(view::plain),
    };
    let user = view::user(scope.users().update(&permit, patch, version).await?);
    scope.commit().await?;
    Ok(Json(user))
}

/// Delete a user
///
/// Its role bindings and logins go with it.
#[utoipa::path(delete, path = "/v1/users/{user}", tag = "principals", responses((status = 204)))]
pub(crate) async fn delete_user(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<UserPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.users().permit(&at.user, Verb::Delete).await?;
    scope.users().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
