//! Sessions: make, list, get, change, delete.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use wharf_domain::rbac::Verb;
use wharf_domain::session::{Desired, State as SessionState};
use wharf_domain::{Code, Error, Name, NameOrId, SessionId, limits};
use wharf_store::sessions::{Include, NewSession, SessionFilter, SessionPatch, SessionRow, Source};
use wharf_store::{Permit, Scope, SpaceRef};
use wharf_wire::api;

use super::{list_watch, promises, session_agents, session_watch, view};
use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{
    At, Auth, Flag, Halt, IfMatch, Json, KeyedOptional, Query, SessionPath, SpacePath, Upgrade,
};
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct SessionsQuery {
    /// Entries of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 200)]
    pub cursor: Option<String>,
    /// Only sessions with these labels: `a=b,c` for label `a` of value `b` and label `c` of any.
    #[param(max_length = 2000)]
    pub labels: Option<String>,
    /// Only sessions in this state.
    pub state: Option<SessionState>,
    /// Only sessions whose agent is of this kind.
    pub agent: Option<api::AgentKind>,
    /// Sends changes as server-sent events (or over WebSocket) instead of a page.
    #[param(value_type = Option<bool>)]
    pub watch: Flag,
    /// With `watch`: where to begin, as a page said; from now when absent.
    #[param(max_length = 64)]
    pub resource_version: Option<String>,
}

impl SessionsQuery {
    pub(super) fn filter(&self) -> SessionFilter {
        SessionFilter { state: self.state, agent: self.agent.map(|kind| kind.as_str().to_owned()) }
    }
}

/// List sessions
///
/// `watch=true` sends what changes from `resource_version` on instead.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions", tag = "sessions", params(SessionsQuery),
    responses((status = 200, description = "A page of sessions, or their changes.", content(
        (api::WatchPage<api::Session> = "application/json"), (api::WatchEvent<api::Session> = "text/event-stream")))))]
pub(crate) async fn list_sessions(
    State(app): State<App>,
    context: RequestContext,
    auth: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<SessionsQuery>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let page = wharf_store::PageRequest::new(query.limit, query.cursor.as_deref(), query.labels.as_deref())?;
    let is_paged = query.limit.is_some() || query.cursor.is_some();
    let from = query.resource_version.as_deref();
    if list_watch::is_watch(query.watch, from, is_paged)? {
        let watched = session_watch::Sessions { filter: query.filter(), labels: page.labels };
        let watch = list_watch::open(&app, &auth, at.space, from, &headers, watched).await?;
        return Ok(crate::stream::answer(&app, context, upgrade, watch));
    }
    let mut scope = app.store.scope(&auth.caller, &at.space).await?;
    let position = scope.position().await?;
    let space = scope.space()?.name.clone();
    let found = scope.sessions().list(&query.filter(), &page).await?;
    let found = view::try_page(found, |row| view::session(&space, row))?;
    Ok(Json(list_watch::page(found, position)).into_response())
}

/// What an answer may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wait {
    Ready,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Holds the answer until the session is idle or in error, at most 300 seconds. The answer says how it stands then.
    #[param(value_type = Option<String>, pattern = "^ready$")]
    pub wait: Option<Wait>,
}

/// The session as it stands when it is settled or the time is over. `fallback` when it is gone meanwhile.
pub(super) async fn settled(app: &App, permit: &Permit<SessionRow>) -> Result<SessionRow, Error> {
    let limit = Duration::from_secs(limits::WAIT_SECONDS.into());
    let enough =
        |row: &SessionRow| row.ready() || row.state == SessionState::Error || row.desired != Desired::Running;
    // A server that drains answers with what is.
    let row = match app.stop.or_drain(app.store.wait_session(permit, limit, enough)).await {
        Some(row) => row?,
        None => app.store.wait_session(permit, Duration::ZERO, |_| true).await?,
    };
    row.ok_or_else(|| Error::not_found("session", &permit.row().name))
}

/// Make a session
///
/// An empty object is enough: everything has a default. With `from` it is a fork.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions", tag = "sessions", params(WaitQuery),
    request_body = api::CreateSession, responses((status = 201, body = api::Session)))]
pub(crate) async fn create_session(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<WaitQuery>,
    KeyedOptional { key, body }: KeyedOptional<api::CreateSession>,
) -> Result<(StatusCode, Json<api::Session>), Halt> {
    check(&body)?;
    let claim = match key.claim(&app, &caller).await {
        Err(Halt::Replay { status, body }) if query.wait.is_some() => {
            return replayed(&app, &caller, &at, status, body).await;
        }
        claim => claim?,
    };
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.sessions().allow(body.name.as_ref()).await?;
    let space = scope.space()?.clone();
    let new = new_session(&app, &mut scope, &space, body).await?;
    let row = scope.sessions().create(&permit, new).await?;
    let id = NameOrId::Id(row.id);
    let waits = match query.wait {
        None => None,
        Some(Wait::Ready) => Some(scope.sessions().permit(&id, Verb::Create).await?),
    };
    let session = view::session(&space.name, row)?;
    scope.commit_reply(201, &session).await?;
    let session = match waits {
        None => session,
        Some(permit) => view::session(&space.name, settled(&app, &permit).await?)?,
    };
    Ok((StatusCode::CREATED, Json(session)))
}

/// A repetition that waits: the session was made by the first request; how it stands is asked now.
async fn replayed(
    app: &App,
    caller: &wharf_store::Caller,
    at: &SpacePath,
    status: u16,
    body: serde_json::Value,
) -> Result<(StatusCode, Json<api::Session>), Halt> {
    let first: api::Session = serde_json::from_value(body.clone()).map_err(Error::internal)?;
    let mut scope = app.store.scope(caller, &at.space).await?;
    let Ok(permit) = scope.sessions().permit(&NameOrId::Id(first.id), Verb::Get).await else {
        // Deleted since, or may be created but not looked at: what was answered then stands.
        return Err(Halt::Replay { status, body });
    };
    let space = scope.space()?.name.clone();
    drop(scope);
    let session = view::session(&space, settled(app, &permit).await?)?;
    Ok((StatusCode::CREATED, Json(session)))
}

fn check(body: &api::CreateSession) -> Result<(), Error> {
    view::check_timeouts("", body.idle_timeout_seconds, body.turn_timeout_seconds)?;
    session_agents::check(body)?;
    if let Some(prompt) = &body.prompt {
        check_content("prompt", prompt)?;
    }
    Ok(())
}

/// Content that says something.
pub(super) fn check_content(field: &str, content: &api::Content) -> Result<(), Error> {
    let refuse = |detail: &str| Err(Error::new(Code::InvalidField, detail).field(field));
    if content.0.is_empty() {
        return refuse("a message needs at least one block of content");
    }
    if content.0.len() > 1000 {
        return refuse("a message has up to 1000 blocks");
    }
    if content.0.iter().all(|b| matches!(b, api::Block::Text { text } if text.is_empty())) {
        return refuse("the message is empty");
    }
    Ok(())
}

/// The request with the space's defaults, and below them the server's.
async fn new_session(
    app: &App,
    scope: &mut Scope,
    space: &SpaceRef,
    body: api::CreateSession,
) -> Result<NewSession, Error> {
    let defaults = view::defaults(space.defaults.clone())?;
    let settings = &app.settings.sessions;
    let (from, parent) = match body.from {
        None => (None, None),
        Some(from) => {
            let (source, parent) = source(scope, &from).await?;
            let include = Include { files: from.include.files, messages: from.include.messages };
            (Some((source, include)), parent)
        }
    };
    let chosen = session_agents::chosen(scope, body.agent, body.agents).await?;
    if chosen.packaged && body.allow_root == Some(false) {
        let detail =
            "an agent's package belongs to root of its session: a session without root cannot have one";
        return Err(Error::new(Code::Unsupported, detail).field("allow_root"));
    }
    let asks = |key: &str| chosen.manifest.get(key).filter(|v| !v.is_null()).cloned();
    let own_image = asks("image").map(serde_json::from_value).transpose().map_err(Error::internal)?;
    let image = body.image.or_else(|| parent.map(|p| p.0)).or(own_image).or(defaults.image);
    let mut resources = defaults.resources.unwrap_or_default().over(settings.default_resources);
    if let Some(wanted) = asks("resources") {
        let wanted: wharf_domain::manifest::Limits =
            serde_json::from_value(wanted).map_err(Error::internal)?;
        resources = wanted.over(resources);
    }
    if let Some(asked) = body.resources {
        resources = asked.over(resources);
    }
    check_resources(app, &resources)?;
    let network = match (body.network, asks("network")) {
        (Some(asked), _) => asked.into(),
        (None, Some(wanted)) => serde_json::from_value(wanted).map_err(Error::internal)?,
        (None, None) => api::Network::default().into(),
    };
    let instructions =
        body.instructions.or_else(|| asks("instructions").and_then(|v| v.as_str().map(str::to_owned)));
    let image = image.unwrap_or_else(|| settings.default_image.clone());
    let runtime = match &from {
        // Files are where they are: a fork with them runs there too.
        Some((source, include)) if include.files => source.runtime().to_owned(),
        _ => app.runtimes.name_for(&image).to_owned(),
    };
    let allow_root = body.allow_root.unwrap_or(true);
    promises::computer(app, &runtime, &resources, allow_root).await?;
    Ok(NewSession {
        name: body.name,
        image,
        runtime: Some(runtime),
        resources,
        agent: chosen.agent,
        agents: chosen.agents,
        env: wharf_store::sessions::Env(body.env),
        network,
        instructions,
        setup: body.setup,
        allow_root,
        prompt: body.prompt.map(|p| view::to_json(&p)).transpose()?,
        idle_timeout_seconds: body
            .idle_timeout_seconds
            .or(defaults.idle_timeout_seconds)
            .unwrap_or(settings.idle_timeout_seconds),
        turn_timeout_seconds: body
            .turn_timeout_seconds
            .or(defaults.turn_timeout_seconds)
            .unwrap_or(settings.turn_timeout_seconds),
        labels: body.labels,
        metadata: body.metadata,
        from,
    })
}

/// What no session of this installation may have more of.
pub(super) fn check_resources(app: &App, r: &wharf_domain::quota::Resources) -> Result<(), Error> {
    r.validate()?;
    let max = &app.settings.sessions.max_resources;
    let lines = [
        ("cpu_millis", r.cpu_millis, max.cpu_millis),
        ("memory_mib", r.memory_mib, max.memory_mib),
        ("disk_mib", r.disk_mib, max.disk_mib),
        ("pids", r.pids, max.pids),
    ];
    for (name, asked, most) in lines {
        if asked > most {
            let detail = format!(
                "{name} is {asked}; a session of this server may have up to {most} (sessions.max_resources)"
            );
            return Err(Error::new(Code::InvalidField, detail).field(format!("resources.{name}")));
        }
    }
    Ok(())
}

struct ParentImage(Name);

/// What to fork: the caller must be able to read it.
async fn source(scope: &mut Scope, from: &api::ForkFrom) -> Result<(Source, Option<ParentImage>), Error> {
    let refuse = |field: &str, detail: &str| Error::new(Code::InvalidField, detail).field(field);
    let missing = |e: Error, field: &str| {
        if e.code == Code::NotFound { Error::new(Code::InvalidReference, e.public).field(field) } else { e }
    };
    match (&from.session, from.snapshot) {
        (Some(text), None) => {
            let at: NameOrId<SessionId> = text.parse().map_err(|e: Error| e.field("from.session"))?;
            let permit =
                scope.sessions().permit(&at, Verb::Get).await.map_err(|e| missing(e, "from.session"))?;
            let row = permit.into_row();
            let image = ParentImage(row.image.name.clone());
            Ok((Source::Session(Box::new(row)), Some(image)))
        }
        (None, Some(id)) => {
            let permit =
                scope.snapshots().permit(id, Verb::Get).await.map_err(|e| missing(e, "from.snapshot"))?;
            let row = permit.into_row();
            let image = ParentImage(row.image.name.clone());
            Ok((Source::Snapshot(Box::new(row)), Some(image)))
        }
        _ => Err(refuse("from", "give either from.session or from.snapshot")),
    }
}

/// Get a session
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}", tag = "sessions", params(WaitQuery),
    responses((status = 200, body = api::Session)))]
pub(crate) async fn get_session(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<api::Session>, Problem> {
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Get).await?;
    let space = scope.space()?.name.clone();
    drop(scope);
    let row = match query.wait {
        None => permit.into_row(),
        Some(Wait::Ready) => settled(&app, &permit).await?,
    };
    Ok(Json(view::session(&space, row)?))
}

/// Change a session
///
/// New limits count at once for a running one; new instructions and turn limits from the next turn on.
#[utoipa::path(patch, path = "/v1/spaces/{space}/sessions/{session}", tag = "sessions",
    request_body = api::PatchSession, responses((status = 200, body = api::Session)))]
pub(crate) async fn patch_session(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchSession>,
) -> Result<Json<api::Session>, Problem> {
    view::check_timeouts("", body.idle_timeout_seconds, body.turn_timeout_seconds)?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Update).await?;
    view::check_version(permit.resource_version, version)?;
    let resources = body.resources.map(|r| r.over(permit.resources));
    if let Some(resources) = &resources {
        check_resources(&app, resources)?;
        promises::new_limits(&app, &permit, resources).await?;
    }
    let network =
        body.network.map(|n| view::network(&permit.network).map(|base| n.over(base))).transpose()?;
    let patch = SessionPatch {
        name: body.name,
        resources,
        network,
        instructions: body.instructions,
        idle_timeout_seconds: body.idle_timeout_seconds,
        turn_timeout_seconds: body.turn_timeout_seconds,
        labels: view::labels(&permit.labels, body.labels)?,
        metadata: body.metadata.map(|patch| view::merged(&permit.metadata, patch)),
    };
    let row = scope.sessions().update(&permit, patch).await?;
    let session = view::session(&scope.space()?.name, row)?;
    scope.commit().await?;
    Ok(Json(session))
}

/// Delete a session
///
/// Its computer, files and log go; its snapshots and forks stay. Its name is free at once. Deleting one by its id again
/// succeeds.
#[utoipa::path(delete, path = "/v1/spaces/{space}/sessions/{session}", tag = "sessions",
    responses((status = 202, description = "It is being deleted.")))]
pub(crate) async fn delete_session(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Delete).await?;
    view::check_version(permit.resource_version, version)?;
    scope.sessions().desire(&permit, Desired::Deleted).await?;
    scope.commit().await?;
    Ok(StatusCode::ACCEPTED)
}
