//! The one place that waits for children. As PID 1 the host inherits every orphan; a second waiter would steal its exits.
//!
//! Spawning and registering happen in one step under the table's lock, so an exit is never seen before its owner is known.

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use wharf_wire::host::exec::Exit;

use crate::tree;

pub type ExitWatch = watch::Receiver<Option<Exit>>;

struct Child {
    tell: watch::Sender<Option<Exit>>,
    /// It is the guardian of what was started.
    guards: bool,
}

#[derive(Default)]
pub struct Reaper {
    children: Mutex<HashMap<i32, Child>>,
}

impl Reaper {
    fn children(&self) -> MutexGuard<'_, HashMap<i32, Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process whose exit this reaper will tell.
    pub fn spawn(&self, command: &mut Command, guards: bool) -> io::Result<(std::process::Child, ExitWatch)> {
        let mut children = self.children();
        let child = command.spawn()?;
        let (tell, exit) = watch::channel(None);
        children.insert(child.id() as i32, Child { tell, guards });
        Ok((child, exit))
    }

    /// Kills a child and all that belongs to it, unless it has ended: its number may be another's by now.
    pub fn kill(&self, pid: i32) {
        match self.children().get(&pid) {
            Some(child) if child.guards => tree::end_below(pid, |_, _| true),
            Some(_) => tree::kill(pid),
            None => {}
        }
    }

    /// Kills what a guarded agent has started since then (see [`tree::now`]) and the agent itself not. With `of_others` only
    /// what runs as another user: the agent sees to its own.
    pub fn kill_since(&self, pid: i32, since: u64, of_others: bool) {
        if !self.children().get(&pid).is_some_and(|child| child.guards) {
            return;
        }
        tree::end_below(pid, |process, agent| {
            process.pid != agent
                && process.start >= since
                && !(of_others && tree::user(process.pid) == tree::user(agent))
        });
    }

    /// Sends a signal under the same condition. False when the child has ended.
    pub fn signal(&self, pid: i32, signal: rustix::process::Signal, only_leader: bool) -> bool {
        let children = self.children();
        if !children.contains_key(&pid) {
            return false;
        }
        if only_leader {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        } else {
            tree::signal_group(pid, signal);
        }
        true
    }

    /// Collects everybody who has ended, orphans too.
    fn reap(&self) {
        let mut children = self.children();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if !status.exited() && !status.signaled() {
                continue;
            }
            if let Some(Child { tell, .. }) = children.remove(&pid.as_raw_nonzero().get()) {
                let exit = Exit { exit_code: status.exit_status(), signal: status.terminating_signal() };
                tell.send_replace(Some(exit));
            }
        }
    }

    /// Reaps until the host ends.
    pub async fn run(&self) -> io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        loop {
            self.reap();
            ended.recv().await;
        }
    }
}

/// Resolves when the child has ended.
pub async fn ended(exit: &ExitWatch) -> Exit {
    let mut exit = exit.clone();
    match exit.wait_for(Option::is_some).await {
        Ok(exit) => exit.unwrap_or_default(),
        Err(_) => Exit::default(),
    }
}
