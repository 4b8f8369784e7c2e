//! Model providers of a space. The key is the gateway's business; here it is the name of a secret.

use axum::extract::State;
use http::StatusCode;
use serde_json::Value;
use wharf_domain::model::{Protocol, ProviderSpec};
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, NameOrId, ProviderId};
use wharf_store::{NewProvider, ProviderPatch};
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, IfMatch, Json, Keyed, ListQuery, Params, Query, SpacePath};
use crate::problem::Problem;

/// How often a request is tried again when the provider does not say; what the vendors' own clients do.
const RETRIES: u8 = 2;

pub(crate) struct ProviderPath {
    at: SpacePath,
    provider: NameOrId<ProviderId>,
}

impl FromPath for ProviderPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SpacePath::from_path(p)?, provider: p.get("provider")? })
    }
}

/// List model providers
#[utoipa::path(get, path = "/v1/spaces/{space}/providers", tag = "providers", params(ListQuery),
    responses((status = 200, body = api::Page<api::Provider>)))]
pub(crate) async fn list_providers(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::Provider>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let providers = scope.providers().list(&page).await?;
    Ok(Json(view::page(providers, view::provider)))
}

/// Make a model provider
///
/// Sessions of the space reach it at `http://gateway/{name}/…`, with the provider's own paths below; the gateway adds the
/// key. The names `anthropic` and `openai` need no protocol. Whoever may do this decides where the secret's value is
/// sent.
#[utoipa::path(post, path = "/v1/spaces/{space}/providers", tag = "providers", request_body = api::CreateProvider,
    responses((status = 201, body = api::Provider)))]
pub(crate) async fn create_provider(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Keyed { key, body }: Keyed<api::CreateProvider>,
) -> Result<(StatusCode, Json<api::Provider>), Halt> {
    let named = match body.name.as_str() {
        "anthropic" => Some(Protocol::Anthropic),
        "openai" => Some(Protocol::Openai),
        _ => None,
    };
    let protocol = body.protocol.or(named).ok_or_else(|| {
        let detail = "say which protocol it speaks: anthropic, openai or scripted";
        Error::new(Code::InvalidField, detail).field("protocol")
    })?;
    let spec = ProviderSpec {
        protocol,
        base_url: body.base_url,
        secret: body.secret,
        key_header: body.key_header,
        headers: body.headers,
        models: body.models,
        prices: body.prices,
        budget: body.budget,
        retries: body.retries.unwrap_or(RETRIES),
        script: body.script,
    };
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.providers().allow(Verb::Create, &body.name).await?;
    let new = NewProvider { name: body.name, labels: body.labels, spec };
    let provider = view::provider(scope.providers().create(&permit, new).await?);
    scope.commit_reply(201, &provider).await?;
    Ok((StatusCode::CREATED, Json(provider)))
}

/// Get a model provider
#[utoipa::path(get, path = "/v1/spaces/{space}/providers/{provider}", tag = "providers",
    responses((status = 200, body = api::Provider)))]
pub(crate) async fn get_provider(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ProviderPath>,
) -> Result<Json<api::Provider>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.providers().permit(&at.provider, Verb::Get).await?;
    Ok(Json(view::provider(permit.into_row())))
}

/// Change a model provider
///
/// Requests that are under way go on as they were.
#[utoipa::path(patch, path = "/v1/spaces/{space}/providers/{provider}", tag = "providers",
    request_body = api::PatchProvider, responses((status = 200, body = api::Provider)))]
pub(crate) async fn patch_provider(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ProviderPath>,
    IfMatch(version): IfMatch,
    Json(mut body): Json<api::PatchProvider>,
) -> Result<Json<api::Provider>, Problem> {
    let labels = body.labels.take();
    // A script is replaced whole: its `repeat` would stay behind in a merge.
    let script = body.script.take();
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.providers().permit(&at.provider, Verb::Update).await?;
    let mut spec = patched(&permit.spec, &body)?;
    spec.script = script.or(spec.script);
    let patch = ProviderPatch { labels: view::labels(&permit.labels, labels)?, spec: Some(spec) };
    let provider = view::provider(scope.providers().update(&permit, patch, version).await?);
    scope.commit().await?;
    Ok(Json(provider))
}

/// Delete a model provider
///
/// What was used of it stays in the space's usage.
#[utoipa::path(delete, path = "/v1/spaces/{space}/providers/{provider}", tag = "providers", responses((status = 204)))]
pub(crate) async fn delete_provider(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ProviderPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.providers().permit(&at.provider, Verb::Delete).await?;
    scope.providers().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The spec after the merge patch. What was checked field by field may still be wrong together.
fn patched(old: &ProviderSpec, patch: &api::PatchProvider) -> Result<ProviderSpec, Error> {
    let (Value::Object(old), Value::Object(patch)) = (view::to_json(old)?, view::to_json(patch)?) else {
        return Err(Error::internal("a provider is an object"));
    };
    serde_json::from_value(Value::Object(view::merged(&old, patch)))
        .map_err(|e| Error::new(Code::InvalidField, format!("the provider would not be whole: {e}")))
}
