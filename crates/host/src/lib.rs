//! `wharf-host`: PID 1 of a session. It reaps, and runs commands, terminals, files and turns for whoever holds its socket.
//!
//! It knows no secret of Wharf's, listens on the session's own loopback only, and asks no name service. One thread serves everything; what may block on a
//! disk is done beside it. Outside of a jail (in tests) it runs too, as the user it was started by and confined to `--root`.
#![allow(unsafe_code)] // between fork and exec, and for the inherited socket; each block says why

pub mod accounts;
mod desktop;
pub mod door;
mod egress;
mod exec;
mod fault;
mod files;
pub mod git_ssh;
mod guardian;
mod host;
mod identity;
pub mod limits;
mod memory;
mod process;
mod processes;
mod pump;
mod reaper;
mod reply;
mod request;
mod ring;
mod root;
mod server;
mod spawn;
mod stats;
mod surroundings;
mod terminal;
mod terminals;
mod text;
mod tree;
mod trust;
mod tunnel;
mod turn;
mod turns;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::process::{Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use accounts::Power;
use host::Host;

/// How a host is started.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// A socket to bind, for tests. Else descriptor 3 is the listening socket.
    pub listen: Option<PathBuf>,
    /// Where to fetch the listening socket, for runtimes that cannot hand descriptors down.
    pub door: Option<PathBuf>,
    pub root: PathBuf,
}

/// What `wharf-host --help` says.
pub const HELP: &str = "\
wharf-host: runs inside a session, as its first process

Serves on the listening unix socket it inherits as descriptor 3.

  --door PATH     fetch that socket from whoever listens on the unix socket PATH
  --listen PATH   bind a socket there instead (tests)
  --root DIR      take DIR for the session's root (tests)
  --version
  --help

wharf-host agent: the built-in agent `computer-use`; the host starts it for itself
wharf-host git-ssh: what git starts in place of ssh in a session
";

impl Options {
    /// Reads a command line. `Err` is what to print: help, a version or what is wrong.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, (String, i32)> {
        let mut options = Self { listen: None, door: None, root: PathBuf::from("/") };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| (format!("wharf-host: {arg} needs a value\n"), 2));
            match arg.as_str() {
                "--listen" => options.listen = Some(value()?.into()),
                "--door" => options.door = Some(value()?.into()),
                "--root" => options.root = value()?.into(),
                "--version" => return Err((format!("wharf-host {}\n", env!("CARGO_PKG_VERSION")), 0)),
                "--help" | "-h" => return Err((HELP.to_owned(), 0)),
                other => return Err((format!("wharf-host: there is no option {other}; see --help\n"), 2)),
            }
        }
        Ok(options)
    }
}

/// The inherited socket's descriptor.
const SOCKET: i32 = 3;

fn inherited() -> io::Result<UnixListener> {
    // SAFETY: the jailer hands descriptor 3 over and nothing else in this process knows it; checked below to be a socket.
    let fd = unsafe { OwnedFd::from_raw_fd(SOCKET) };
    match rustix::fs::fstat(&fd) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {}
        _ => {
            // Not ours to close.
            std::mem::forget(fd);
            return Err(io::Error::new(io::ErrorKind::NotFound, "descriptor 3 is not a listening socket"));
        }
    }
    if !rustix::net::sockopt::socket_acceptconn(&fd)? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket at descriptor 3 does not listen",
        ));
    }
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(UnixListener::from(fd))
}

/// Runs until a signal ends it.
pub fn run(options: &Options) -> io::Result<()> {
    memory::tune();
    let listener = match (&options.listen, &options.door) {
        (Some(path), _) => UnixListener::bind(path)?,
        (None, Some(path)) => door::fetch(path)?,
        (None, None) => inherited()?,
    };
    listener.set_nonblocking(true)?;
    let host = Arc::new(Host::new(&options.root)?);
    if host.power != Power::Jail {
        // Orphans of what it runs are its own to end, here too.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(BLOCKING_STACK)
        .thread_keep_alive(Duration::from_secs(2))
        .build()?;
    let done = runtime.block_on(main(Arc::clone(&host), listener));
    end_all(&host);
    host.desktop.close();
    runtime.shutdown_background();
    done
}

/// Threads for work on disks; they end when idle. Tar streams hold one each.
const BLOCKING_THREADS: usize = limits::TARS + 8;
/// Recursive walks take a few hundred bytes a level.
const BLOCKING_STACK: usize = 1024 * 1024;

async fn main(host: Arc<Host>, listener: UnixListener) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    if host.surroundings.gateway {
        egress::start();
    }
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let idling = Arc::clone(&host);
    tokio::spawn(async move { idling.memory.give_back().await });
    let reaping = Arc::clone(&host);
    let reaper = tokio::spawn(async move { reaping.reaper.run().await });
    tokio::select! {
        () = server::serve(host, listener) => Ok(()),
        ended = reaper => ended.unwrap_or_else(|e| Err(io::Error::other(e))),
        _ = term.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Nothing outlives the host. In a jail the kernel sees to it as well.
fn end_all(host: &Host) {
    if host.power == Power::Jail {
        // SAFETY: kill(2) has no memory to get wrong; -1 from PID 1 means everybody in its namespace but itself.
        unsafe {
            libc::kill(-1, libc::SIGKILL);
        }
        return;
    }
    let own = rustix::process::getpid().as_raw_nonzero().get();
    for _ in 0..8 {
        let below = tree::below(&tree::all(), own);
        let living: Vec<_> = below.iter().filter(|p| p.pid != own && !p.zombie).collect();
        if living.is_empty() {
            break;
        }
        for process in living {
            if let Some(pid) = rustix::process::Pid::from_raw(process.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
