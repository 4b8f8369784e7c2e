//! Secrets of a space. A value goes in and does not come out again, except by `reveal`.

use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, NameOrId, Plain, SecretId, limits};
use wharf_store::{NewSecret, SecretPatch};
use wharf_wire::api;

use super::tokens::NO_STORE;
use super::view;
use crate::app::App;
use crate::extract::{
    At, Auth, FromPath, Halt, IfMatch, Json, Keyed, ListQuery, OptionalJson, Params, Query, SpacePath,
};
use crate::problem::Problem;

pub(crate) struct SecretPath {
    at: SpacePath,
    secret: NameOrId<SecretId>,
}

impl FromPath for SecretPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SpacePath::from_path(p)?, secret: p.get("secret")? })
    }
}

fn value(text: &api::Sensitive, encoding: api::Encoding) -> Result<Plain, Error> {
    let bytes = encoding.decode(text.expose()).map_err(|_| {
        Error::new(Code::InvalidField, "the value is not standard base64 with padding").field("value")
    })?;
    if bytes.is_empty() || bytes.len() > limits::SECRET_BYTES {
        let detail = format!("a value has 1 to {} bytes (SECRET_BYTES)", limits::SECRET_BYTES);
        return Err(Error::new(Code::InvalidField, detail).field("value"));
    }
    Ok(Plain::new(bytes))
}

/// List secrets, without their values
#[utoipa::path(get, path = "/v1/spaces/{space}/secrets", tag = "secrets", params(ListQuery),
    responses((status = 200, body = api::Page<api::Secret>)))]
pub(crate) async fn list_secrets(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<ListQuery>,
) -> Result<impl IntoResponse, Problem> {
    let page = query.page()?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let secrets = scope.secrets().list(&page).await?;
    Ok((NO_STORE, Json(view::page(secrets, view::secret))))
}

/// Make a secret
#[utoipa::path(post, path = "/v1/spaces/{space}/secrets", tag = "secrets", request_body = api::CreateSecret,
    responses((status = 201, body = api::Secret)))]
pub(crate) async fn create_secret(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Keyed { key, body }: Keyed<api::CreateSecret>,
) -> Result<impl IntoResponse, Halt> {
    let value = value(&body.value, body.encoding)?;
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.secrets().allow(Verb::Create, &body.name).await?;
    let new = NewSecret { name: body.name, value, labels: body.labels };
    let secret = view::secret(scope.secrets().create(&permit, new).await?);
    scope.commit_reply(201, &secret).await?;
    Ok((StatusCode::CREATED, NO_STORE, Json(secret)))
}

/// Get a secret, without its value
#[utoipa::path(get, path = "/v1/spaces/{space}/secrets/{secret}", tag = "secrets",
    responses((status = 200, body = api::Secret)))]
pub(crate) async fn get_secret(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SecretPath>,
) -> Result<impl IntoResponse, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.secrets().permit(&at.secret, Verb::Get).await?;
    Ok((NO_STORE, Json(view::secret(permit.into_row()))))
}

/// Change a secret
///
/// A new value is a new version.
#[utoipa::path(patch, path = "/v1/spaces/{space}/secrets/{secret}", tag = "secrets", request_body = api::PatchSecret,
    responses((status = 200, body = api::Secret)))]
pub(crate) async fn patch_secret(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SecretPath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchSecret>,
) -> Result<impl IntoResponse, Problem> {
    let value = body.value.as_ref().map(|v| value(v, body.encoding)).transpose()?;
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.secrets().permit(&at.secret, Verb::Update).await?;
    let patch = SecretPatch { value, labels: view::labels(&permit.labels, body.labels)? };
    let secret = view::secret(scope.secrets().update(&permit, patch, version).await?);
    scope.commit().await?;
    Ok((NO_STORE, Json(secret)))
}

/// Delete a secret
#[utoipa::path(delete, path = "/v1/spaces/{space}/secrets/{secret}", tag = "secrets", responses((status = 204)))]
pub(crate) async fn delete_secret(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SecretPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.secrets().permit(&at.secret, Verb::Delete).await?;
    scope.secrets().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read a secret's value
///
/// Needs the verb `read-values`. Whoever asks is in the audit log.
#[utoipa::path(post, path = "/v1/spaces/{space}/secrets/{secret}/reveal", tag = "secrets", request_body = api::Empty,
    responses((status = 200, body = api::SecretValue)))]
pub(crate) async fn reveal_secret(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SecretPath>,
    OptionalJson(_): OptionalJson<api::Empty>,
) -> Result<impl IntoResponse, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.secrets().permit(&at.secret, Verb::ReadValues).await?;
    let plain = scope.secrets().reveal(&permit).await?;
    // Answered only once the entry that says so is safe.
    scope.commit().await?;
    let (text, encoding) = api::Encoding::encode(plain.expose());
    let reply = api::SecretValue {
        name: permit.name.clone(),
        version: i64::from(permit.version),
        value: api::Sensitive::new(text),
        encoding,
    };
    Ok((NO_STORE, Json(reply)))
}
