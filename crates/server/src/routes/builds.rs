//! Builds: begin one from a repository or an upload, look at it, follow its log.

use std::io;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use uuid::Uuid;
use wharf_domain::egress::{Egress, Policy};
use wharf_domain::manifest::{Limits, Place, registries};
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::remote::{self, Remote};
use wharf_domain::{BuildId, Code, Error, Name, NameOrId, SpaceId, limits};
use wharf_ports::Topic;
use wharf_store::agents::blobs::{Blob, Hasher};
use wharf_store::agents::{Build, BuildState, NewBuild};
use wharf_store::repos::Due;
use wharf_store::sessions::NewSession;
use wharf_store::{Caller, PageRequest, Permit, Scope, Store};
use wharf_wire::api;

use super::list_watch::{self, Watched};
use super::packages::AgentPath;
use super::{build_sources, promises, sessions, view};
use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{
    At, Auth, Claim, Flag, FromPath, Halt, Json, Key, KeyedOptional, Params, Query, SpacePath, Upgrade,
    last_event_id,
};
use crate::problem::Problem;
use crate::stream::{self, Batch, Reader, Record, Standing};

/// Pieces of a log read at a time.
const PAGE: i64 = 200;

pub(crate) struct BuildPath {
    at: SpacePath,
    build: BuildId,
}

impl FromPath for BuildPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SpacePath::from_path(p)?, build: p.id("build", "build")? })
    }
}

pub(super) fn show(b: Build) -> api::Build {
    api::Build {
        id: b.id,
        agent: b.agent,
        state: match b.state {
            BuildState::Queued => api::BuildState::Queued,
            BuildState::Running => api::BuildState::Running,
            BuildState::Succeeded => api::BuildState::Succeeded,
            BuildState::Failed => api::BuildState::Failed,
            BuildState::Cancelled => api::BuildState::Cancelled,
        },
        reason: b.reason,
        source: b.source,
        session: b.session,
        version: b.version,
        attempts: b.attempts,
        created_by: b.created_by,
        created_at: b.created_at,
        started_at: b.started_at,
        ended_at: b.ended_at,
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct BuildQuery {
    /// Of an upload: the image it is built in; the one its `wharf.toml` names, else the space's default, else `base`.
    #[param(value_type = Option<String>, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63)]
    image: Option<Name>,
    /// Of an upload: CPU of the build's computer, 1000 for one core; the space's default when absent, as the limits below.
    #[param(minimum = 10, maximum = 1_024_000)]
    cpu_millis: Option<u32>,
    /// Of an upload: memory of the build's computer.
    #[param(minimum = 16, maximum = 16_777_216)]
    memory_mib: Option<u32>,
    /// Of an upload: what the build may write.
    #[param(minimum = 16, maximum = 1_073_741_824)]
    disk_mib: Option<u32>,
    /// Of an upload: processes of the build.
    #[param(minimum = 8, maximum = 4_194_304)]
    pids: Option<u32>,
}

impl BuildQuery {
    fn resources(&self) -> Option<api::ResourcesPatch> {
        let Self { cpu_millis, memory_mib, disk_mib, pids, .. } = *self;
        let patch = api::ResourcesPatch { cpu_millis, memory_mib, disk_mib, pids };
        (patch != api::ResourcesPatch::default()).then_some(patch)
    }
}

/// Build an agent
///
/// From a repository, as JSON; or from an upload, as a tar archive (`application/x-tar`) of the package's directory. The build
/// runs in a session of its own, with the egress its `wharf.toml` asks for, as far as it is granted: by the space's default
/// `build_egress`, or by the right of who begins it to update the space's policies. What it becomes is the agent's next version,
/// active at once. Answered before the build is begun.
#[utoipa::path(post, path = "/v1/spaces/{space}/agents/{agent}/build", tag = "agents", params(BuildQuery),
    request_body(content((api::StartBuild = "application/json"), (String = "application/x-tar")), description = "Where the source is, or the source."),
    responses((status = 202, body = api::Build)))]
pub(crate) async fn start_build(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<AgentPath>,
    Query(query): Query<BuildQuery>,
    request: Request,
) -> Result<(StatusCode, Json<api::Build>), Halt> {
    // Asked before the upload, so that nobody sends much in vain, and again after it.
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let name = scope.agents().permit(&at.agent, Verb::Get).await?.name.clone();
    scope.builds().allow(&name).await?;
    drop(scope);
    let key = Key::of(&request)?;
    let request_host = request.headers().get(header::HOST).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let raw = request.uri().query().unwrap_or_default().to_owned();
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (asked, key) = match media.split(';').next().unwrap_or_default().trim() {
        "application/json" => {
            let bytes = axum::body::to_bytes(request.into_body(), limits::BODY_BYTES)
                .await
                .map_err(|e| Error::new(Code::TooLarge, "the body is too large").because(e))?;
            let host = request_host;
            (from_git(&app, &caller, &at, &query, &bytes, host.as_deref()).await?, key.body(&raw, &bytes))
        }
        "application/x-tar" | "application/octet-stream" => {
            let body = request.into_body().into_data_stream().map_err(io::Error::other);
            let blob = keep(&app.store, body).await?;
            let key = key.body(&raw, blob.digest.as_bytes());
            let resources = query.resources().map(limits_of).unwrap_or_default();
            let named = Place { image: query.image, resources };
            (Asked { named, ..Asked::of(json!({"upload": blob.digest}), Some(blob)) }, key)
        }
        _ => {
            let detail =
                "send JSON, or the package's directory as a tar with `Content-Type: application/x-tar`";
            return Err(Error::new(Code::UnsupportedMediaType, detail).into());
        }
    };
    let claim = key.claim(&app, &caller).await?;
    let build = begin(&app, &caller, &at, asked, Some(claim)).await?;
    Ok((StatusCode::ACCEPTED, Json(build)))
}

/// A build that may be begun.
pub(crate) struct Asked {
    pub(super) source: Value,
    pub(super) blob: Option<Blob>,
    /// What somebody named with it, or with the build before it.
    pub(super) named: Place,
    /// What the package wants, where that is known before it is begun; else the build sees to it.
    pub(super) wanted: Place,
    /// What the source's way in needs. What the build needs is in the source.
    pub(super) network: Policy,
    /// The push that it is owed to.
    pub(super) owed: Option<Due>,
}

impl Asked {
    /// Of source that Wharf has itself, kept by [`keep`]. `source` says where it came from, and is shown with the build.
    pub(crate) fn of(source: Value, blob: Option<Blob>) -> Self {
        let (named, wanted) = (Place::default(), Place::default());
        Self { source, blob, named, wanted, network: Policy::default(), owed: None }
    }

    /// The build settles what a push owes.
    pub(crate) fn owed_to(self, due: &Due) -> Self {
        Self { owed: Some(due.clone()), ..self }
    }
}

/// Begins a build as somebody who may. A push calls this as who pushed, with an archive of the commit.
pub(crate) async fn begin(
    app: &App,
    caller: &Caller,
    at: &AgentPath,
    asked: Asked,
    claim: Option<Claim>,
) -> Result<api::Build, Error> {
    let mut scope = app.store.scope(caller, &at.at.space).await?;
    if let Some(claim) = claim {
        claim.attach(&mut scope);
    }
    let agent = scope.agents().permit(&at.agent, Verb::Get).await?;
    let allowed = scope.builds().allow(&agent.name).await?;
    if let Some(due) = &asked.owed
        && !scope.builds().take_owed(due).await?
    {
        return Err(Error::new(Code::PreconditionFailed, "what the push owed was built meanwhile"));
    }
    let defaults = view::defaults(scope.space()?.defaults.clone())?;
    let resources = defaults.resources.unwrap_or_default().over(app.settings.sessions.default_resources);
    let resources = asked.named.resources.or(asked.wanted.resources).over(resources);
    sessions::check_resources(app, &resources)?;
    let space = scope.space()?.id;
    let egress = if scope.caller().may(Some(space), Resource::Policies, Verb::Update, None) {
        None
    } else {
        // Where its source comes from is reached anyway.
        let granted = defaults.build_egress.unwrap_or_else(registries);
        Some(granted.into_iter().chain(asked.network.allow.iter().cloned()).collect())
    };
    let image = image(&asked)?.or(defaults.image);
    let image = image.unwrap_or_else(|| app.settings.sessions.default_image.clone());
    let runtime = app.runtimes.name_for(&image).to_owned();
    promises::computer(app, &runtime, &resources, true).await?;
    let new = NewSession {
        resources,
        runtime: Some(runtime),
        network: asked.network,
        // It ends with its build.
        idle_timeout_seconds: 0,
        metadata: [("build_of".to_owned(), json!(agent.name))].into_iter().collect(),
        ..NewSession::of(image)
    };
    let permit = scope.sessions().allow(None).await?;
    let session = scope.sessions().create(&permit, new).await?;
    let new = NewBuild { source: asked.source, blob: asked.blob, asked: asked.named, egress };
    let build = show(scope.builds().create(&allowed, &agent, &session, new).await?);
    scope.commit_reply(StatusCode::ACCEPTED.as_u16(), &build).await?;
    Ok(build)
}

/// The image that is named or wanted. Two that differ are refused at once.
fn image(asked: &Asked) -> Result<Option<Name>, Error> {
    match (&asked.named.image, &asked.wanted.image) {
        (Some(named), Some(wanted)) if named != wanted => {
            let detail =
                format!("the package wants to be built in image {wanted}; name that, or leave it out");
            Err(Error::new(Code::InvalidField, detail).field("image"))
        }
        (named, wanted) => Ok(named.clone().or_else(|| wanted.clone())),
    }
}

async fn from_git(
    app: &App,
    caller: &Caller,
    at: &AgentPath,
    query: &BuildQuery,
    bytes: &[u8],
    host: Option<&str>,
) -> Result<Asked, Error> {
    let body: api::StartBuild = serde_json::from_slice(bytes)
        .map_err(|e| Error::new(Code::InvalidField, format!("that is no build to begin: {e}")))?;
    for (field, given) in [("image", query.image.is_some()), ("resources", query.resources().is_some())] {
        if given {
            let detail = format!("of a build from a repository {field} is said in the body");
            return Err(Error::new(Code::InvalidField, detail).field(field));
        }
    }
    if let Some(reference) = &body.git.reference {
        remote::check_ref(reference).map_err(|e| e.field("git.ref"))?;
    }
    let named = Place { image: body.image, resources: body.resources.map(limits_of).unwrap_or_default() };
    let public = app.settings.url();
    if let Some(own) = build_sources::own(&body.git.url, host, &public) {
        let source = build_sources::of_repo(app, caller, &at.at.space, &own, &body.git).await?;
        return Ok(Asked { named, ..source });
    }
    let remote: Remote = body.git.url.parse().map_err(|e: Error| e.field("git.url"))?;
    Ok(Asked {
        named,
        network: Policy { egress: Egress::Allowlist, allow: vec![remote.host] },
        ..Asked::of(json!({"git": body.git}), None)
    })
}

fn limits_of(patch: api::ResourcesPatch) -> Limits {
    let api::ResourcesPatch { cpu_millis, memory_mib, disk_mib, pids } = patch;
    Limits { cpu_millis, memory_mib, disk_mib, pids }
}

/// Keeps a package's source: a tar of its directory.
pub(crate) async fn keep(
    store: &Store,
    mut body: impl Stream<Item = io::Result<Bytes>> + Send + Unpin,
) -> Result<Blob, Error> {
    let mut writer = store.blob_writer(limits::SOURCE_BYTES).await?;
    let mut hasher = Hasher::default();
    let mut taken = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk
            .map_err(|e| Error::new(Code::BadRequest, "the archive ended before it was complete").because(e));
        let kept = match chunk {
            Ok(chunk) => {
                taken += chunk.len();
                hasher.update(&chunk);
                writer.write(&chunk).await
            }
            Err(e) => Err(e),
        };
        if let Err(e) = kept {
            writer.forget().await?;
            return Err(e);
        }
    }
    if taken == 0 {
        writer.forget().await?;
        return Err(Error::new(
            Code::InvalidField,
            "the body is empty; send a tar of the package's directory",
        ));
    }
    writer.finish(&hasher.digest()).await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct BuildsQuery {
    /// Entries of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 200)]
    cursor: Option<String>,
    /// Only builds of this agent.
    #[param(value_type = Option<String>, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63)]
    agent: Option<Name>,
    /// Sends changes as server-sent events (or over WebSocket) instead of a page.
    #[param(value_type = Option<bool>)]
    watch: Flag,
    /// With `watch`: where to begin, as a page said; from now when absent.
    #[param(max_length = 64)]
    resource_version: Option<String>,
}

/// Of one agent, or all.
struct Builds(Option<Name>);

impl Watched for Builds {
    const RESOURCE: Resource = Resource::Builds;
    type Object = api::Build;

    async fn find(&self, scope: &mut Scope, id: Uuid) -> Result<Option<(String, api::Build)>, Error> {
        let build = show(scope.builds().permit(BuildId::from_uuid(id), Verb::Watch).await?.into_row());
        let wanted = self.0.as_ref().is_none_or(|agent| *agent == build.agent);
        Ok(wanted.then(|| (build.agent.to_string(), build)))
    }
}

/// List builds
///
/// `watch=true` sends what changes from `resource_version` on instead. Ended builds that no version came of, or whose version is
/// gone, are removed after `BUILD_DAYS`, but an agent's newest; logs after `BUILD_LOG_DAYS`.
#[utoipa::path(get, path = "/v1/spaces/{space}/builds", tag = "agents", params(BuildsQuery),
    responses((status = 200, description = "A page of builds, or their changes.", content(
        (api::WatchPage<api::Build> = "application/json"), (api::WatchEvent<api::Build> = "text/event-stream")))))]
pub(crate) async fn list_builds(
    State(app): State<App>,
    context: RequestContext,
    auth: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<BuildsQuery>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let page = PageRequest::new(query.limit, query.cursor.as_deref(), None)?;
    let from = query.resource_version.as_deref();
    let is_paged = query.limit.is_some() || query.cursor.is_some();
    if list_watch::is_watch(query.watch, from, is_paged)? {
        let watch = list_watch::open(&app, &auth, at.space, from, &headers, Builds(query.agent)).await?;
        return Ok(stream::answer(&app, context, upgrade, watch));
    }
    let mut scope = app.store.scope(&auth.caller, &at.space).await?;
    let position = scope.position().await?;
    let builds = scope.builds().list(query.agent.as_ref(), &page).await?;
    Ok(Json(list_watch::page(view::page(builds, show), position)).into_response())
}

/// Get a build
#[utoipa::path(get, path = "/v1/spaces/{space}/builds/{build}", tag = "agents",
    responses((status = 200, body = api::Build)))]
pub(crate) async fn get_build(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<BuildPath>,
) -> Result<Json<api::Build>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    Ok(Json(show(scope.builds().permit(at.build, Verb::Get).await?.into_row())))
}

/// Cancel a build
///
/// Its computer goes, and nothing becomes of it. One that was cancelled before is answered as it is; one that is at another end is
/// refused.
#[utoipa::path(post, path = "/v1/spaces/{space}/builds/{build}/cancel", tag = "agents", request_body = api::Empty,
    responses((status = 202, body = api::Build)))]
pub(crate) async fn cancel_build(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<BuildPath>,
    KeyedOptional { key, .. }: KeyedOptional<api::Empty>,
) -> Result<(StatusCode, Json<api::Build>), Halt> {
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.builds().permit(at.build, Verb::Update).await?;
    let build = show(scope.builds().cancel(&permit).await?);
    scope.commit_reply(StatusCode::ACCEPTED.as_u16(), &build).await?;
    Ok((StatusCode::ACCEPTED, Json(build)))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// Only what comes behind this number; from the beginning when absent. Wins over `Last-Event-ID`.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    after: Option<i64>,
    /// Ends the stream when nothing more is there, instead of waiting for what comes.
    #[param(value_type = Option<bool>)]
    no_follow: Flag,
}

/// Follow a build's log
///
/// Begins with the first piece. The last event is `build`, with the build as it ended. Server-sent events, or a WebSocket at the
/// same path.
#[utoipa::path(get, path = "/v1/spaces/{space}/builds/{build}/log", tag = "agents", params(LogQuery),
    responses((status = 200, body = api::BuildLine, content_type = "text/event-stream")))]
pub(crate) async fn build_log(
    State(app): State<App>,
    context: RequestContext,
    auth: Auth,
    At(at): At<BuildPath>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let resumed = last_event_id(&headers).and_then(|id| id.parse().ok());
    // Before anything is read: what happens from here on wakes this stream.
    let wakes = app.bus.subscribe();
    let mut scope = app.store.scope(&auth.caller, &at.at.space).await?;
    let permit = scope.builds().permit(at.build, Verb::Watch).await?;
    let space = scope.space()?.id;
    drop(scope);
    let standing = Standing::of(&app, &auth);
    let reader = Log { app: app.clone(), standing, space, permit, follow: !query.no_follow.0 };
    let from = query.after.or(resumed).unwrap_or(0).max(0);
    let records = stream::follow(reader, wakes, Topic::BuildLog(at.build), from);
    Ok(stream::answer(&app, context, upgrade, records))
}

struct Log {
    app: App,
    standing: Standing,
    space: SpaceId,
    permit: Permit<Build>,
    follow: bool,
}

impl Reader for Log {
    type Cursor = i64;

    async fn read(&mut self, from: i64) -> Result<Batch<i64>, Error> {
        if self.standing.due() {
            let caller = self.standing.caller().await?;
            let mut scope = self.app.store.scope(caller, &NameOrId::Id(self.space)).await?;
            self.permit = scope.builds().permit(self.permit.id, Verb::Watch).await?;
        }
        let (lines, build) = self.app.store.build_log(&self.permit, from, PAGE).await?;
        let more = lines.len() as i64 == PAGE;
        let next = lines.last().map_or(from, |l| l.n);
        let mut records = Vec::with_capacity(lines.len() + 1);
        for l in lines {
            let line = api::BuildLine { n: l.n, stream: l.stream, text: l.text, at: l.at };
            records.push(Record::of(Some(line.n.to_string()), "log", &line)?);
        }
        let ended = build.state.ended() && !more;
        if ended {
            records.push(Record::of(Some(next.to_string()), "build", &show(build))?);
        }
        Ok(Batch { end: ended || (!self.follow && !more), records, next, more_soon: more })
    }
}
