//! Publishing files of a session: copied as they are, by their bytes, into something that does not change.
//!
//! Works on a closed session too, whose state stays `closed`. What was copied is nobody's until all of it is there; a
//! request that breaks off leaves nothing that can be seen. Symbolic links are not followed: they could lead out of what
//! was chosen.

use std::time::Duration;

use axum::extract::State;
use futures_util::StreamExt as _;
use http::StatusCode;
use serde_json::json;
use wharf_chassis::host_client::{HostClient, HostError};
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, NameOrId, limits};
use wharf_store::Caller;
use wharf_store::published::{Copier, NewPublished};
use wharf_wire::api;
use wharf_wire::host::files::{FileInfo, FileKind};

use super::computer::{Approach, Computer, Wants};
use super::published::{seconds, show};
use crate::app::App;
use crate::extract::{At, Auth, Claim, Halt, IfMatch, Json, Keyed, SessionPath};
use crate::problem::Problem;

/// Entries of a directory asked for at a time.
const PAGE: u32 = 500;
/// Directories inside each other.
const DEPTH: usize = 128;
/// What the kernel shows of processes and devices, and where Wharf's own sockets are.
const OF_THE_SYSTEM: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// An absolute path without its slashes at the end, or why it is none to be published.
fn checked(path: &str) -> Result<String, Error> {
    let refuse = |why: &str| {
        let shown: String = path.chars().take(120).collect();
        Err(Error::new(Code::InvalidField, format!("{shown:?} {why}")).field("paths"))
    };
    if !path.starts_with('/') || path.len() > 4095 || path.contains('\0') {
        return refuse("is not an absolute path");
    }
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    if parts.iter().any(|p| matches!(*p, "." | "..")) {
        return refuse("has a part that is . or ..; write the path out");
    }
    let plain = format!("/{}", parts.join("/"));
    if parts.is_empty() {
        return refuse("is the whole session; choose what is to be published");
    }
    if OF_THE_SYSTEM.iter().any(|s| plain == *s || plain.starts_with(&format!("{s}/"))) {
        return refuse("belongs to the system and holds no files to publish");
    }
    Ok(plain)
}

/// Publish files of a session
///
/// Makes an immutable copy of the chosen paths, which outlives the session. Files that hold the value of a secret of the
/// space are refused. The copy counts against the space's disk quota.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/publish", tag = "published",
    request_body = api::Publish, responses((status = 201, body = api::Published)))]
pub(crate) async fn publish(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Keyed { key, body }: Keyed<api::Publish>,
) -> Result<(StatusCode, Json<api::Published>), Halt> {
    if body.paths.is_empty() || body.paths.len() > limits::PUBLISHED_PATHS {
        let detail = format!("paths names 1 to {} paths (limit PUBLISHED_PATHS)", limits::PUBLISHED_PATHS);
        return Err(Error::new(Code::InvalidField, detail).field("paths").into());
    }
    let paths: Vec<String> = body.paths.iter().map(|p| checked(p)).collect::<Result<_, _>>()?;
    let lasts = seconds(body.expires_in_seconds)?;
    let claim = key.claim(&app, &caller).await?;
    // A caller who stops waiting has asked for it all the same; with the same key they get the answer later.
    let work = Work { app, caller, at, body, paths, lasts };
    let made = tokio::spawn(work.run(claim)).await.map_err(Error::internal)??;
    Ok((StatusCode::CREATED, Json(made)))
}

/// A copy to be made.
struct Work {
    app: App,
    caller: Caller,
    at: SessionPath,
    body: api::Publish,
    paths: Vec<String>,
    lasts: Option<Duration>,
}

impl Work {
    async fn run(self, claim: Claim) -> Result<api::Published, Error> {
        let Self { app, caller, at, body, paths, lasts } = self;
        let mut scope = app.store.scope(&caller, &at.space).await?;
        let permit = scope.sessions().permit(&at.session, Verb::Publish).await?;
        let session = NameOrId::Id(permit.row().id);
        let leaks = scope.published().leaks(&permit).await?;
        let (id, name) = (permit.row().id.uuid(), permit.row().name.to_string());
        let approach = Approach::begin(&app, &mut scope, permit, Wants::Files).await?;
        let detail = json!({"paths": &paths, "secrets_checked": leaks.len()});
        scope.audit(Verb::Publish, Resource::Sessions, Some(id), Some(&name), detail);
        scope.commit().await?;
        let _place = app.hosts.copies.0.clone().acquire_owned().await.map_err(Error::internal)?;
        let mut computer = approach.arrive().await?;
        let mut copier = app.store.copier(leaks);
        copy_all(&mut computer, &mut copier, &paths).await?;
        let copied = copier.finish();
        if copied.files.is_empty() {
            let detail = "there is no file at these paths, and nothing was published";
            return Err(Error::new(Code::InvalidReference, detail).field("paths"));
        }
        let mut scope = app.store.scope(&caller, &at.space).await?;
        claim.attach(&mut scope);
        // Looked at again: it took its time, and the session or the right may be gone.
        let permit = scope.sessions().permit(&session, Verb::Publish).await?;
        let new = NewPublished {
            name: body.name,
            public: body.visibility == api::Visibility::Public,
            paths,
            labels: body.labels,
            expires_at: lasts.map(|lasts| scope.now().plus(lasts)),
        };
        let made = show(&app, scope.published().create(&permit, new, copied).await?);
        scope.commit_reply(201, &made).await?;
        Ok(made)
    }
}

/// End all published copies of a session
///
/// Their addresses and all links to them end at once.
#[utoipa::path(delete, path = "/v1/spaces/{space}/sessions/{session}/publish", tag = "published",
    responses((status = 200, body = api::Unpublished)))]
pub(crate) async fn unpublish(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    IfMatch(version): IfMatch,
) -> Result<Json<api::Unpublished>, Problem> {
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Publish).await?;
    super::view::check_version(permit.row().resource_version, version)?;
    let copies = scope.published().delete_of(&permit).await?;
    scope.commit().await?;
    Ok(Json(api::Unpublished { copies }))
}

async fn copy_all(computer: &mut Computer, copier: &mut Copier, paths: &[String]) -> Result<(), Error> {
    let alone = paths.len() == 1;
    for path in paths {
        let info = stat(computer, path).await?;
        let last = path.rsplit('/').next().unwrap_or_default();
        match info.kind {
            FileKind::File => copy_file(computer, copier, path, last.to_owned()).await?,
            FileKind::Directory => {
                let below = if alone { String::new() } else { format!("{last}/") };
                copy_directory(computer, copier, path, &below).await?;
            }
            _ => {
                let detail = format!("{path} is neither a file nor a directory; name what it leads to");
                return Err(Error::new(Code::InvalidReference, detail).field("paths"));
            }
        }
    }
    Ok(())
}

async fn stat(computer: &mut Computer, path: &str) -> Result<FileInfo, Error> {
    let asked = |host: HostClient| {
        let path = path.to_owned();
        async move { host.stat(&path, false).await }
    };
    computer.read(asked).await.map_err(|e| match e.code {
        Code::NotFound => {
            Error::new(Code::InvalidReference, format!("there is no {path} in the session")).field("paths")
        }
        _ => e,
    })
}

/// Directory by directory, without recursion: what is to be read is a list.
async fn copy_directory(
    computer: &mut Computer,
    copier: &mut Copier,
    root: &str,
    below: &str,
) -> Result<(), Error> {
    let mut ahead = vec![(root.to_owned(), below.to_owned(), 0_usize)];
    while let Some((directory, place, depth)) = ahead.pop() {
        let mut cursor: Option<String> = None;
        loop {
            let page = computer
                .read(|host: HostClient| {
                    let (directory, cursor) = (directory.clone(), cursor.clone());
                    async move { host.list_files(&directory, cursor.as_deref(), Some(PAGE)).await }
                })
                .await?;
            for entry in page.entries {
                let path = format!("{directory}/{}", entry.name);
                let to = format!("{place}{}", entry.name);
                match entry.kind {
                    // A name that is not text stands in no address.
                    _ if entry.name_b64.is_some() => copier.leave_out(),
                    FileKind::File => copy_file(computer, copier, &path, to).await?,
                    FileKind::Directory if depth < DEPTH => ahead.push((path, to + "/", depth + 1)),
                    FileKind::Directory => {
                        let detail = format!("{path} lies over {DEPTH} directories deep");
                        return Err(Error::new(Code::TooLarge, detail).field("paths"));
                    }
                    _ => copier.leave_out(),
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
    }
    Ok(())
}

async fn copy_file(
    computer: &mut Computer,
    copier: &mut Copier,
    path: &str,
    to: String,
) -> Result<(), Error> {
    let asked = |host: HostClient| {
        let path = path.to_owned();
        async move { host.read_file(&path, None).await }
    };
    let mut content = match computer.read(asked).await {
        Ok(content) => content,
        // It went away, or became something else, after it was listed.
        Err(error) if matches!(error.code, Code::NotFound | Code::InvalidState) => {
            copier.leave_out();
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut file = copier.file(to, path.to_owned())?;
    while let Some(chunk) = content.bytes.next().await {
        file.write(&chunk.map_err(|e: HostError| Error::from(e))?).await?;
    }
    file.finish().await
}
