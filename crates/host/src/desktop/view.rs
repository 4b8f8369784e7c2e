//! Viewers over VNC: each has an x11vnc of its own on a socket pair, so that nobody else can reach it, what a viewer may do is that
//! program's own rule, and it ends with the viewer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hyper_util::rt::TokioIo;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::net::UnixStream;
use wharf_domain::Code;
use wharf_wire::host::Env;
use wharf_wire::host::desktop::{DESKTOP_PROTOCOL, ViewMode};

use super::{Display, program, server};
use crate::fault::{Fault, Result};
use crate::host::Host;
use crate::reply::Reply;
use crate::request::Incomes;
use crate::spawn::Streams;
use crate::terminals::switching;

/// Viewers at once; each takes some 20 MiB of the session.
const VIEWERS: u32 = 16;

/// Counts one viewer for as long as it lives.
struct Seat(Arc<AtomicU32>);

impl Seat {
    fn take(seats: &Arc<AtomicU32>) -> Result<Self> {
        let seat = Self(Arc::clone(seats));
        if seats.fetch_add(1, Ordering::Relaxed) >= VIEWERS {
            return Err(Fault::new(
                Code::QuotaExceeded,
                format!("{VIEWERS} viewers look at the desktop already; that is the limit"),
            ));
        }
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Turns the connection into one that speaks RFB.
pub fn open(host: Arc<Host>, display: &Display, mode: ViewMode, mut request: Incomes) -> Result<Reply> {
    if !program(&host, "x11vnc") {
        let detail =
            "the session's image has no x11vnc, so its desktop cannot be viewed; use the image desktop";
        return Err(Fault::new(Code::Unsupported, detail));
    }
    let seat = Seat::take(&display.viewers)?;
    let failed = |e: std::io::Error| Fault::io("connecting", "the viewer", &e);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| failed(e.into()))?;
    let ours = std::os::unix::net::UnixStream::from(ours);
    ours.set_nonblocking(true).map_err(failed)?;
    let mut ours = UnixStream::from_std(ours).map_err(failed)?;
    let mut argv: Vec<String> =
        ["x11vnc", "-inetd", "-display", &display.name(), "-nopw", "-norc", "-shared"]
            .map(str::to_owned)
            .to_vec();
    // Quiet, without beeps; looks at the screen 50
    // times a second when it changes.
    argv.extend(["-q", "-nobell", "-wait", "20", "-defer", "10"].map(str::to_owned));
    if mode == ViewMode::View {
        argv.extend(["-viewonly".to_owned(), "-noremote".to_owned()]);
    }
    let env = Env::from([("DISPLAY", display.name())]);
    let viewer = server::launch(&host, &argv, &env, None, Streams::Socket(theirs))?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _seat = seat;
        if let Ok(upgraded) = upgrade.await {
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut ours).await;
        }
        drop(ours);
        host.reaper.kill(viewer.pid);
    });
    Ok(switching(DESKTOP_PROTOCOL))
}
