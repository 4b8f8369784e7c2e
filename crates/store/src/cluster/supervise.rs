//! Runs the postmaster as a child and starts it again when it dies.
//!
//! A thread of its own does it: the kernel sends the parent-death signal when the *thread* that made the child
//! ends, and async worker threads come and go. `setpriv` sets that signal (and drops root in tests), so this
//! crate needs no unsafe code between fork and exec.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::binaries::Binaries;
use super::{ClusterConfig, ClusterError, failed, leftover};

/// Between a death and the next start; doubled up to the second while it keeps dying.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// `setpriv` with the parent-death signal, and as another user where this process is root.
pub(super) fn as_user(config: &ClusterConfig, death: Option<&str>) -> Vec<String> {
    let mut command = vec!["setpriv".to_owned()];
    if let Some(signal) = death {
        command.extend(["--pdeathsig".to_owned(), signal.to_owned()]);
    }
    if let Some(as_) = config.run_as {
        command.extend([
            format!("--reuid={}", as_.uid),
            format!("--regid={}", as_.gid),
            "--clear-groups".to_owned(),
        ]);
    }
    command.push("--".to_owned());
    command
}

/// QUIT is the immediate shutdown: nothing lingers behind a dead parent, the log recovers the rest.
pub(super) fn command(config: &ClusterConfig, binaries: &Binaries) -> Vec<String> {
    tracing::debug!(major = binaries.major(), "PostgreSQL found");
    let mut command = as_user(config, Some("QUIT"));
    command.push(binaries.path("postgres").display().to_string());
    command.extend(["-D".to_owned(), config.data().display().to_string()]);
    command
}

#[derive(Default)]
struct State {
    pid: Option<Pid>,
    /// Set by the owner: a death is expected from now on.
    stopping: bool,
    /// Set once it was ready: from then on a death means a restart, before that it is reported.
    serving: bool,
    first_death: Option<String>,
    ended: bool,
}

pub(super) struct Supervisor {
    state: Mutex<State>,
    changed: Condvar,
    command: Vec<String>,
    dir: PathBuf,
    data: PathBuf,
    log: PathBuf,
}

impl Supervisor {
    pub(super) fn start(config: &ClusterConfig, command: Vec<String>) -> Result<Arc<Self>, ClusterError> {
        let this = Arc::new(Self {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            command,
            dir: config.dir.clone(),
            data: config.data(),
            log: config.log(),
        });
        let thread = this.clone();
        std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || thread.run())
            .map_err(|e| failed("start the supervising thread", e))?;
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut pause = BACK_OFF.0;
        loop {
            let begun = Instant::now();
            let outcome = self.once();
            let mut state = self.lock();
            state.pid = None;
            if state.stopping {
                break;
            }
            if !state.serving {
                state.first_death.get_or_insert(outcome);
                break;
            }
            tracing::warn!(outcome, "PostgreSQL ended; starting it again");
            if begun.elapsed() > Duration::from_secs(30) {
                pause = BACK_OFF.0;
            }
            let (state, _) = self
                .changed
                .wait_timeout_while(state, pause, |s| !s.stopping)
                .unwrap_or_else(PoisonError::into_inner);
            if state.stopping {
                drop(state);
                break;
            }
            drop(state);
            pause = (pause * 2).min(BACK_OFF.1);
            // Orphans hold the shared memory, and a start beside them is refused.
            if let Err(error) = leftover::end(&self.data, &self.dir.join("run")) {
                tracing::warn!(%error, "what the dead PostgreSQL left is still there");
            }
        }
        let mut state = self.lock();
        state.ended = true;
        drop(state);
        self.changed.notify_all();
    }

    /// One life of the postmaster; answers how it ended.
    fn once(&self) -> String {
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(e) => return format!("it could not be started: {e}"),
        };
        let Some(pid) = Pid::from_raw(child.id() as i32) else { return "it has no pid".to_owned() };
        let stop_now = {
            let mut state = self.lock();
            state.pid = Some(pid);
            state.stopping
        };
        if stop_now {
            let _ = kill_process(pid, Signal::QUIT);
        }
        // Wait without reaping: while the zombie is there the pid cannot become someone else's.
        while let Err(rustix::io::Errno::INTR) =
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        {}
        let mut state = self.lock();
        state.pid = None;
        match child.wait() {
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        Command::new(&self.command[0])
            .args(&self.command[1..])
            .current_dir(&self.dir)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.lock().pid.map(|p| p.as_raw_nonzero().get() as u32)
    }

    pub(super) fn first_death(&self) -> Option<String> {
        self.lock().first_death.clone()
    }

    pub(super) fn serve(&self) {
        self.lock().serving = true;
    }

    fn signal(&self, signal: Signal) {
        let mut state = self.lock();
        state.stopping = true;
        if let Some(pid) = state.pid {
            let _ = kill_process(pid, signal);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// At once, without waiting.
    pub(super) fn kill(&self) {
        if !self.lock().ended {
            self.signal(Signal::QUIT);
        }
    }

    /// Fast, then immediate, then by force; answers when it is gone.
    pub(super) fn stop(&self, patience: Duration) -> Result<(), ClusterError> {
        for (signal, wait) in [
            (Signal::INT, patience),
            (Signal::QUIT, Duration::from_secs(5)),
            (Signal::KILL, Duration::from_secs(5)),
        ] {
            self.signal(signal);
            let (state, _) = self
                .changed
                .wait_timeout_while(self.lock(), wait, |s| !s.ended)
                .unwrap_or_else(PoisonError::into_inner);
            if state.ended {
                return Ok(());
            }
            drop(state);
            tracing::warn!(?signal, "PostgreSQL does not stop");
        }
        Err(failed("stop PostgreSQL", "it ignores SIGKILL"))
    }
}
