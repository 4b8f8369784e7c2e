//! The processes below the host as `/proc` shows them: whom to kill with a command, and what they take.
//!
//! A process group alone is not enough: an interactive shell gives each job its own, and a child may start a session.

use std::collections::HashSet;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// One line of `/proc/{pid}/stat`, what of it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub zombie: bool,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// User and system time in clock ticks.
    pub ticks: u64,
    pub threads: u64,
    pub rss_pages: u64,
}

/// proc_pid_stat(5). The name may hold anything, parentheses and newlines too: fields start behind its last `)`.
pub fn parse_stat(line: &str) -> Option<Process> {
    let pid = line.split(' ').next()?.parse().ok()?;
    let rest = &line[line.rfind(')')? + 1..];
    let f: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| f.get(at)?.parse::<u64>().ok();
    let signed = |at: usize| f.get(at)?.parse::<i32>().ok();
    Some(Process {
        pid,
        zombie: matches!(*f.first()?, "Z" | "X"),
        parent: signed(1)?,
        group: signed(2)?,
        session: signed(3)?,
        ticks: number(11)? + number(12)?,
        threads: number(17)?,
        rss_pages: number(21)?,
    })
}

/// Every process `/proc` shows.
pub fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|e| e.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit))
        .filter_map(|e| parse_stat(&String::from_utf8_lossy(&std::fs::read(e.path().join("stat")).ok()?)))
        .collect()
}

/// Those of `all` that descend from `top`, itself included.
pub fn below(all: &[Process], top: i32) -> Vec<Process> {
    let mut pids = HashSet::from([top]);
    loop {
        let before = pids.len();
        pids.extend(all.iter().filter(|p| pids.contains(&p.parent)).map(|p| p.pid).collect::<Vec<_>>());
        if pids.len() == before {
            break;
        }
    }
    all.iter().filter(|p| pids.contains(&p.pid)).copied().collect()
}

/// Kills `leader`, its group, its session and its descendants, those too that fork meanwhile.
/// The caller makes sure that `leader` has not been reaped, so its number is its own.
pub fn kill(leader: i32) {
    let mut known = HashSet::from([leader]);
    for round in 0..8 {
        let mut found = false;
        let processes = all();
        loop {
            let more: Vec<i32> = processes
                .iter()
                .filter(|p| !known.contains(&p.pid))
                .filter(|p| {
                    known.contains(&p.parent) || known.contains(&p.group) || known.contains(&p.session)
                })
                .map(|p| p.pid)
                .collect();
            if more.is_empty() {
                break;
            }
            known.extend(more);
        }
        if round == 0 {
            signal_group(leader, Signal::KILL);
        }
        for p in processes.iter().filter(|p| known.contains(&p.pid) && !p.zombie) {
            found = true;
            if let Some(pid) = Pid::from_raw(p.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if !found {
            break;
        }
    }
}

pub fn signal_group(leader: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(leader)
        && kill_process_group(pid, signal).is_err()
    {
        // Between fork and setsid there is no such group yet.
        let _ = kill_process(pid, signal);
    }
}
