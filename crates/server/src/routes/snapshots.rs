//! Snapshots of a session. They outlive it: one of a deleted session is found by the session's id.

use std::time::Duration;

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use wharf_domain::rbac::Verb;
use wharf_domain::{Error, NameOrId, SessionId, SnapshotId, limits};
use wharf_ports::Topic;
use wharf_store::sessions::{NewSnapshot, SnapshotPatch, SnapshotRow, SnapshotState};
use wharf_store::{Caller, Scope};
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{
    At, Auth, FromPath, Halt, IfMatch, Json, KeyedOptional, ListQuery, Params, Query, SessionPath, SpacePath,
};
use crate::problem::Problem;
use crate::stream::woken;

pub(crate) struct SnapshotPath {
    at: SessionPath,
    snapshot: NameOrId<SnapshotId>,
}

impl FromPath for SnapshotPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SessionPath::from_path(p)?, snapshot: p.get("snapshot")? })
    }
}

/// The session's id, whether it still lives or not.
async fn session_of(scope: &mut Scope, at: &SessionPath) -> Result<SessionId, Error> {
    match &at.session {
        NameOrId::Id(id) => Ok(*id),
        NameOrId::Name(_) => Ok(scope.sessions().permit(&at.session, Verb::Get).await?.row().id),
    }
}

/// List a space's snapshots
///
/// Those of deleted sessions too.
#[utoipa::path(get, path = "/v1/spaces/{space}/snapshots", tag = "snapshots", params(ListQuery),
    responses((status = 200, body = api::Page<api::Snapshot>)))]
pub(crate) async fn list_space_snapshots(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::Snapshot>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let snapshots = scope.snapshots().list(None, &page).await?;
    Ok(Json(view::page(snapshots, view::snapshot)))
}

/// List a session's snapshots
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/snapshots", tag = "snapshots", params(ListQuery),
    responses((status = 200, body = api::Page<api::Snapshot>)))]
pub(crate) async fn list_snapshots(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::Snapshot>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let session = scope.sessions().permit(&at.session, Verb::Get).await?.row().id;
    let snapshots = scope.snapshots().list(Some(session), &page).await?;
    Ok(Json(view::page(snapshots, view::snapshot)))
}

/// What an answer may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WaitTaken {
    /// Until it is ready or failed, at most 300 seconds.
    Ready,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct SnapshotQuery {
    /// Holds the answer until the snapshot is taken, at most 300 seconds.
    #[param(value_type = Option<String>, pattern = "^ready$")]
    wait: Option<WaitTaken>,
}

/// Take a snapshot
///
/// Of a running session within milliseconds: it stands still for that moment.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/snapshots", tag = "snapshots",
    params(SnapshotQuery), request_body = api::CreateSnapshot, responses((status = 201, body = api::Snapshot)))]
pub(crate) async fn create_snapshot(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<SnapshotQuery>,
    KeyedOptional { key, body }: KeyedOptional<api::CreateSnapshot>,
) -> Result<(StatusCode, Json<api::Snapshot>), Halt> {
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let session = scope.sessions().permit(&at.session, Verb::Get).await?;
    let permit = scope.snapshots().allow(body.name.as_ref()).await?;
    let new = NewSnapshot { name: body.name, labels: body.labels };
    let row = scope.snapshots().create(&permit, &session, new).await?;
    let snapshot = view::snapshot(row.clone());
    scope.commit_reply(201, &snapshot).await?;
    let snapshot = match query.wait {
        None => snapshot,
        Some(WaitTaken::Ready) => view::snapshot(taken(&app, &caller, &at, row).await?),
    };
    Ok((StatusCode::CREATED, Json(snapshot)))
}

async fn taken(
    app: &App,
    caller: &Caller,
    at: &SessionPath,
    mut row: SnapshotRow,
) -> Result<SnapshotRow, Error> {
    let end = tokio::time::Instant::now() + Duration::from_secs(limits::WAIT_SECONDS.into());
    let mut wakes = app.bus.subscribe();
    while row.state == SnapshotState::Pending {
        let mut scope = app.store.scope(caller, &at.space).await?;
        row = scope.snapshots().permit(row.id, Verb::Get).await?.into_row();
        drop(scope);
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        if row.state != SnapshotState::Pending || left.is_zero() {
            break;
        }
        woken(&mut wakes, Topic::Session(row.session), left.min(Duration::from_secs(5))).await;
    }
    Ok(row)
}

/// Get a snapshot
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/snapshots/{snapshot}", tag = "snapshots",
    responses((status = 200, body = api::Snapshot)))]
pub(crate) async fn get_snapshot(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SnapshotPath>,
) -> Result<Json<api::Snapshot>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let session = session_of(&mut scope, &at.at).await?;
    let permit = scope.snapshots().permit_of(session, &at.snapshot, Verb::Get).await?;
    Ok(Json(view::snapshot(permit.into_row())))
}

/// Change a snapshot
#[utoipa::path(patch, path = "/v1/spaces/{space}/sessions/{session}/snapshots/{snapshot}", tag = "snapshots",
    request_body = api::PatchSnapshot, responses((status = 200, body = api::Snapshot)))]
pub(crate) async fn patch_snapshot(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SnapshotPath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchSnapshot>,
) -> Result<Json<api::Snapshot>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let session = session_of(&mut scope, &at.at).await?;
    let permit = scope.snapshots().permit_of(session, &at.snapshot, Verb::Update).await?;
    view::check_version(permit.resource_version, version)?;
    let patch = SnapshotPatch { name: body.name, labels: view::labels(&permit.labels, body.labels)? };
    let snapshot = view::snapshot(scope.snapshots().update(&permit, patch).await?);
    scope.commit().await?;
    Ok(Json(snapshot))
}

/// Delete a snapshot
///
/// Sessions that were forked from it stand on their own.
#[utoipa::path(delete, path = "/v1/spaces/{space}/sessions/{session}/snapshots/{snapshot}", tag = "snapshots",
    responses((status = 204)))]
pub(crate) async fn delete_snapshot(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SnapshotPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let session = session_of(&mut scope, &at.at).await?;
    let permit = scope.snapshots().permit_of(session, &at.snapshot, Verb::Delete).await?;
    view::check_version(permit.resource_version, version)?;
    scope.snapshots().delete(&permit).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
