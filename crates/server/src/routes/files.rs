//! Files of a session, running or closed: a closed one gets a small computer for a minute, and its state stays `closed`.
//!
//! Content streams both ways and is never whole in memory. A write is all or nothing.

use std::io;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use wharf_chassis::host_client::{ByteStream, FileRange, HostClient, HostError};
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, Time, limits};
use wharf_wire::api;
use wharf_wire::host::files as host;

use super::computer::{Approach, Computer, Wants};
use crate::app::App;
use crate::extract::{At, Auth, FilePath, Flag, Halt, Json, Keyed, Query, bounded};
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetQuery {
    /// Answers what is known of the path instead of its content.
    #[param(value_type = Option<bool>)]
    stat: Flag,
    /// Answers the entries of a directory.
    #[param(value_type = Option<bool>)]
    list: Flag,
    /// Answers the path and all below it as a tar archive.
    #[param(value_type = Option<bool>)]
    tar: Flag,
    /// With `list`: entries of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// With `list`: where the page begins.
    #[param(max_length = 4095)]
    cursor: Option<String>,
}

async fn open(app: &App, caller: &wharf_store::Caller, at: &FilePath, verb: Verb) -> Result<Computer, Error> {
    let mut scope = app.store.scope(caller, &at.at.space).await?;
    let permit = scope.sessions().permit_files(&at.at.session, verb).await?;
    let approach = Approach::begin(app, &mut scope, permit, Wants::Files).await?;
    if verb != Verb::Get {
        let (id, name) = (approach.permit().row().id.uuid(), approach.permit().row().name.to_string());
        scope.audit(verb, Resource::Files, Some(id), Some(&name), json!({"path": at.path}));
    }
    // A wish to restore is recorded before anyone waits for it.
    scope.commit().await?;
    approach.arrive().await
}

fn mode(text: &str, field: &str) -> Result<u32, Error> {
    let fits = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let refuse = || {
        Error::new(Code::InvalidField, "permission bits are three or four octal digits, such as 0644")
            .field(field)
    };
    if !fits {
        return Err(refuse());
    }
    u32::from_str_radix(text, 8).map_err(|_| refuse())
}

fn kind(kind: host::FileKind) -> api::FileKind {
    match kind {
        host::FileKind::File => api::FileKind::File,
        host::FileKind::Directory => api::FileKind::Directory,
        host::FileKind::Symlink => api::FileKind::Symlink,
        host::FileKind::Fifo => api::FileKind::Fifo,
        host::FileKind::Socket => api::FileKind::Socket,
        host::FileKind::CharDevice => api::FileKind::CharDevice,
        host::FileKind::BlockDevice => api::FileKind::BlockDevice,
    }
}

fn show(path: String, f: host::FileInfo) -> api::FileInfo {
    use base64::Engine as _;
    api::FileInfo {
        path,
        name: f.name,
        name_b64: f.name_b64.map(|b| base64::engine::general_purpose::STANDARD.encode(b.0)),
        kind: kind(f.kind),
        size_bytes: f.size,
        mode: format!("{:04o}", f.mode & 0o7777),
        uid: f.uid,
        gid: f.gid,
        modified_at: Time::from_millis(f.modified_ms),
        target: f.target,
    }
}

/// Read a file
///
/// Its bytes, or a part of them with `Range`. `?stat` answers what is known of it, `?list` the entries of a directory,
/// `?tar` an archive. Works on a closed session too. The root directory is the path without anything behind `files/`.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/files/{*path}", tag = "files",
    params(GetQuery, ("Range" = Option<String>, Header, description = "One range of bytes (RFC 9110).", pattern = "^bytes=([0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})$")),
    responses(
        (status = 200, description = "The content; with `stat` or `list` what is known of it.", content(
            (String = "application/octet-stream"), (api::FileAnswer = "application/json"), (String = "application/x-tar"))),
        (status = 206, description = "A part of the content.", body = String, content_type = "application/octet-stream")))]
pub(crate) async fn get_file(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<FilePath>,
    Query(query): Query<GetQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let chosen = usize::from(query.stat.0) + usize::from(query.list.0) + usize::from(query.tar.0);
    if chosen > 1 {
        return Err(Error::new(Code::InvalidField, "give one of stat, list and tar").field("stat").into());
    }
    if !query.list.0 && (query.limit.is_some() || query.cursor.is_some()) {
        return Err(Error::new(Code::InvalidField, "limit and cursor go with list").field("limit").into());
    }
    let limit = query.limit.unwrap_or(limits::PAGE_DEFAULT);
    if !(1..=limits::PAGE_MAX).contains(&limit) {
        let detail = format!("limit is {limit}; it must be between 1 and {}", limits::PAGE_MAX);
        return Err(Error::new(Code::InvalidField, detail).field("limit").into());
    }
    let range = if chosen == 0 { range(&headers)? } else { None };
    let mut computer = open(&app, &caller, &at, Verb::Get).await?;
    let path = at.path;
    if query.stat.0 {
        let found = computer
            .read(|host| {
                let path = path.clone();
                async move { host.stat(&path, false).await }
            })
            .await?;
        return Ok(Json(show(path, found)).into_response());
    }
    if query.list.0 {
        let found = computer.read(|host| {
            let (path, cursor) = (path.clone(), query.cursor.clone());
            async move { host.list_files(&path, cursor.as_deref(), Some(limit)).await }
        });
        let found = found.await?;
        let below = path.trim_end_matches('/');
        let items = found.entries.into_iter().map(|f| show(format!("{below}/{}", f.name), f)).collect();
        return Ok(Json(api::Page { items, next_cursor: found.next }).into_response());
    }
    if query.tar.0 {
        let bytes = computer
            .read(|host| {
                let path = path.clone();
                async move { host.read_tar(&path).await }
            })
            .await?;
        return Ok(([(header::CONTENT_TYPE, "application/x-tar")], streamed(computer, bytes)).into_response());
    }
    let found = computer
        .read(|host| {
            let path = path.clone();
            async move { host.read_file(&path, range).await }
        })
        .await?;
    let mut response = streamed(computer, found.bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(length) = found.length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if let Some(range) = found.range.and_then(|r| HeaderValue::from_str(&r).ok()) {
        headers.insert(header::CONTENT_RANGE, range);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The bytes as they come; the session is in use until the last.
fn streamed(computer: Computer, bytes: ByteStream) -> Body {
    let in_use = computer.in_use();
    Body::from_stream(bytes.map(move |chunk| {
        let _in_use = &in_use;
        chunk.map_err(|e| io::Error::other(e.to_string()))
    }))
}

fn range(headers: &HeaderMap) -> Result<Option<FileRange>, Error> {
    let Some(value) = headers.get(header::RANGE) else { return Ok(None) };
    let bad = || {
        Error::new(Code::BadRequest, "Range takes one range of bytes: bytes=0-99, bytes=100- or bytes=-100")
            .field("Range")
    };
    let text = value.to_str().ok().and_then(|t| t.trim().strip_prefix("bytes=")).ok_or_else(bad)?;
    let (first, last) = text.split_once('-').ok_or_else(bad)?;
    let number = |t: &str| t.trim().parse::<u64>().map_err(|_| bad());
    let range = match (first.trim(), last.trim()) {
        ("", "") => return Err(bad()),
        ("", last) => FileRange::Last(number(last)?),
        (first, "") => FileRange::From(number(first)?, None),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(bad());
            }
            FileRange::From(first, Some(last))
        }
    };
    Ok(Some(range))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct PutQuery {
    /// Permission bits of the file, octal; those of the file that is replaced, else `0644`.
    #[param(pattern = "^[0-7]{3,4}$")]
    mode: Option<String>,
    /// Owner: `user` or `user:group`; that of the file that is replaced, else `agent`.
    #[param(min_length = 1, max_length = 128)]
    owner: Option<String>,
    /// Makes missing directories above it.
    #[param(value_type = Option<bool>)]
    parents: Flag,
    /// Adds to the end instead of replacing. Not all or nothing.
    #[param(value_type = Option<bool>)]
    append: Flag,
    /// The body is a tar archive to be unpacked into the directory of this path.
    #[param(value_type = Option<bool>)]
    tar: Flag,
}

/// Write a file
///
/// The body is its content, whole or not at all. `?tar` unpacks an archive into a directory.
#[utoipa::path(put, path = "/v1/spaces/{space}/sessions/{session}/files/{*path}", tag = "files", params(PutQuery),
    request_body(content((String = "application/octet-stream"), (String = "application/x-tar"))),
    responses((status = 200, body = api::Written)))]
pub(crate) async fn put_file(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<FilePath>,
    Query(query): Query<PutQuery>,
    request: Request,
) -> Result<Json<api::Written>, Problem> {
    let mode = query.mode.as_deref().map(|m| mode(m, "mode")).transpose()?;
    bounded("owner", query.owner.as_deref(), 128)?;
    if query.tar.0 && (mode.is_some() || query.append.0) {
        let detail = "an archive brings its own permission bits and is not added to the end of anything";
        return Err(Error::new(Code::InvalidField, detail).field("tar").into());
    }
    let computer = open(&app, &caller, &at, Verb::Update).await?;
    let content = request.into_body().into_data_stream().map_err(|e| io::Error::other(e.to_string()));
    // Not asked twice: a body can be read once.
    let written = if query.tar.0 {
        let done =
            computer.host().write_tar(&at.path, query.owner.as_deref(), query.parents.0, content).await;
        let done = match done {
            Ok(done) => done,
            Err(e) => return Err(broken_upload(&computer, e).await.into()),
        };
        api::Written { bytes: done.bytes, size_bytes: None, members: Some(done.members) }
    } else {
        let options =
            host::WriteOptions { mode, owner: query.owner, parents: query.parents.0, append: query.append.0 };
        let done = match computer.host().write_file(&at.path, &options, content).await {
            Ok(done) => done,
            Err(e) => return Err(broken_upload(&computer, e).await.into()),
        };
        api::Written { bytes: done.bytes, size_bytes: Some(done.size), members: None }
    };
    Ok(Json(written))
}

/// An upload that breaks off is the caller's doing as often as the host's.
async fn broken_upload(computer: &Computer, error: HostError) -> Error {
    match error {
        HostError::Broken(_) => match computer.broken(error).await {
            closed if closed.code == Code::InvalidState => closed,
            error => {
                Error::new(Code::BadRequest, "the body ended before it was complete; nothing was replaced")
                    .because(error)
            }
        },
        other => other.into(),
    }
}

/// Do something with a path
///
/// `mkdir`, `move`, `chmod` or `chown`.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/files/{*path}", tag = "files",
    request_body = api::FileOp, responses((status = 204)))]
pub(crate) async fn post_file(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<FilePath>,
    Keyed { key, body }: Keyed<api::FileOp>,
) -> Result<StatusCode, Halt> {
    let bits = match &body {
        api::FileOp::Mkdir { mode: Some(m), .. } | api::FileOp::Chmod { mode: m } => Some(mode(m, "mode")?),
        _ => None,
    };
    if let api::FileOp::Move { to, .. } = &body
        && !to.starts_with('/')
    {
        return Err(Error::new(Code::InvalidField, "to is an absolute path").field("to").into());
    }
    let claim = key.claim(&app, &caller).await?;
    let mut computer = open(&app, &caller, &at, Verb::Update).await?;
    let path = at.path.clone();
    computer.ask(|host| act(host, path.clone(), body.clone(), bits)).await?;
    if claim.0.is_some() {
        let mut scope = app.store.scope(&caller, &at.at.space).await?;
        claim.attach(&mut scope);
        scope.commit_reply(204, &serde_json::Value::Null).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn act(host: HostClient, path: String, op: api::FileOp, mode: Option<u32>) -> Result<(), HostError> {
    match op {
        api::FileOp::Mkdir { parents, .. } => {
            host.make_directory(&host::MakeDirectory { path, parents, mode, owner: None }).await
        }
        api::FileOp::Move { to, overwrite } => {
            host.move_file(&host::MoveFile { from: path, to, overwrite }).await
        }
        api::FileOp::Chmod { .. } => {
            host.change_mode(&host::ChangeMode { path, mode: mode.unwrap_or_default() }).await
        }
        api::FileOp::Chown { owner, recursive } => {
            host.change_owner(&host::ChangeOwner { path, owner, recursive }).await
        }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteQuery {
    /// Deletes a directory with everything below it.
    #[param(value_type = Option<bool>)]
    recursive: Flag,
}

/// Delete a path
#[utoipa::path(delete, path = "/v1/spaces/{space}/sessions/{session}/files/{*path}", tag = "files", params(DeleteQuery),
    responses((status = 200, body = api::FilesDeleted)))]
pub(crate) async fn delete_file(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<FilePath>,
    Query(query): Query<DeleteQuery>,
) -> Result<Json<api::FilesDeleted>, Problem> {
    let mut computer = open(&app, &caller, &at, Verb::Delete).await?;
    let path = at.path;
    let done = computer.ask(|host| {
        let path = path.clone();
        async move { host.delete_file(&path, query.recursive.0).await }
    });
    Ok(Json(api::FilesDeleted { entries: done.await?.entries }))
}
