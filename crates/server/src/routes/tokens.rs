//! API tokens of service accounts.

use std::time::Duration;

use axum::extract::State;
use http::{HeaderName, HeaderValue, StatusCode, header};
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, NameOrId, TokenId};
use wharf_store::NewApiToken;
use wharf_wire::api;

use super::service_accounts::AccountPath;
use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, Json, Keyed, ListQuery, Params, Query};
use crate::problem::Problem;

/// When the caller does not say: long enough for a program, short enough to be noticed.
const LIFETIME_SECONDS: u32 = 90 * 24 * 3600;

pub(super) const NO_STORE: [(HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

pub(crate) struct TokenPath {
    at: AccountPath,
    token: NameOrId<TokenId>,
}

impl FromPath for TokenPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: AccountPath::from_path(p)?, token: p.get("token")? })
    }
}

/// List a service account's API tokens
#[utoipa::path(get, path = "/v1/service-accounts/{service_account}/tokens", tag = "principals", params(ListQuery),
    responses((status = 200, body = api::Page<api::ApiToken>)))]
pub(crate) async fn list_tokens(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AccountPath>,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::ApiToken>>, Problem> {
    if query.labels.is_some() {
        return Err(Error::new(Code::InvalidField, "tokens have no labels").field("labels").into());
    }
    let page = query.page()?;
    let mut scope = app.store.global(&caller).await?;
    let owner = scope.service_accounts().permit(&at.account, Verb::Get).await?;
    let tokens = scope.tokens(&owner).list(&page).await?;
    Ok(Json(view::page(tokens, view::token)))
}

/// Make an API token
///
/// The token itself is in this answer and nowhere else: a hash of it is kept. A repetition under the same
/// `Idempotency-Key` is therefore refused instead of answered.
#[utoipa::path(post, path = "/v1/service-accounts/{service_account}/tokens", tag = "principals",
    request_body = api::CreateToken, responses((status = 201, body = api::NewToken)))]
pub(crate) async fn create_token(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AccountPath>,
    Keyed { key, body }: Keyed<api::CreateToken>,
) -> Result<(StatusCode, [(HeaderName, HeaderValue); 1], Json<api::NewToken>), Halt> {
    let lifetime = body.expires_in_seconds.unwrap_or(LIFETIME_SECONDS);
    if !(1..=315_360_000).contains(&lifetime) {
        let detail = "a token lives 1 second to 10 years";
        return Err(Error::new(Code::InvalidField, detail).field("expires_in_seconds").into());
    }
    let claim = key.claim(&app, &caller).await.map_err(|halt| match halt {
        Halt::Replay { .. } => Halt::Problem(Error::new(
            Code::AlreadyExists,
            "the first request with this Idempotency-Key made the token, and its secret part is shown only once; \
             delete the token and make another",
        )),
        halt @ Halt::Problem(_) => halt,
    })?;
    let mut scope = app.store.global(&caller).await?;
    claim.attach(&mut scope);
    let owner = scope.service_accounts().permit(&at.account, Verb::Get).await?;
    let mut tokens = scope.tokens(&owner);
    let permit = tokens.allow(Verb::Create, &body.name).await?;
    let new =
        NewApiToken { name: body.name, rules: body.rules, lifetime: Duration::from_secs(lifetime.into()) };
    let issued = tokens.create(&permit, new).await?;
    let row = issued.row;
    let reply = api::NewToken {
        id: row.id,
        name: row.name,
        token: view::sensitive(&issued.token)?,
        expires_at: row.expires_at,
        created_at: row.created_at,
    };
    // What is kept for a repetition has no secret in it.
    scope.commit_reply(201, &serde_json::json!({"id": reply.id})).await?;
    Ok((StatusCode::CREATED, NO_STORE, Json(reply)))
}

/// Get an API token, without its secret part
#[utoipa::path(get, path = "/v1/service-accounts/{service_account}/tokens/{token}", tag = "principals",
    responses((status = 200, body = api::ApiToken)))]
pub(crate) async fn get_token(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<TokenPath>,
) -> Result<Json<api::ApiToken>, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let owner = scope.service_accounts().permit(&at.at.account, Verb::Get).await?;
    let permit = scope.tokens(&owner).permit(&at.token, Verb::Get).await?;
    Ok(Json(view::token(permit.into_row())))
}

/// Delete an API token
///
/// It stops working at once.
#[utoipa::path(delete, path = "/v1/service-accounts/{service_account}/tokens/{token}", tag = "principals",
    responses((status = 204)))]
pub(crate) async fn delete_token(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<TokenPath>,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let owner = scope.service_accounts().permit(&at.at.account, Verb::Get).await?;
    let permit = scope.tokens(&owner).permit(&at.token, Verb::Delete).await?;
    scope.tokens(&owner).delete(&permit).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
