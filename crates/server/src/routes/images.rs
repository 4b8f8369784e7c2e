//! Images: root filesystems sessions start from. Every space sees the same ones.

use std::os::unix::fs::OpenOptionsExt as _;

use axum::extract::{Request, State};
use futures_util::StreamExt as _;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use utoipa::IntoParams;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, Name, OperatorId};
use wharf_ports::SandboxRuntime;
use wharf_store::sessions::ImageRow;
use wharf_store::sessions::work::Owner;
use wharf_store::{Actor, PageRequest};
use wharf_wire::api;

use super::fault::from_fault;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Json, ListQuery, Params, Query, SpacePath};
use crate::problem::Problem;

/// Bytes of an archive; a root filesystem larger than this is a mistake.
const ARCHIVE_BYTES: u64 = 32 * 1024 * 1024 * 1024;

pub(crate) struct ImagePath {
    at: SpacePath,
    image: Name,
}

impl FromPath for ImagePath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SpacePath::from_path(p)?, image: p.get("image")? })
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct VersionQuery {
    /// This version; the newest when absent.
    #[param(pattern = "^[0-9a-f]{64}$")]
    digest: Option<String>,
    /// The one this runtime holds.
    #[param(pattern = "^(native|docker)$")]
    runtime: Option<String>,
}

fn show(row: ImageRow) -> api::Image {
    api::Image {
        id: row.id,
        name: row.image.name,
        digest: row.image.digest,
        runtime: row.runtime,
        size_bytes: row.size_bytes,
        created_at: row.created_at,
    }
}

/// List images
///
/// All versions, by name and newest first.
#[utoipa::path(get, path = "/v1/spaces/{space}/images", tag = "images", params(ListQuery),
    responses((status = 200, body = api::Page<api::Image>)))]
pub(crate) async fn list_images(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<ListQuery>,
) -> Result<Json<api::Page<api::Image>>, Problem> {
    if query.labels.is_some() {
        return Err(Error::new(Code::InvalidField, "images have no labels").field("labels").into());
    }
    let limit = PageRequest::new(query.limit, None, None)?.limit() as usize;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let all = scope.images().list().await?;
    let begin = match &query.cursor {
        None => 0,
        Some(cursor) => {
            all.iter().position(|i| i.id.to_string() == *cursor).map(|n| n + 1).ok_or_else(|| {
                Error::new(Code::InvalidField, "that is not a cursor of this list; start again without one")
                    .field("cursor")
            })?
        }
    };
    let more = all.len() > begin + limit;
    let items: Vec<_> = all.into_iter().skip(begin).take(limit).map(show).collect();
    let next_cursor = items.last().filter(|_| more).map(|i| i.id.to_string());
    Ok(Json(api::Page { items, next_cursor }))
}

/// Get an image
#[utoipa::path(get, path = "/v1/spaces/{space}/images/{image}", tag = "images", params(VersionQuery),
    responses((status = 200, body = api::Image)))]
pub(crate) async fn get_image(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ImagePath>,
    Query(query): Query<VersionQuery>,
) -> Result<Json<api::Image>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope
        .images()
        .permit(&at.image, query.digest.as_deref(), query.runtime.as_deref(), Verb::Get)
        .await?;
    Ok(Json(show(permit.into_row())))
}

/// Delete a version of an image
///
/// Refused while a session or a snapshot stands on it.
#[utoipa::path(delete, path = "/v1/spaces/{space}/images/{image}", tag = "images", params(VersionQuery),
    responses((status = 204)))]
pub(crate) async fn delete_image(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ImagePath>,
    Query(query): Query<VersionQuery>,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope
        .images()
        .permit(&at.image, query.digest.as_deref(), query.runtime.as_deref(), Verb::Delete)
        .await?;
    let used = scope.images().used_by(&permit.row().image, &permit.row().runtime).await?;
    if used > 0 {
        let detail =
            format!("{used} sessions or snapshots stand on this version of {}; delete them first", at.image);
        return Err(Error::new(Code::InUse, detail).into());
    }
    let row = permit.row();
    let detail = json!({"digest": row.image.digest, "runtime": row.runtime});
    scope.audit(Verb::Delete, Resource::Images, Some(row.id.uuid()), Some(row.image.name.as_str()), detail);
    // Recorded first: what the runtime then refuses was still asked for.
    scope.commit().await?;
    let runtime = app.runtimes.get(&permit.row().runtime).map_err(from_fault)?;
    runtime.delete_image(&permit.row().image).await.map_err(from_fault)?;
    sync(&app, &**runtime).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ImportQuery {
    /// The image's name. A name that is there gets a new version.
    #[param(value_type = String, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63)]
    name: Name,
}

/// Import an image
///
/// The body is a tar archive of a root filesystem, plain or compressed with gzip or zstd where the runtime takes that.
/// Sessions made from now on start from it. It goes to the runtime that the settings name for it.
#[utoipa::path(post, path = "/v1/spaces/{space}/images", tag = "images", params(ImportQuery),
    request_body(content((String = "application/octet-stream"), (String = "application/x-tar")), description = "The archive."),
    responses((status = 201, body = api::Image)))]
pub(crate) async fn import_image(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<ImportQuery>,
    request: Request,
) -> Result<(StatusCode, Json<api::Image>), Problem> {
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim();
    if !matches!(essence, "application/x-tar" | "application/octet-stream") {
        let detail = "send the archive with `Content-Type: application/x-tar`";
        return Err(Error::new(Code::UnsupportedMediaType, detail).into());
    }
    // Asked before the upload, so that nobody sends gigabytes in vain, and again after it.
    app.store.scope(&caller, &at.space).await?.images().allow(&query.name).await?;
    let (archive, bytes) = spool(&app, request).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    scope.images().allow(&query.name).await?;
    // Recorded first: what the runtime then refuses was still asked for.
    scope.audit(Verb::Create, Resource::Images, None, Some(query.name.as_str()), json!({"bytes": bytes}));
    scope.commit().await?;
    let runtime = app.runtimes.get(app.runtimes.name_for(&query.name)).map_err(from_fault)?;
    let info = runtime.import_image(&query.name, archive).await.map_err(from_fault)?;
    sync(&app, &**runtime).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let (digest, runtime) = (Some(info.image.digest.as_str()), Some(runtime.name()));
    let row = scope.images().permit(&query.name, digest, runtime, Verb::Create).await?.into_row();
    Ok((StatusCode::CREATED, Json(show(row))))
}

/// The body in a file without a name: whatever happens, nothing of it stays behind.
async fn spool(app: &App, request: Request) -> Result<(std::fs::File, u64), Error> {
    let dir = app.settings.spool_dir();
    let open = move || {
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("image-{}", OperatorId::new()));
        let file =
            std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok::<_, std::io::Error>(file)
    };
    let file = tokio::task::spawn_blocking(open).await.map_err(Error::internal)?.map_err(Error::internal)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut taken = 0_u64;
    let mut body = request.into_body().into_data_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| {
            Error::new(Code::BadRequest, "the archive ended before it was complete").because(e)
        })?;
        taken += chunk.len() as u64;
        if taken > ARCHIVE_BYTES {
            return Err(Error::new(
                Code::TooLarge,
                format!("the archive is over the limit of {ARCHIVE_BYTES} bytes"),
            ));
        }
        file.write_all(&chunk).await.map_err(Error::internal)?;
    }
    if taken == 0 {
        return Err(Error::new(
            Code::InvalidField,
            "the body is empty; send a tar archive of a root filesystem",
        ));
    }
    file.flush().await.map_err(Error::internal)?;
    let mut file = file.into_std().await;
    tokio::task::spawn_blocking(move || {
        std::io::Seek::rewind(&mut file)?;
        Ok::<_, std::io::Error>((file, taken))
    })
    .await
    .map_err(Error::internal)?
    .map_err(Error::internal)
}

/// Makes the rows what the runtime holds, so that the next request finds it.
async fn sync(app: &App, runtime: &dyn SandboxRuntime) -> Result<(), Error> {
    let held = runtime.inventory().await.map_err(from_fault)?;
    let owner = Owner { operator: OperatorId::new(), machine: String::new() };
    app.store.system(Actor::Operator).work(owner).sync_images(runtime.name(), &held.images).await
}
