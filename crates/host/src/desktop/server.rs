//! The X server and the window manager: bound for, started, watched, started again.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use wharf_wire::host::Env;

use super::screen::Screen;
use super::{Display, SOCKETS, State, program};
use crate::fault::{Fault, Result};
use crate::host::{Host, off_thread};
use crate::pump::{Pipe, into_ring};
use crate::reaper::{ExitWatch, ended};
use crate::ring::Ring;
use crate::spawn::{Spawned, Streams, Wanted, prepare};

/// Starting takes 0.3 s on a busy machine.
const START: Duration = Duration::from_secs(20);
/// A window manager takes 50 ms; programs work without it, only worse.
const MANAGED: Duration = Duration::from_secs(3);
/// The last words of a server that failed.
const LOG_BYTES: u64 = 4096;
/// Longest pause before a server that keeps dying is offered again.
const PAUSE: Duration = Duration::from_secs(5);
/// A server that lived longer was fine.
const FINE: Duration = Duration::from_secs(10);
/// How often a window manager that dies at once is tried again.
const MANAGERS: u32 = 5;
/// Where a session's process looks for it when the display is its own; elsewhere the first free one from here on.
const OUTSIDE_FIRST: u32 = 60;

fn lock(number: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/.X{number}-lock"))
}

/// The display's number, its socket's path, and the socket. In a jail it is `:0`, and whatever an earlier life of the
/// session has left there is stale: no process of that life exists.
pub fn bind(whole: bool) -> io::Result<(u32, PathBuf, UnixListener)> {
    match std::fs::create_dir(SOCKETS) {
        Ok(()) => std::fs::set_permissions(SOCKETS, std::fs::Permissions::from_mode(0o1777))?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    let candidates = if whole { 0..1 } else { OUTSIDE_FIRST..OUTSIDE_FIRST + 400 };
    let mut last = io::Error::other("no display is free");
    for number in candidates {
        let path = Path::new(SOCKETS).join(format!("X{number}"));
        if whole {
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_file(lock(number));
        } else if lock(number).exists() {
            continue;
        }
        match listen(&path) {
            Ok(listener) => return Ok((number, path, listener)),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub fn unbind(display: &Display) {
    let _ = std::fs::remove_file(&display.socket);
    let _ = std::fs::remove_file(lock(display.number));
}

/// As long as the session lives: waits for a use, runs the server, and offers a fresh socket when it is gone. Whoever
/// waits on the old one is cut off rather than left hanging.
pub async fn keep(host: Arc<Host>, display: Arc<Display>, listener: UnixListener) {
    let mut listener = Some(listener);
    let mut failures = 0_u32;
    loop {
        let bound = match listener.take() {
            Some(listener) => Ok(listener),
            None => {
                unbind(&display);
                listen(&display.socket)
            }
        };
        let socket = match bound.and_then(register) {
            Ok(socket) => socket,
            Err(e) => {
                display.tell(State::Failed(format!("no socket for its display: {e}").into()));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        tokio::select! {
            _ = socket.readable() => {}
            () = display.wanted.notified() => {}
        }
        host.memory.used();
        display.phase.send_modify(|phase| {
            phase.attempt += 1;
            phase.state = State::Starting;
        });
        let begun = Instant::now();
        let end = run(&host, &display, socket.get_ref()).await;
        drop(socket);
        display.hands.lock().await.forget();
        failures = if begun.elapsed() > FINE { 0 } else { failures + 1 };
        display.tell(match end {
            Ok(()) => State::Down,
            Err(fault) => State::Failed(fault.0.detail.as_str().into()),
        });
        tokio::time::sleep(PAUSE.min(Duration::from_millis(100) * failures.saturating_sub(1))).await;
    }
}

fn register(listener: UnixListener) -> io::Result<AsyncFd<UnixListener>> {
    // SAFETY: an owned socket stays open as long as it is registered: `AsyncFd` deregisters before it drops it.
    let registered = unsafe { AsyncFd::register(listener) };
    Ok(registered?)
}

impl Display {
    fn tell(&self, state: State) {
        self.phase.send_modify(|phase| phase.state = state);
    }
}

/// One life of the server. `Err` when it never came up.
async fn run(host: &Host, display: &Display, listener: &UnixListener) -> Result<()> {
    let (server, log) = start(host, display, listener)?;
    let came_up = tokio::select! {
        up = prepare_screen(display) => up,
        exit = ended(&server.exit) => Err(Fault::new(
            wharf_domain::Code::Unavailable,
            format!("Xvfb ended with {}: {}", told(exit), last_words(&log).await),
        )),
    };
    if let Err(fault) = came_up {
        host.reaper.kill(server.pid);
        ended(&server.exit).await;
        return Err(fault);
    }
    let mut manager = manage(host, display);
    if manager.is_some() {
        let path = display.socket.clone();
        let managed = off_thread(move || Screen::connect(&path, MANAGED)?.wait_for_manager());
        // A screen without one is a screen all the same.
        tokio::select! { _ = managed => {} _ = ended(&server.exit) => {} }
    }
    display.tell(State::Up);
    let mut tries = 0;
    loop {
        let managed = async {
            match &manager {
                Some((_, exit)) => ended(exit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = ended(&server.exit) => break,
            _ = managed => {
                tries += 1;
                manager = None;
                if tries <= MANAGERS {
                    tokio::time::sleep(Duration::from_millis(200) * tries).await;
                    manager = manage(host, display);
                }
            }
        }
    }
    if let Some((pid, _)) = manager {
        host.reaper.kill(pid);
    }
    Ok(())
}

fn told(exit: wharf_wire::host::exec::Exit) -> String {
    match (exit.exit_code, exit.signal) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no word".to_owned(),
    }
}

async fn last_words(log: &Ring) -> String {
    let _ = tokio::time::timeout(crate::limits::DRAIN, log.wait_closed()).await;
    let slice = log.read(0, LOG_BYTES as usize);
    let text = String::from_utf8_lossy(&slice.bytes).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines[lines.len().saturating_sub(6)..].join("; ")
}

fn start(host: &Host, display: &Display, listener: &UnixListener) -> Result<(Spawned, Arc<Ring>)> {
    let setting = display.setting()?;
    // The number of the process that may take the socket is known only in it.
    let argv = [
        "/bin/sh",
        "-c",
        "LISTEN_PID=$$ exec \"$0\" \"$@\"",
        "Xvfb",
        &display.name(),
        "-screen",
        "0",
        &format!("{}x24", setting.size),
        "-dpi",
        &setting.dpi.to_string(),
        "-nolisten",
        "tcp",
        "-nolisten",
        "local",
        "-noreset",
        // No screen saver.
        "-s",
        "0",
    ]
    .map(str::to_owned);
    let env = Env::from([("LISTEN_FDS", "1")]);
    let mut spawned = launch(host, &argv, &env, Some(listener), Streams::Merged)?;
    let log = Arc::new(Ring::new(LOG_BYTES));
    match spawned.stdout.take().map(Pipe::new) {
        Some(Ok(pipe)) => drop(tokio::spawn(into_ring(Arc::new(pipe), Arc::clone(&log)))),
        _ => log.close(),
    }
    Ok((spawned, log))
}

/// The window manager, where there is one.
fn manage(host: &Host, display: &Display) -> Option<(i32, ExitWatch)> {
    let name = ["openbox", "x-window-manager"].into_iter().find(|name| program(host, name))?;
    let env = Env::from([("DISPLAY", display.name())]);
    let spawned = launch(host, &[name.to_owned()], &env, None, Streams::Null).ok()?;
    Some((spawned.pid, spawned.exit))
}

/// Starts a program of the desktop as the agent. `listener` becomes descriptor 3.
pub fn launch(
    host: &Host,
    argv: &[String],
    env: &Env,
    listener: Option<&UnixListener>,
    streams: Streams,
) -> Result<Spawned> {
    let wanted = Wanted { argv: Some(argv), command: None, cwd: None, env, user: None };
    let mut launch = prepare(host, &wanted)?;
    if let Some(listener) = listener {
        let copy = listener.try_clone().map_err(|e| Fault::io("handing over", "the display's socket", &e))?;
        launch.script = Some(OwnedFd::from(copy));
    }
    launch.start(&host.reaper, host.power, streams)
}

/// Waits until the server answers, and paints what is behind the windows.
async fn prepare_screen(display: &Display) -> Result<()> {
    let path = display.socket.clone();
    off_thread(move || Screen::connect(&path, START)?.paint_background()).await
}
