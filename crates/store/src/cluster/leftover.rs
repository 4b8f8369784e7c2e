//! What an earlier run left behind: a postmaster that outlived a kill, its orphans, stale pid and socket lock files.
//!
//! A process is ours when it is a `postgres` whose working directory is this data directory (PostgreSQL moves
//! there). A pid alone proves nothing: it may have been given to another program since.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{ClusterError, failed};

/// PostgreSQL's name for the socket of the default port; nothing else listens in the run directory.
const SOCKET: &str = ".s.PGSQL.5432";

pub(super) fn end(data: &Path, run: &Path) -> Result<(), ClusterError> {
    let data = data.canonicalize().map_err(|e| failed("find the data directory", e))?;
    let begun = Instant::now();
    loop {
        let left = ours(&data);
        if left.is_empty() {
            break;
        }
        let waited = begun.elapsed();
        if waited > Duration::from_secs(10) {
            return Err(failed("end what an earlier run left", format!("pids {left:?} do not go")));
        }
        // Immediate shutdown first: the write-ahead log has everything. Then by force.
        let signal = if waited < Duration::from_secs(2) { Signal::QUIT } else { Signal::KILL };
        for pid in left.iter().filter_map(|p| Pid::from_raw(*p)) {
            let _ = kill_process(pid, signal);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Nobody runs here, so the files speak of the past. Left alone they stop the start when their pid is in use again.
    for stale in [data.join("postmaster.pid"), run.join(SOCKET), run.join(format!("{SOCKET}.lock"))] {
        match std::fs::remove_file(&stale) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove what an earlier run left", format!("{}: {e}", stale.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

fn ours(data: &Path) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id() as i32;
    entries
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let link = |what: &str| std::fs::read_link(format!("/proc/{pid}/{what}")).ok();
            let postgres = |exe: std::path::PathBuf| {
                // An upgraded package leaves "postgres (deleted)".
                exe.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("postgres"))
            };
            link("cwd").is_some_and(|cwd| cwd == data) && link("exe").is_some_and(postgres)
        })
        .collect()
}
