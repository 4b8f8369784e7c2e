//! The file endpoints. The host acts with its own power (uid 0 of the session) and gives what is new to `agent`, or to whom the
//! caller names.

mod content;
mod info;
mod manage;
mod tar_in;
mod tar_out;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use wharf_domain::Code;
use wharf_wire::host::files::{ChangeMode, ChangeOwner, MakeDirectory, MoveFile, Unpacked};

pub use content::{read, write};

use crate::accounts;
use crate::fault::{Fault, Result};
use crate::host::{Host, off_thread};
use crate::limits;
use crate::reply::{self, Reply};
use crate::request::{self, Incomes, Query};

pub async fn stat(host: Arc<Host>, request: Incomes) -> Result<Reply> {
    let mut query = Query::of(&request)?;
    let (path, follow) = (query.path("path")?, query.flag("follow")?);
    query.finish()?;
    reply::json(&off_thread(move || info::stat(&host.root, &path, follow)).await?)
}

pub async fn list(host: Arc<Host>, request: Incomes) -> Result<Reply> {
    let mut query = Query::of(&request)?;
    let path = query.path("path")?;
    let after = query.take("after");
    let limit: usize = query.number("limit")?.unwrap_or(limits::LIST_PAGE);
    query.finish()?;
    if !(1..=limits::LIST_PAGE).contains(&limit) {
        return Err(Fault::invalid("limit", format!("{limit} is not between 1 and {}", limits::LIST_PAGE)));
    }
    reply::json(&off_thread(move || info::list(&host.root, &path, after.as_deref(), limit)).await?)
}

pub async fn mkdir(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    let wanted: MakeDirectory = request::json(&mut request, limits::BODY_BYTES).await?;
    off_thread(move || manage::mkdir(&host, &wanted)).await?;
    Ok(reply::empty())
}

pub async fn delete(host: Arc<Host>, request: Incomes) -> Result<Reply> {
    let mut query = Query::of(&request)?;
    let (path, recursive) = (query.path("path")?, query.flag("recursive")?);
    query.finish()?;
    reply::json(&off_thread(move || manage::delete(&host, &path, recursive)).await?)
}

pub async fn rename(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    let wanted: MoveFile = request::json(&mut request, limits::BODY_BYTES).await?;
    off_thread(move || manage::rename(&host, &wanted)).await?;
    Ok(reply::empty())
}

pub async fn chmod(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    let wanted: ChangeMode = request::json(&mut request, limits::BODY_BYTES).await?;
    off_thread(move || manage::chmod(&host, &wanted)).await?;
    Ok(reply::empty())
}

pub async fn chown(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    let wanted: ChangeOwner = request::json(&mut request, limits::BODY_BYTES).await?;
    off_thread(move || manage::chown(&host, &wanted)).await?;
    Ok(reply::empty())
}

fn tar_permit(host: &Host) -> Result<OwnedSemaphorePermit> {
    Arc::clone(&host.tars).try_acquire_owned().map_err(|_| {
        Fault::new(Code::RateLimited, format!("{} archives are on their way already", limits::TARS))
    })
}

pub async fn download(host: Arc<Host>, request: Incomes) -> Result<Reply> {
    let mut query = Query::of(&request)?;
    let path = query.path("path")?;
    query.finish()?;
    let permit = tar_permit(&host)?;
    let start = off_thread(move || {
        tar_out::Start::open(&host.root, &path).map_err(|e| match e.raw_os_error() {
            Some(_) => Fault::io("packing", path.as_str(), &e),
            None => Fault::new(Code::InvalidState, format!("packing {path}: {e}")),
        })
    })
    .await?;
    let (sender, reply) = reply::stream(StatusCode::OK, "application/x-tar", None);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        start.pack(&sender);
    });
    Ok(reply)
}

pub async fn upload(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    let unpacked = unpack(host, &mut request).await;
    if unpacked.is_err() {
        request::drain(&mut request).await;
    }
    reply::json(&unpacked?)
}

async fn unpack(host: Arc<Host>, request: &mut Incomes) -> Result<Unpacked> {
    let mut query = Query::of(request)?;
    let path = query.path("path")?;
    let owner = query.take("owner");
    let preserve_owner = query.flag("preserve_owner")?;
    let parents = query.flag("parents")?;
    query.finish()?;
    if owner.is_some() && preserve_owner {
        return Err(Fault::invalid("owner", "give owner or preserve_owner, not both"));
    }
    let permit = tar_permit(&host)?;
    let unpack = off_thread(move || {
        let failed = |e: io::Error| Fault::io("unpacking into", path.as_str(), &e);
        let owner = accounts::owner(&host.root, host.power, owner.as_deref())?;
        let target = if parents {
            host.root.make_directories(&path, 0o755, owner)
        } else {
            host.root.directory(&path)
        };
        Ok(tar_in::Unpack { target: target.map_err(failed)?, owner, preserve_owner })
    })
    .await?;
    let (sender, chunks) = mpsc::channel::<io::Result<Bytes>>(4);
    let mut unpacking = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        unpack.run(tar_in::Incoming { chunks, left: Bytes::new() })
    });
    let fed = async {
        while let Some(frame) = request.body_mut().frame().await {
            let chunk = match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => Ok(data),
                    Err(_) => continue,
                },
                Err(e) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, e.to_string())),
            };
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
        drop(sender);
    };
    tokio::select! {
        done = &mut unpacking => return finished(done),
        () = fed => {}
    }
    finished(unpacking.await)
}

fn finished(done: Result<Result<Unpacked>, tokio::task::JoinError>) -> Result<Unpacked> {
    done.map_err(|e| Fault::new(Code::Internal, format!("unpacking broke: {e}")))?
}
