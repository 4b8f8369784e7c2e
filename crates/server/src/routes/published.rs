//! Published copies of a space: what there is, links to them, and their end.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use uuid::Uuid;
use wharf_domain::labels::Selector;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, NameOrId, PublishedId, limits};
use wharf_store::Scope;
use wharf_store::published::Published;
use wharf_wire::api;

use super::list_watch::{self, Watched};
use super::tokens::NO_STORE;
use super::view;
use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{
    At, Auth, FromPath, IfMatch, Json, OptionalJson, Params, Query, SpacePath, Upgrade, WatchQuery,
};
use crate::problem::Problem;
use crate::stream;

pub(crate) struct PublishedPath {
    at: SpacePath,
    published: NameOrId<PublishedId>,
}

impl FromPath for PublishedPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SpacePath::from_path(p)?, published: p.get("published")? })
    }
}

pub(super) fn address(app: &App, link: &str) -> String {
    format!("{}/published/{link}/", app.settings.url().trim_end_matches('/'))
}

pub(super) fn show(app: &App, p: Published) -> api::Published {
    api::Published {
        id: p.id,
        name: p.name,
        session: p.session,
        session_name: p.session_name,
        paths: p.paths,
        visibility: if p.public { api::Visibility::Public } else { api::Visibility::Link },
        url: p.public.then(|| address(app, &p.slug)),
        files: p.files,
        size_bytes: p.bytes,
        left_out: p.left_out,
        expires_at: p.expires_at,
        labels: p.labels,
        created_at: p.created_at,
        resource_version: p.resource_version,
    }
}

struct Copies {
    app: App,
    labels: Selector,
}

impl Watched for Copies {
    const RESOURCE: Resource = Resource::Published;
    type Object = api::Published;

    async fn find(&self, scope: &mut Scope, id: Uuid) -> Result<Option<(String, api::Published)>, Error> {
        let at = NameOrId::Id(PublishedId::from_uuid(id));
        let copy = show(&self.app, scope.published().permit(&at, Verb::Watch).await?.into_row());
        Ok(self.labels.matches(&copy.labels).then(|| (copy.name.to_string(), copy)))
    }
}

/// List a space's published copies
///
/// Those of deleted sessions too. `watch=true` sends what changes from `resource_version` on instead.
#[utoipa::path(get, path = "/v1/spaces/{space}/published", tag = "published", params(WatchQuery),
    responses((status = 200, description = "A page of published copies, or their changes.", content(
        (api::WatchPage<api::Published> = "application/json"),
        (api::WatchEvent<api::Published> = "text/event-stream")))))]
pub(crate) async fn list_published(
    State(app): State<App>,
    context: RequestContext,
    auth: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<WatchQuery>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let page = query.page()?;
    let from = query.resource_version.as_deref();
    if list_watch::is_watch(query.watch, from, query.is_paged())? {
        let watched = Copies { app: app.clone(), labels: page.labels };
        let watch = list_watch::open(&app, &auth, at.space, from, &headers, watched).await?;
        return Ok(stream::answer(&app, context, upgrade, watch));
    }
    let mut scope = app.store.scope(&auth.caller, &at.space).await?;
    let position = scope.position().await?;
    let found = scope.published().list(None, &page).await?;
    let found = view::page(found, |p| show(&app, p));
    Ok(Json(list_watch::page(found, position)).into_response())
}

/// Get a published copy
#[utoipa::path(get, path = "/v1/spaces/{space}/published/{published}", tag = "published",
    responses((status = 200, body = api::Published)))]
pub(crate) async fn get_published(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<PublishedPath>,
) -> Result<Json<api::Published>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.published().permit(&at.published, Verb::Get).await?;
    Ok(Json(show(&app, permit.into_row())))
}

/// Delete a published copy
///
/// Its address and all links to it end at once.
#[utoipa::path(delete, path = "/v1/spaces/{space}/published/{published}", tag = "published",
    responses((status = 204)))]
pub(crate) async fn delete_published(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<PublishedPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.published().permit(&at.published, Verb::Delete).await?;
    scope.published().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sign a link to a published copy
///
/// Whoever has it may read the copy until it expires, is revoked, or the copy ends. Of a public copy it is the address.
#[utoipa::path(post, path = "/v1/spaces/{space}/published/{published}/links", tag = "published",
    request_body = api::CreatePublishedLink, responses((status = 201, body = api::PublishedLink)))]
pub(crate) async fn link_published(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<PublishedPath>,
    OptionalJson(body): OptionalJson<api::CreatePublishedLink>,
) -> Result<impl IntoResponse, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.published().permit(&at.published, Verb::Publish).await?;
    let seconds = seconds(Some(body.seconds()))?.unwrap_or_default();
    let (link, expires_at) = scope.published().link(&permit, seconds).await?;
    scope.commit().await?;
    let url = api::Sensitive::new(address(&app, view::sensitive(&link)?.expose()));
    Ok((StatusCode::CREATED, NO_STORE, Json(api::PublishedLink { url, expires_at })))
}

/// How long something is to last, in the range the document shows.
pub(super) fn seconds(wanted: Option<u32>) -> Result<Option<Duration>, Error> {
    match wanted {
        Some(seconds) if !(1..=limits::PUBLISHED_MAX_SECONDS).contains(&seconds) => {
            let most = limits::PUBLISHED_MAX_SECONDS;
            let detail = format!("expires_in_seconds is 1 to {most} (limit PUBLISHED_MAX_SECONDS)");
            Err(Error::new(Code::InvalidField, detail).field("expires_in_seconds"))
        }
        other => Ok(other.map(|s| Duration::from_secs(s.into()))),
    }
}

/// Revoke all links to a published copy
///
/// The copy stays; new links can be signed. The address of a public copy is not a link and stays too.
#[utoipa::path(delete, path = "/v1/spaces/{space}/published/{published}/links", tag = "published",
    responses((status = 204)))]
pub(crate) async fn revoke_published_links(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<PublishedPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.published().permit(&at.published, Verb::Publish).await?;
    view::check_version(permit.resource_version, version)?;
    scope.published().revoke_links(&permit).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
