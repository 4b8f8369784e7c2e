//! What users want of a session: close, restore, cancel, fork.
//!
//! Each is idempotent in effect: asking for what is so already changes nothing.

use axum::extract::State;
use http::StatusCode;
use wharf_domain::rbac::Verb;
use wharf_domain::session::Desired;
use wharf_domain::{Error, NameOrId};
use wharf_store::sessions::{Include, NewFork};
use wharf_wire::api;

use super::sessions::{Wait, WaitQuery, check_content, check_resources, settled};
use super::{promises, view};
use crate::app::App;
use crate::extract::{At, Auth, Halt, Json, KeyedOptional, Query, SessionPath};

type Accepted = (StatusCode, Json<api::Session>);

async fn desire(
    app: &App,
    caller: &wharf_store::Caller,
    at: &SessionPath,
    key: &crate::extract::Key,
    desired: Desired,
    wait: Option<Wait>,
) -> Result<Accepted, Halt> {
    let claim = key.claim(app, caller).await?;
    let mut scope = app.store.scope(caller, &at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.sessions().permit(&at.session, Verb::Update).await?;
    let space = scope.space()?.name.clone();
    let row = scope.sessions().desire(&permit, desired).await?;
    let session = view::session(&space, row)?;
    scope.commit_reply(202, &session).await?;
    let session = match wait {
        None => session,
        Some(Wait::Ready) => view::session(&space, settled(app, &permit).await?)?,
    };
    Ok((StatusCode::ACCEPTED, Json(session)))
}

/// Close a session
///
/// Its computer goes down, its files and log stay. A turn that runs is cancelled; messages that wait run after the
/// restore.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/close", tag = "sessions", request_body = api::Empty,
    responses((status = 202, body = api::Session)))]
pub(crate) async fn close_session(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    KeyedOptional { key, .. }: KeyedOptional<api::Empty>,
) -> Result<Accepted, Halt> {
    desire(&app, &caller, &at, &key, Desired::Closed, None).await
}

/// Restore a session
///
/// Brings its computer up where it was. One in error is tried anew.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/restore", tag = "sessions", params(WaitQuery),
    request_body = api::Empty, responses((status = 202, body = api::Session)))]
pub(crate) async fn restore_session(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<WaitQuery>,
    KeyedOptional { key, .. }: KeyedOptional<api::Empty>,
) -> Result<Accepted, Halt> {
    desire(&app, &caller, &at, &key, Desired::Running, query.wait).await
}

/// Cancel the turn that runs
///
/// What was said so far stays; messages that wait run next. When no turn runs, nothing happens.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/cancel", tag = "sessions", request_body = api::Empty,
    responses((status = 202, body = api::Session)))]
pub(crate) async fn cancel_turn(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    KeyedOptional { key, .. }: KeyedOptional<api::Empty>,
) -> Result<Accepted, Halt> {
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.sessions().permit(&at.session, Verb::Update).await?;
    scope.sessions().cancel(&permit).await?;
    let session = view::session(&scope.space()?.name, permit.into_row())?;
    scope.commit_reply(202, &session).await?;
    Ok((StatusCode::ACCEPTED, Json(session)))
}

/// Fork a session
///
/// A new session with its files and messages, as they are now or as a snapshot has them. Both go their own ways from
/// there.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/fork", tag = "sessions", params(WaitQuery),
    request_body = api::ForkSession, responses((status = 201, body = api::Session)))]
pub(crate) async fn fork_session(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<WaitQuery>,
    KeyedOptional { key, body }: KeyedOptional<api::ForkSession>,
) -> Result<(StatusCode, Json<api::Session>), Halt> {
    if let Some(prompt) = &body.prompt {
        check_content("prompt", prompt)?;
    }
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let parent = scope.sessions().permit(&at.session, Verb::Get).await?;
    let snapshot = match body.snapshot {
        None => None,
        Some(id) => {
            let permit = scope.snapshots().permit(id, Verb::Get).await.map_err(|e| match e.code {
                wharf_domain::Code::NotFound => {
                    Error::new(wharf_domain::Code::InvalidReference, e.public).field("snapshot")
                }
                _ => e,
            })?;
            Some(Box::new(permit.into_row()))
        }
    };
    let resources = body.resources.map(|r| r.over(parent.resources));
    if let Some(resources) = &resources {
        check_resources(&app, resources)?;
    }
    let wanted = resources.unwrap_or(parent.resources);
    promises::computer(&app, &parent.runtime, &wanted, parent.allow_root).await?;
    let permit = scope.sessions().allow(body.name.as_ref()).await?;
    let fork = NewFork {
        name: body.name,
        snapshot,
        include: Include { files: body.include.files, messages: body.include.messages },
        resources,
        network: body.network.map(|n| view::network(&parent.network).map(|base| n.over(base))).transpose()?,
        labels: body.labels,
        metadata: body.metadata,
        prompt: body.prompt.map(|p| view::to_json(&p)).transpose()?,
    };
    let space = scope.space()?.name.clone();
    let row = scope.sessions().fork(&permit, &parent, fork).await?;
    let waits = match query.wait {
        None => None,
        Some(Wait::Ready) => Some(scope.sessions().permit(&NameOrId::Id(row.id), Verb::Create).await?),
    };
    let session = view::session(&space, row)?;
    scope.commit_reply(201, &session).await?;
    let session = match waits {
        None => session,
        Some(permit) => view::session(&space, settled(&app, &permit).await?)?,
    };
    Ok((StatusCode::CREATED, Json(session)))
}
