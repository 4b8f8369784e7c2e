//! The desktop's endpoints, on the host's socket and on one for the session's own processes.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use wharf_wire::host::desktop::{
    DESKTOP_PROTOCOL, DESKTOP_SOCKET, DesktopInfo, InputDone, InputRequest, PNG, SCALE_MAX, SCALE_MIN,
    SETTLE_MAX_MS, Screenshot, ViewMode,
};

use super::screen::Screen;
use super::{capture, plan, view};
use crate::fault::{Fault, Result};
use crate::host::{Host, off_thread};
use crate::limits;
use crate::reply::{self, Reply};
use crate::request::{self, Incomes, Query};
use crate::terminals::upgrades_to;

/// Asking where the pointer is.
const GLANCE: Duration = Duration::from_secs(2);

/// `GET /desktop`: what there is, or a viewer's connection.
pub async fn show(host: Arc<Host>, request: Incomes) -> Result<Reply> {
    let mut query = Query::of(&request)?;
    let mode = match query.take("mode").as_deref() {
        None | Some("control") => ViewMode::Control,
        Some("view") => ViewMode::View,
        Some(other) => {
            return Err(Fault::invalid("mode", format!("mode is view or control, not {other:?}")));
        }
    };
    query.finish()?;
    if upgrades_to(&request, DESKTOP_PROTOCOL) {
        let display = host.desktop.up().await?;
        return view::open(host, &display, mode, request);
    }
    if request.headers().contains_key(hyper::header::UPGRADE) {
        return Err(Fault::new(
            wharf_domain::Code::BadRequest,
            format!("a desktop speaks {DESKTOP_PROTOCOL}"),
        ));
    }
    let display = host.desktop.get()?;
    let pointer = if display.is_up() {
        let path = display.socket.clone();
        off_thread(move || Screen::connect(&path, GLANCE)?.pointer()).await.ok()
    } else {
        None
    };
    let setting = display.setting()?;
    reply::json(&DesktopInfo {
        display: display.name(),
        width: setting.size.width,
        height: setting.size.height,
        dpi: setting.dpi,
        running: display.is_up(),
        viewers: display.viewers.load(Ordering::Relaxed),
        pointer,
    })
}

/// `GET /screenshot`.
pub async fn screenshot(host: Arc<Host>, request: Incomes) -> Result<Reply> {
    let wanted = wanted(Query::of(&request)?)?;
    let display = host.desktop.get()?;
    // What is wrong with the request is said before anything is started for it.
    let region = capture::within(wanted.region, display.setting()?.size)?;
    capture::target(&wanted, region)?;
    display.up().await?;
    let path = display.socket.clone();
    let png = off_thread(move || capture::take(&path, &wanted)).await?;
    Ok(reply::bytes(StatusCode::OK, PNG, png))
}

pub fn wanted(mut query: Query) -> Result<Screenshot> {
    let parsed = |name: &str, text: String| Fault::invalid(name, text);
    let region = query.take("region").map(|t| t.parse().map_err(|e| parsed("region", e))).transpose()?;
    let size = query.take("size").map(|t| t.parse().map_err(|e| parsed("size", e))).transpose()?;
    let scale: Option<f32> = query.number("scale")?;
    let settle_ms: Option<u32> = query.number("settle")?;
    let settle_limit_ms: Option<u32> = query.number("settle_limit")?;
    let cursor = match query.take("cursor").as_deref() {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => {
            return Err(Fault::invalid("cursor", format!("cursor is true or false, not {other:?}")));
        }
    };
    query.finish()?;
    if scale.is_some_and(|s| !(SCALE_MIN..=SCALE_MAX).contains(&s)) {
        return Err(Fault::invalid("scale", format!("scale is {SCALE_MIN} to {SCALE_MAX}")));
    }
    if scale.is_some() && size.is_some() {
        return Err(Fault::invalid("scale", "give size or scale, not both"));
    }
    for (name, ms) in [("settle", settle_ms), ("settle_limit", settle_limit_ms)] {
        if ms.is_some_and(|ms| ms > SETTLE_MAX_MS) {
            return Err(Fault::invalid(name, format!("{name} is up to {SETTLE_MAX_MS} ms")));
        }
    }
    Ok(Screenshot { region, size, scale, settle_ms, settle_limit_ms, no_cursor: !cursor })
}

/// Told when whoever asked went away.
struct Asked(Arc<AtomicBool>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `POST /input`.
pub async fn input(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    Query::of(&request)?.finish()?;
    let wanted: InputRequest = request::json(&mut request, limits::BODY_BYTES).await?;
    let display = host.desktop.get()?;
    let steps = plan::plan(&wanted, display.setting()?.size)?;
    display.up().await?;
    let path = display.socket.clone();
    let mut hands = Arc::clone(&display.hands).lock_owned().await;
    let asked = Asked(Arc::default());
    let gone = Arc::clone(&asked.0);
    let pointer = off_thread(move || hands.act(&path, &steps, &gone)).await?;
    reply::json(&InputDone { pointer })
}

/// Serves these endpoints, and none but these, to the session's own processes. Without it they still have the screen.
pub fn serve_inside(host: &Arc<Host>, whole: bool) {
    let path = if whole {
        std::path::PathBuf::from(DESKTOP_SOCKET)
    } else {
        host.root.outside_path().join(DESKTOP_SOCKET.trim_start_matches('/'))
    };
    let bind = || {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    };
    if let Ok(listener) = bind() {
        tokio::spawn(crate::server::serve_desktop(Arc::clone(host), listener));
    }
}
