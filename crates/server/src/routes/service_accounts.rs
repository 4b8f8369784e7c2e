//! Service accounts: identities of programs.

use axum::extract::State;
use http::StatusCode;
use wharf_domain::rbac::Verb;
use wharf_domain::{Error, NameOrId, ServiceAccountId};
use wharf_store::{NewPrincipal, PrincipalPatch};
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, IfMatch, Json, Keyed, ListQuery, Params, Query};
use crate::problem::Problem;

pub(crate) struct AccountPath {
    pub account: NameOrId<ServiceAccountId>,
}

impl FromPath for AccountPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { account: p.get("service_account")? })
    }
}

/// List service accounts
#[utoipa::path(get, path = "/v1/service-accounts", tag = "principals", params(ListQuery),
    responses((status = 200, body = api::Page<api::ServiceAccount>)))]
pub(crate) async fn list_service_accounts(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::ServiceAccount>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.global(&caller).await?;
    let accounts = scope.service_accounts().list(&page).await?;
    Ok(Json(view::page(accounts, view::service_account)))
}

/// Make a service account
#[utoipa::path(post, path = "/v1/service-accounts", tag = "principals", request_body = api::CreateServiceAccount,
    responses((status = 201, body = api::ServiceAccount)))]
pub(crate) async fn create_service_account(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Keyed { key, body }: Keyed<api::CreateServiceAccount>,
) -> Result<(StatusCode, Json<api::ServiceAccount>), Halt> {
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.global(&caller).await?;
    claim.attach(&mut scope);
    let permit = scope.service_accounts().allow(Verb::Create, &body.name).await?;
    let new = NewPrincipal {
        name: body.name,
        display_name: body.description.unwrap_or_default(),
        labels: body.labels,
        password: None,
    };
    let account = view::service_account(scope.service_accounts().create(&permit, new).await?);
    scope.commit_reply(201, &account).await?;
    Ok((StatusCode::CREATED, Json(account)))
}

/// Get a service account
#[utoipa::path(get, path = "/v1/service-accounts/{service_account}", tag = "principals", responses((status = 200, body = api::ServiceAccount)))]
pub(crate) async fn get_service_account(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AccountPath>,
) -> Result<Json<api::ServiceAccount>, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.service_accounts().permit(&at.account, Verb::Get).await?;
    Ok(Json(view::service_account(permit.into_row())))
}

/// Change a service account
///
/// Disabling one needs every right it has.
#[utoipa::path(patch, path = "/v1/service-accounts/{service_account}", tag = "principals", request_body = api::PatchServiceAccount,
    responses((status = 200, body = api::ServiceAccount)))]
pub(crate) async fn patch_service_account(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AccountPath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchServiceAccount>,
) -> Result<Json<api::ServiceAccount>, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.service_accounts().permit(&at.account, Verb::Update).await?;
    let patch = PrincipalPatch {
        display_name: body.description,
        labels: view::labels(&permit.labels, body.labels)?,
        disabled: body.disabled,
        password: None,
    };
    let account = view::service_account(scope.service_accounts().update(&permit, patch, version).await?);
    scope.commit().await?;
    Ok(Json(account))
}

/// Delete a service account
///
/// Its role bindings and API tokens go with it.
#[utoipa::path(delete, path = "/v1/service-accounts/{service_account}", tag = "principals", responses((status = 204)))]
pub(crate) async fn delete_service_account(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AccountPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.service_accounts().permit(&at.account, Verb::Delete).await?;
    scope.service_accounts().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
