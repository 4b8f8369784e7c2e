//! One terminal: a pty, its program, its scrollback and who looks at it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::watch;
use wharf_domain::Code;
use wharf_wire::host::Env;
use wharf_wire::host::exec::Exit;
use wharf_wire::host::terminal::{TerminalInfo, TerminalRequest};

use crate::fault::{Fault, Result};
use crate::host::Host;
use crate::limits;
use crate::process::now_ms;
use crate::pump::{Pipe, into_ring};
use crate::reaper::{ExitWatch, ended};
use crate::ring::Ring;
use crate::spawn::{Streams, Wanted, prepare};

pub struct Terminal {
    pub pid: i32,
    argv: Vec<String>,
    user: String,
    master: Arc<Pipe>,
    pub ring: Arc<Ring>,
    exit: ExitWatch,
    pub size: watch::Sender<(u16, u16)>,
    viewers: AtomicU32,
    started_at_ms: u64,
    /// One writer at a time, so that two viewers' pastes do not mix.
    input: tokio::sync::Mutex<()>,
}

impl Terminal {
    pub fn start(host: &Host, request: &TerminalRequest) -> Result<Arc<Self>> {
        check_size(request.cols, request.rows)?;
        let shell;
        let mut argv = request.argv.as_deref();
        if argv.is_none() && request.command.is_none() {
            let account = crate::accounts::find(&host.root, host.power, request.user.as_deref())?;
            let program = if account.shell.is_empty() {
                crate::spawn::shell(&host.root).to_owned()
            } else {
                account.shell
            };
            shell = [program, "-l".to_owned()];
            argv = Some(&shell);
        }
        let mut env = request.env.0.clone();
        env.entry("COLORTERM".into()).or_insert_with(|| "truecolor".into());
        let env = Env(env);
        let launch = prepare(
            host,
            &Wanted {
                argv,
                command: request.command.as_deref(),
                cwd: request.cwd.as_deref(),
                env: &env,
                user: request.user.as_deref(),
            },
        )?;
        let failed = |e: io::Error| Fault::new(Code::Unavailable, format!("no terminal to be had: {e}"));
        let (master, slave) = open_pty(request.cols, request.rows, launch.account.uid).map_err(failed)?;
        let master = Arc::new(Pipe::new(master).map_err(failed)?);
        let (argv, user) = (launch.argv.clone(), launch.account.name.clone());
        let spawned = launch.start(&host.reaper, host.power, Streams::Terminal(slave))?;
        let ring = Arc::new(Ring::new(limits::TERMINAL_RING_BYTES));
        tokio::spawn(into_ring(Arc::clone(&master), Arc::clone(&ring)));
        Ok(Arc::new(Self {
            pid: spawned.pid,
            argv,
            user,
            master,
            ring,
            exit: spawned.exit,
            size: watch::Sender::new((request.cols, request.rows)),
            viewers: AtomicU32::new(0),
            started_at_ms: now_ms(),
            input: tokio::sync::Mutex::new(()),
        }))
    }

    pub fn info(&self, id: u64) -> TerminalInfo {
        let exit = *self.exit.borrow();
        let (cols, rows) = *self.size.borrow();
        TerminalInfo {
            id,
            pid: self.pid,
            cols,
            rows,
            argv: self.argv.clone(),
            user: self.user.clone(),
            running: exit.is_none(),
            exit: exit.unwrap_or_default(),
            viewers: self.viewers.load(Ordering::Relaxed),
            output_bytes: self.ring.end(),
            started_at_ms: self.started_at_ms,
        }
    }

    pub fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    pub async fn ended(&self) -> Exit {
        let exit = ended(&self.exit).await;
        let _ = tokio::time::timeout(limits::DRAIN, self.ring.wait_closed()).await;
        exit
    }

    /// Keys. False when the program has ended.
    pub async fn write(&self, bytes: &[u8]) -> bool {
        let _turn = self.input.lock().await;
        tokio::select! {
            result = self.master.write_all(bytes) => result.is_ok(),
            _ = ended(&self.exit) => false,
        }
    }

    pub fn resize(&self, cols: u16, rows: u16) -> Result<()> {
        check_size(cols, rows)?;
        if tcsetwinsize(self.master.fd(), winsize(cols, rows)).is_ok() {
            self.size.send_replace((cols, rows));
        }
        Ok(())
    }

    pub fn look(self: &Arc<Self>) -> Viewer {
        self.viewers.fetch_add(1, Ordering::Relaxed);
        Viewer(Arc::clone(self))
    }
}

/// Counts a viewer as long as it lives.
pub struct Viewer(pub Arc<Terminal>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn winsize(cols: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

pub fn check_size(cols: u16, rows: u16) -> Result<()> {
    for (name, side) in [("cols", cols), ("rows", rows)] {
        if !(1..=limits::TERMINAL_SIDE).contains(&side) {
            return Err(Fault::invalid(
                name,
                format!("{side} is not between 1 and {}", limits::TERMINAL_SIDE),
            ));
        }
    }
    Ok(())
}

fn open_pty(cols: u16, rows: u16, uid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(
        OsStr::from_bytes(name.as_bytes()),
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if rustix::process::geteuid().as_raw() != uid {
        rustix::fs::fchown(slave.as_fd(), Some(rustix::fs::Uid::from_raw(uid)), None)?;
    }
    tcsetwinsize(&master, winsize(cols, rows))?;
    Ok((master, slave))
}

#[derive(Default)]
pub struct Terminals {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u64,
    by_id: BTreeMap<u64, Arc<Terminal>>,
}

impl Terminals {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, id: u64) -> Result<Arc<Terminal>> {
        self.table()
            .by_id
            .get(&id)
            .cloned()
            .ok_or_else(|| Fault::not_found(format!("there is no terminal {id}")))
    }

    /// Makes room by forgetting the oldest that has ended; refuses when all are alive.
    pub fn room(&self) -> Result<()> {
        let mut table = self.table();
        if table.by_id.len() < limits::TERMINALS {
            return Ok(());
        }
        let ended = table.by_id.iter().find(|(_, t)| t.has_ended()).map(|(id, _)| *id);
        match ended {
            Some(id) => {
                table.by_id.remove(&id);
                Ok(())
            }
            None => Err(Fault::new(
                Code::RateLimited,
                format!("{} terminals are open already", limits::TERMINALS),
            )),
        }
    }

    pub fn add(&self, terminal: Arc<Terminal>) -> u64 {
        let mut table = self.table();
        table.last += 1;
        let id = table.last;
        table.by_id.insert(id, terminal);
        id
    }

    pub fn remove(&self, id: u64) -> Result<Arc<Terminal>> {
        self.table().by_id.remove(&id).ok_or_else(|| Fault::not_found(format!("there is no terminal {id}")))
    }

    pub fn list(&self) -> Vec<TerminalInfo> {
        self.table().by_id.iter().map(|(id, t)| t.info(*id)).collect()
    }
}
