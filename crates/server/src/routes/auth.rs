//! Login, tokens, impersonation, and the question "may I?".

use std::time::Duration;

use axum::extract::State;
use http::{HeaderName, HeaderValue, StatusCode};
use wharf_domain::{Code, Error, NameOrId};
use wharf_store::{Review, Tokens};
use wharf_wire::api;

use super::tokens::NO_STORE;
use super::view;
use crate::app::App;
use crate::extract::{Anonymous, Auth, Json, OptionalJson};
use crate::problem::Problem;

type NoStore = [(HeaderName, HeaderValue); 1];

/// The keys that verify access tokens
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "auth", responses((status = 200, body = api::Jwks)))]
pub(crate) async fn jwks(State(app): State<App>) -> Result<Json<api::Jwks>, Problem> {
    let jwks = serde_json::to_value(app.store.jwks().await?).map_err(Error::internal)?;
    Ok(Json(serde_json::from_value(jwks).map_err(Error::internal)?))
}

fn pair(app: &App, tokens: &Tokens) -> Result<api::TokenPair, Error> {
    Ok(api::TokenPair {
        access_token: view::sensitive(&tokens.access_token)?,
        token_type: "Bearer".to_owned(),
        expires_in_seconds: view::seconds_until(app.clock.now(), tokens.access_expires_at),
        refresh_token: Some(view::sensitive(&tokens.refresh_token)?),
        refresh_expires_at: Some(tokens.refresh_expires_at),
    })
}

/// Log in with a password
///
/// Failures lock the account and the address for a while: 429 says for how long.
#[utoipa::path(post, path = "/v1/auth/login", tag = "auth", request_body = api::LoginRequest,
    responses((status = 200, body = api::TokenPair)))]
pub(crate) async fn login(
    State(app): State<App>,
    Anonymous(meta): Anonymous,
    Json(body): Json<api::LoginRequest>,
) -> Result<(NoStore, Json<api::TokenPair>), Problem> {
    if body.password.expose().len() > 1024 {
        return Err(Error::new(Code::InvalidField, "a password has up to 1024 bytes")
            .field("password")
            .into());
    }
    let tokens = app.store.login(body.username.as_str(), &view::plain(body.password), meta).await?;
    Ok((NO_STORE, Json(pair(&app, &tokens)?)))
}

/// Exchange a refresh token for a new pair
///
/// Each works once. One that comes back a second time ends the whole login: somebody copied it.
#[utoipa::path(post, path = "/v1/auth/token", tag = "auth", request_body = api::RefreshRequest,
    responses((status = 200, body = api::TokenPair)))]
pub(crate) async fn refresh(
    State(app): State<App>,
    Anonymous(meta): Anonymous,
    Json(body): Json<api::RefreshRequest>,
) -> Result<(NoStore, Json<api::TokenPair>), Problem> {
    let tokens = app.store.refresh(&view::plain(body.refresh_token), meta).await?;
    Ok((NO_STORE, Json(pair(&app, &tokens)?)))
}

/// End the login the access token came from
///
/// Its access and refresh tokens stop working at once. A caller with an API token has no login to end: nothing happens.
#[utoipa::path(post, path = "/v1/auth/logout", tag = "auth", request_body = api::Empty, responses((status = 204)))]
pub(crate) async fn logout(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    OptionalJson(_): OptionalJson<api::Empty>,
) -> Result<StatusCode, Problem> {
    app.store.logout(&caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who the caller is and what the caller may do
#[utoipa::path(get, path = "/v1/auth/me", tag = "auth", responses((status = 200, body = api::Me)))]
pub(crate) async fn me(Auth { caller, .. }: Auth) -> Result<Json<api::Me>, Problem> {
    let rights = caller.rights();
    Ok(Json(api::Me {
        id: caller.identity().id,
        principal: view::principal(caller.identity())?,
        impersonator: caller.impersonator().map(view::principal).transpose()?,
        grants: rights.grants.iter().map(view::grant).collect(),
        subset: rights.subset.clone(),
    }))
}

/// Act as somebody else for a while
///
/// Needs the verb `impersonate` and every right that principal has. Both names are in each audit entry.
#[utoipa::path(post, path = "/v1/auth/impersonate", tag = "auth", request_body = api::ImpersonateRequest,
    responses((status = 200, body = api::TokenPair)))]
pub(crate) async fn impersonate(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Json(body): Json<api::ImpersonateRequest>,
) -> Result<(NoStore, Json<api::TokenPair>), Problem> {
    let scope = app.store.global(&caller).await?;
    let kind = view::store_kind(body.principal.kind);
    let lifetime = Duration::from_secs(body.seconds.into());
    let (token, expires_at, _) =
        scope.impersonate(kind, &NameOrId::Name(body.principal.name), lifetime).await?;
    let pair = api::TokenPair {
        access_token: view::sensitive(&token)?,
        token_type: "Bearer".to_owned(),
        expires_in_seconds: view::seconds_until(app.clock.now(), expires_at),
        refresh_token: None,
        refresh_expires_at: None,
    };
    Ok((NO_STORE, Json(pair)))
}

/// May I?
///
/// And which binding says so.
#[utoipa::path(post, path = "/v1/access-review", tag = "auth", request_body = api::AccessReviewRequest,
    responses((status = 200, body = api::AccessReview)))]
pub(crate) async fn review_access(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Json(body): Json<api::AccessReviewRequest>,
) -> Result<Json<api::AccessReview>, Problem> {
    if body.resource.group() != body.group {
        let detail = format!("{} is in the group {}", body.resource, body.resource.group());
        return Err(Error::new(Code::InvalidField, detail).field("group").into());
    }
    let review = Review {
        verb: body.verb,
        resource: body.resource,
        name: body.name,
        space: body.space.map(NameOrId::Name),
    };
    let answer = app.store.global(&caller).await?.review(&review).await?;
    Ok(Json(api::AccessReview {
        allowed: answer.allowed,
        binding: answer.binding,
        role: answer.role,
        reason: answer.reason,
    }))
}
