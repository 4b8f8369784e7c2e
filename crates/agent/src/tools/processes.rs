//! Processes of the session, to end a command without ending the shell it was typed into.

use std::collections::HashSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

#[derive(Clone, Copy, Debug)]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
    /// When it began: a number may be given out again.
    start: u64,
}

fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|e| {
            let pid: i32 = e.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name stands in brackets and may hold anything.
            let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(1);
            let parent = fields.next()?.parse().ok()?;
            let group = fields.next()?.parse().ok()?;
            let start = fields.nth(16)?.parse().ok()?;
            Some(Process { pid, parent, group, start })
        })
        .collect()
}

/// What runs before a command does.
#[derive(Debug, Default)]
pub struct Before {
    known: HashSet<(i32, u64)>,
    /// The process above this one that is left with all that detaches itself; none where the host did not start this one.
    guardian: Option<i32>,
}

impl Before {
    pub fn now() -> Self {
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        let name = fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
        Self {
            known: all().iter().map(|p| (p.pid, p.start)).collect(),
            guardian: (name.trim() == "wharf-guardian").then_some(parent),
        }
    }
}

/// Kills what `shell` has started since then, and all below it: its jobs, and what has left it for a session of its own.
pub fn kill_jobs(shell: i32, before: &Before) {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    for _ in 0..4 {
        let processes = all();
        let mut doomed: HashSet<i32> = processes
            .iter()
            .filter(|p| p.parent == shell || Some(p.parent) == before.guardian)
            .filter(|p| p.pid != own && !before.known.contains(&(p.pid, p.start)))
            .map(|p| p.pid)
            .collect();
        if doomed.is_empty() {
            return;
        }
        loop {
            let more: Vec<i32> = processes
                .iter()
                .filter(|p| !doomed.contains(&p.pid) && p.pid != shell)
                .filter(|p| doomed.contains(&p.parent) || doomed.contains(&p.group))
                .map(|p| p.pid)
                .collect();
            if more.is_empty() {
                break;
            }
            doomed.extend(more);
        }
        for pid in doomed {
            kill(pid);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Ends a shell and its group.
pub fn kill_group(leader: i32) {
    kill_jobs(leader, &Before::default());
    if let Some(pid) = Pid::from_raw(leader) {
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = kill_process(pid, Signal::KILL);
    }
}
