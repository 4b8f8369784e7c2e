//! The terminal endpoints. A viewer attaches by upgrading its connection and then speaks frames; leaving changes
//! nothing for the program or for others.

use std::sync::Arc;

use bytes::BytesMut;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use wharf_domain::Code;
use wharf_wire::host::frame::Frame;
use wharf_wire::host::terminal::{TERMINAL_PROTOCOL, TerminalRequest, Terminals as List};

use crate::fault::{Fault, Result};
use crate::host::Host;
use crate::limits;
use crate::reply::{self, Body, Reply};
use crate::request::{self, Incomes, Query};
use crate::terminal::{Terminal, Viewer};

pub async fn create(host: &Host, mut request: Incomes) -> Result<Reply> {
    Query::of(&request)?.finish()?;
    let wanted: TerminalRequest = request::json(&mut request, limits::BODY_BYTES).await?;
    host.terminals.room()?;
    let terminal = Terminal::start(host, &wanted)?;
    let id = host.terminals.add(Arc::clone(&terminal));
    reply::json_with(StatusCode::CREATED, &terminal.info(id))
}

pub fn list(host: &Host) -> Result<Reply> {
    reply::json(&List { terminals: host.terminals.list() })
}

/// Ends the program and forgets the terminal. Viewers see its exit.
pub fn delete(host: &Host, id: u64) -> Result<Reply> {
    let terminal = host.terminals.remove(id)?;
    host.reaper.kill(terminal.pid);
    Ok(reply::empty())
}

/// Whether a request asks to leave HTTP for `protocol`.
pub fn upgrades_to(request: &Incomes, protocol: &str) -> bool {
    request.headers().get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()))
}

pub fn switching(protocol: &'static str) -> Reply {
    let mut reply = Response::new(Body::Full(None));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    reply.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    reply
}

pub fn get(host: &Host, id: u64, mut request: Incomes) -> Result<Reply> {
    let terminal = host.terminals.get(id)?;
    let mut query = Query::of(&request)?;
    let after: u64 = query.number("after")?.unwrap_or(0);
    query.finish()?;
    if !upgrades_to(&request, TERMINAL_PROTOCOL) {
        if request.headers().contains_key(UPGRADE) {
            return Err(Fault::new(Code::BadRequest, format!("a terminal speaks {TERMINAL_PROTOCOL}")));
        }
        return reply::json(&terminal.info(id));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let viewer = terminal.look();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (read, write) = tokio::io::split(TokioIo::new(upgraded));
            tokio::select! {
                () = show(&viewer, after, write) => {}
                () = listen(&viewer, read) => {}
            }
        }
    });
    Ok(switching(TERMINAL_PROTOCOL))
}

/// Everything from `after` on, then the exit.
async fn show(Viewer(terminal): &Viewer, after: u64, mut to: impl AsyncWrite + Unpin) {
    let mut size = terminal.size.subscribe();
    let ended = terminal.ended();
    tokio::pin!(ended);
    let mut exit = None;
    let mut next = after;
    let mut out = Vec::new();
    let mut is_first = true;
    loop {
        let slice = terminal.ring.read(next, limits::PIECE_BYTES);
        if is_first || slice.offset != next {
            Frame::Offset(slice.offset).encode(&mut out);
            is_first = false;
        }
        next = slice.next();
        let quiet = slice.bytes.is_empty();
        if !quiet {
            Frame::Data(slice.bytes).encode(&mut out);
        } else if let Some(exit) = exit {
            Frame::Exit(exit).encode(&mut out);
        }
        if !out.is_empty() && (to.write_all(&out).await.is_err() || to.flush().await.is_err()) {
            return;
        }
        out.clear();
        if quiet && exit.is_some() {
            let _ = to.shutdown().await;
            return;
        }
        if quiet {
            tokio::select! {
                e = &mut ended => exit = Some(e),
                () = wait(terminal, next) => {}
                Ok(()) = size.changed() => {
                    let (cols, rows) = *size.borrow_and_update();
                    Frame::Resize { cols, rows }.encode(&mut out);
                }
            }
        }
    }
}

/// Waits for output; at its end only the exit is left to wait for.
async fn wait(terminal: &Terminal, next: u64) {
    terminal.ring.wait(next).await;
    if terminal.ring.end() <= next {
        std::future::pending::<()>().await;
    }
}

/// Keys and sizes, until the viewer leaves or sends what is no frame.
async fn listen(Viewer(terminal): &Viewer, mut from: impl AsyncRead + Unpin) {
    let mut buffer = BytesMut::new();
    loop {
        loop {
            match Frame::decode(&mut buffer) {
                Ok(None) => break,
                Ok(Some(Frame::Data(bytes))) => {
                    if !terminal.write(&bytes).await {
                        // The exit is on its way to the viewer; `show` ends the connection.
                        return std::future::pending().await;
                    }
                }
                Ok(Some(Frame::Resize { cols, rows })) => {
                    if terminal.resize(cols, rows).is_err() {
                        return;
                    }
                }
                Ok(Some(Frame::Offset(_) | Frame::Exit(_))) | Err(_) => return,
            }
        }
        match from.read_buf(&mut buffer).await {
            Ok(n) if n > 0 => {}
            _ => return,
        }
    }
}
