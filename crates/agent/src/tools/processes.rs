//! Processes of the session, to end a command without ending the shell it was typed into.

use std::collections::HashSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

#[derive(Clone, Copy, Debug)]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
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
            Some(Process { pid, parent, group })
        })
        .collect()
}

/// Children of a process: the jobs of a shell.
pub fn children(of: i32) -> Vec<i32> {
    all().iter().filter(|p| p.parent == of).map(|p| p.pid).collect()
}

/// Kills the children of `shell` that are not in `spared`, and all below them.
pub fn kill_jobs(shell: i32, spared: &[i32]) {
    for _ in 0..4 {
        let processes = all();
        let mut doomed: HashSet<i32> = processes
            .iter()
            .filter(|p| p.parent == shell && !spared.contains(&p.pid))
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
    kill_jobs(leader, &[]);
    if let Some(pid) = Pid::from_raw(leader) {
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = kill_process(pid, Signal::KILL);
    }
}
