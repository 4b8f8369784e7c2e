//! Spaces: the tenant boundary.

use axum::extract::State;
use http::StatusCode;
use wharf_domain::quota::{self, Quotas};
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, limits};
use wharf_store::{NewSpace, SpacePatch};
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, Halt, IfMatch, Json, Keyed, ListQuery, Query, SpacePath};
use crate::problem::Problem;

/// List spaces
///
/// Those the caller may know of.
#[utoipa::path(get, path = "/v1/spaces", tag = "spaces", params(ListQuery),
    responses((status = 200, body = api::Page<api::Space>)))]
pub(crate) async fn list_spaces(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::Space>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.global(&caller).await?;
    let spaces = scope.spaces().list(&page).await?;
    Ok(Json(view::try_page(spaces, view::space)?))
}

/// Make a space
#[utoipa::path(post, path = "/v1/spaces", tag = "spaces", request_body = api::CreateSpace,
    responses((status = 201, body = api::Space)))]
pub(crate) async fn create_space(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Keyed { key, body }: Keyed<api::CreateSpace>,
) -> Result<(StatusCode, Json<api::Space>), Halt> {
    check_defaults(&body.defaults)?;
    check_quotas(&body.quotas)?;
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.global(&caller).await?;
    claim.attach(&mut scope);
    let permit = scope.spaces().allow(Verb::Create, &body.name).await?;
    let new = NewSpace {
        name: body.name,
        labels: body.labels,
        quotas: body.quotas,
        defaults: view::to_json(&body.defaults)?,
    };
    let space = view::space(scope.spaces().create(&permit, new).await?)?;
    scope.commit_reply(201, &space).await?;
    Ok((StatusCode::CREATED, Json(space)))
}

/// Get a space
#[utoipa::path(get, path = "/v1/spaces/{space}", tag = "spaces", responses((status = 200, body = api::Space)))]
pub(crate) async fn get_space(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
) -> Result<Json<api::Space>, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.spaces().permit(&at.space, Verb::Get).await?;
    Ok(Json(view::space(permit.into_row())?))
}

/// Change a space
#[utoipa::path(patch, path = "/v1/spaces/{space}", tag = "spaces", request_body = api::PatchSpace,
    responses((status = 200, body = api::Space)))]
pub(crate) async fn patch_space(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchSpace>,
) -> Result<Json<api::Space>, Problem> {
    if let Some(defaults) = &body.defaults {
        check_defaults(defaults)?;
    }
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.spaces().permit(&at.space, Verb::Update).await?;
    let quotas = body.quotas.map(|q| merged(&permit.quotas, q));
    if let Some(quotas) = &quotas {
        check_quotas(quotas)?;
    }
    let patch = SpacePatch {
        name: None,
        labels: view::labels(&permit.labels, body.labels)?,
        quotas,
        defaults: body.defaults.map(|d| view::to_json(&d)).transpose()?,
    };
    let space = view::space(scope.spaces().update(&permit, patch, version).await?)?;
    scope.commit().await?;
    Ok(Json(space))
}

/// Delete a space
///
/// Only an empty one: 409 names what is left in it.
#[utoipa::path(delete, path = "/v1/spaces/{space}", tag = "spaces", responses((status = 204)))]
pub(crate) async fn delete_space(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.spaces().permit(&at.space, Verb::Delete).await?;
    scope.spaces().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn merged(old: &Quotas, patch: api::QuotasPatch) -> Quotas {
    Quotas {
        sessions: patch.sessions.unwrap_or(old.sessions),
        running_sessions: patch.running_sessions.unwrap_or(old.running_sessions),
        cpu_millis: patch.cpu_millis.unwrap_or(old.cpu_millis),
        memory_mib: patch.memory_mib.unwrap_or(old.memory_mib),
        disk_mib: patch.disk_mib.unwrap_or(old.disk_mib),
        model_tokens_per_day: patch.model_tokens_per_day.unwrap_or(old.model_tokens_per_day),
        model_cost_micro_usd_per_day: patch
            .model_cost_micro_usd_per_day
            .unwrap_or(old.model_cost_micro_usd_per_day),
        egress_bytes_per_day: patch.egress_bytes_per_day.unwrap_or(old.egress_bytes_per_day),
        git_bytes: patch.git_bytes.unwrap_or(old.git_bytes),
        package_bytes: patch.package_bytes.unwrap_or(old.package_bytes),
    }
}

fn check_quotas(quotas: &Quotas) -> Result<(), Error> {
    let lines = [
        ("cpu_millis", quotas.cpu_millis),
        ("memory_mib", quotas.memory_mib),
        ("disk_mib", quotas.disk_mib),
        ("model_tokens_per_day", quotas.model_tokens_per_day),
        ("model_cost_micro_usd_per_day", quotas.model_cost_micro_usd_per_day),
        ("egress_bytes_per_day", quotas.egress_bytes_per_day),
        ("git_bytes", quotas.git_bytes),
        ("package_bytes", quotas.package_bytes),
    ];
    for (name, value) in lines {
        if value.is_some_and(|v| v > quota::MAX) {
            let detail = format!("{name} is at most {}; leave it out for no limit", quota::MAX);
            return Err(Error::new(Code::InvalidField, detail).field(format!("quotas.{name}")));
        }
    }
    Ok(())
}

fn check_defaults(defaults: &api::SpaceDefaults) -> Result<(), Error> {
    if let Some(resources) = defaults.resources {
        resources.over(wharf_domain::quota::Resources::default()).validate().map_err(|e| {
            let field = e.field.clone().unwrap_or_default();
            e.field(format!("defaults.{field}"))
        })?;
    }
    let hosts = defaults.build_egress.as_ref().map_or(0, Vec::len);
    if hosts > limits::EGRESS_PATTERNS {
        let most = limits::EGRESS_PATTERNS;
        let detail = format!("{hosts} patterns are too many; up to {most} are allowed (EGRESS_PATTERNS)");
        return Err(Error::new(Code::InvalidField, detail).field("defaults.build_egress"));
    }
    view::check_timeouts("defaults.", defaults.idle_timeout_seconds, defaults.turn_timeout_seconds)
}
