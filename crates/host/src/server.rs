//! Accepts connections on the one socket and finds the endpoint of a request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use wharf_domain::Code;

use crate::fault::{Fault, Result};
use crate::host::{Host, off_thread};
use crate::limits;
use crate::reply::{self, Reply};
use crate::request::Incomes;
use crate::{desktop, exec, files, identity, processes, stats, terminals, tunnel, turns};

/// Bytes of a request's head.
const HEAD_BYTES: usize = 64 * 1024;

pub async fn serve(host: Arc<Host>, listener: UnixListener) {
    serve_with(host, listener, limits::CONNECTIONS, |_| true).await;
}

/// The desktop's endpoints alone, for the session's own processes.
pub async fn serve_desktop(host: Arc<Host>, listener: UnixListener) {
    let allowed = |path: &str| matches!(path, "/desktop" | "/screenshot" | "/input");
    serve_with(host, listener, limits::DESKTOP_CONNECTIONS, allowed).await;
}

async fn serve_with(host: Arc<Host>, listener: UnixListener, most: usize, allowed: fn(&str) -> bool) {
    let slots = Arc::new(Semaphore::new(most));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors or memory: a moment later some may be free.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            let _slot = slot;
            let service = service_fn(|request| answer(Arc::clone(&host), request, allowed));
            // A connection that breaks takes with it only what was tied to it.
            let _ = http1::Builder::new()
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
        });
    }
}

async fn answer(host: Arc<Host>, request: Incomes, allowed: fn(&str) -> bool) -> Result<Reply, Infallible> {
    host.memory.used();
    if !allowed(request.uri().path()) {
        return Ok(reply::fault(&Fault::not_found(format!("there is no {} here", request.uri().path()))));
    }
    Ok(route(host, request).await.unwrap_or_else(|fault| reply::fault(&fault)))
}

async fn route(host: Arc<Host>, request: Incomes) -> Result<Reply> {
    let path = request.uri().path().to_owned();
    let parts: Vec<String> = path
        .split('/')
        .skip(1)
        .map(|p| percent_decode_str(p).decode_utf8().map(std::borrow::Cow::into_owned))
        .collect::<Result<_, _>>()
        .map_err(|_| Fault::new(Code::BadRequest, "the path is not UTF-8"))?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let method = request.method().clone();
    let (get, post, put, delete) =
        (method == Method::GET, method == Method::POST, method == Method::PUT, method == Method::DELETE);
    match parts.as_slice() {
        ["health"] if get => identity::health(&host),
        ["identity"] if post => identity::claim(host, request).await,
        ["exec"] if post => exec::run(host, request).await,
        ["processes"] if post => processes::create(host, request).await,
        ["processes"] if get => processes::list(&host),
        ["processes", id] if get => processes::get(&host, number(id)?),
        ["processes", id] if delete => processes::delete(&host, number(id)?),
        ["processes", id, "output"] if get => processes::output(&host, number(id)?, &request),
        ["processes", id, "signal"] if post => processes::signal(&host, number(id)?, request).await,
        ["processes", id, "stdin"] if post => processes::stdin(&host, number(id)?, request).await,
        ["terminals"] if post => terminals::create(&host, request).await,
        ["terminals"] if get => terminals::list(&host),
        ["terminals", id] if get => terminals::get(&host, number(id)?, request),
        ["terminals", id] if delete => terminals::delete(&host, number(id)?),
        ["files"] if delete => files::delete(host, request).await,
        ["files", "stat"] if get => files::stat(host, request).await,
        ["files", "list"] if get => files::list(host, request).await,
        ["files", "content"] if get => files::read(host, request).await,
        ["files", "content"] if put => files::write(host, request).await,
        ["files", "mkdir"] if post => files::mkdir(host, request).await,
        ["files", "move"] if post => files::rename(host, request).await,
        ["files", "chmod"] if post => files::chmod(host, request).await,
        ["files", "chown"] if post => files::chown(host, request).await,
        ["files", "tar"] if get => files::download(host, request).await,
        ["files", "tar"] if put => files::upload(host, request).await,
        ["setup"] if post => turns::setup(host, request).await,
        ["turns"] if post => turns::start(host, request).await,
        ["turns"] if get => turns::list(&host),
        ["turns", key] if get => turns::get(&host, key),
        ["turns", key, "events"] if get => turns::events(&host, key, &request),
        ["turns", key, "cancel"] if post => turns::cancel(&host, key),
        ["desktop"] if get => desktop::show(host, request).await,
        ["screenshot"] if get => desktop::screenshot(host, request).await,
        ["input"] if post => desktop::input(host, request).await,
        ["stats"] if get => stats::stats(&host),
        ["ports"] if get => stats::ports(),
        ["ports", port] if get => tunnel::open(port, request).await,
        ["sync"] if post => sync(host).await,
        other => Err(nothing(other, &method)),
    }
}

/// Methods of a path, for those who used another.
fn methods(parts: &[&str]) -> Option<&'static str> {
    Some(match parts {
        ["health" | "stats" | "ports" | "desktop" | "screenshot"]
        | ["ports" | "turns", _]
        | ["files", "stat" | "list"]
        | ["processes", _, "output"]
        | ["turns", _, "events"] => "GET",
        ["identity" | "exec" | "setup" | "sync" | "input"]
        | ["processes", _, "signal" | "stdin"]
        | ["turns", _, "cancel"]
        | ["files", "mkdir" | "move" | "chmod" | "chown"] => "POST",
        ["processes" | "terminals" | "turns"] => "GET, POST",
        ["processes" | "terminals", _] => "DELETE, GET",
        ["files"] => "DELETE",
        ["files", "content" | "tar"] => "GET, PUT",
        _ => return None,
    })
}

fn nothing(parts: &[&str], method: &Method) -> Fault {
    let path = parts.join("/");
    match methods(parts) {
        Some(known) => Fault::new(Code::MethodNotAllowed, format!("/{path} takes {known}, not {method}")),
        None => Fault::not_found(format!("there is no /{path}")),
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| Fault::not_found(format!("{text:?} is no id: ids are numbers")))
}

/// Brings the session's files to the disk, so that the freeze that follows is short.
async fn sync(host: Arc<Host>) -> Result<Reply> {
    off_thread(move || {
        // The root's own descriptor is a mere path; syncfs wants an open one.
        let open = host.root.resolve(".", rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY);
        open.and_then(|fd| Ok(rustix::fs::syncfs(&fd)?)).map_err(|e| Fault::io("syncing", "/", &e))
    })
    .await?;
    Ok(reply::empty())
}
