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
    /// Clock ticks from the machine's start to its own.
    pub start: u64,
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
        start: number(19)?,
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

/// Looks for those that are to end, a moment apart: what was killed has to go, and may have started more before.
const ROUNDS: u32 = 64;
const MOMENT: std::time::Duration = std::time::Duration::from_millis(1);

/// Kills those below a guardian that are chosen; `doomed` is told of each and of the agent. Nobody gets away meanwhile: what
/// loses its parent is the guardian's. The caller makes sure that the guardian has not been reaped.
pub fn end_below(guardian: i32, doomed: impl Fn(&Process, i32) -> bool) {
    for _ in 0..ROUNDS {
        let below = below(&all(), guardian);
        // It came first; what the guardian has been left with is younger.
        let own = below.iter().filter(|p| p.parent == guardian);
        let Some(agent) = own.min_by_key(|p| (p.start, p.pid)).map(|p| p.pid) else { return };
        let mut found = false;
        for p in below.iter().filter(|p| p.pid != guardian && !p.zombie && doomed(p, agent)) {
            found = true;
            if let Some(pid) = Pid::from_raw(p.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if !found {
            return;
        }
        std::thread::sleep(MOMENT);
    }
}

/// The variable that everything an agent starts inherits, through the host too.
pub const RUN: &str = "WHARF_AGENT_RUN";

/// Kills those with this mark in their environment that were started since then, but for those below `spared`: what a
/// command that has ended left behind, which is below nobody.
pub fn kill_marked(mark: &str, since: u64, spared: Option<i32>) {
    let mark = format!("{RUN}={mark}");
    let marked = |pid: i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|variable| variable == mark.as_bytes())
    };
    for _ in 0..ROUNDS {
        let all = all();
        let spared = spared.map(|top| below(&all, top)).unwrap_or_default();
        let chosen = |p: &&Process| !p.zombie && p.start >= since && !spared.contains(p) && marked(p.pid);
        let mut found = false;
        for pid in all.iter().filter(chosen).filter_map(|p| Pid::from_raw(p.pid)) {
            found = true;
            let _ = kill_process(pid, Signal::KILL);
        }
        if !found {
            return;
        }
        std::thread::sleep(MOMENT);
    }
}

/// Whose it is; none of one that is gone.
pub fn user(pid: i32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(format!("/proc/{pid}")).ok().map(|m| m.uid())
}

/// The time that [`Process::start`] is counted in. Never, where the kernel does not tell.
pub fn now() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let ticks = uptime.split(' ').next().and_then(|t| t.replace('.', "").parse().ok());
    ticks.unwrap_or(u64::MAX)
}

pub fn signal_group(leader: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(leader)
        && kill_process_group(pid, signal).is_err()
    {
        // Between fork and setsid there is no such group yet.
        let _ = kill_process(pid, signal);
    }
}
