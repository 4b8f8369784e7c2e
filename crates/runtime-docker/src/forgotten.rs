//! What an engine that was killed together with its helper forgets: a shim, and the container's processes below it.
//!
//! The engine counts such a container as ended, and its helper refuses to start it, since the shim is still there. Nobody but
//! root of the machine can put that right. Refuses to touch anything but the shim of exactly that container.

use std::io;

use rustix::process::{Pid, Signal, kill_process};

/// Ends the shims of the container with that id, and what they started; how many there were.
pub(crate) fn end(id: &str) -> io::Result<usize> {
    let all: Vec<(Pid, Option<i32>, bool)> = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((Pid::from_raw(pid)?, parent(pid), is_shim(pid, id))))
        .collect();
    let shims: Vec<Pid> = all.iter().filter(|(_, _, shim)| *shim).map(|(pid, ..)| *pid).collect();
    for shim in &shims {
        let children = all.iter().filter(|(_, parent, _)| *parent == Some(shim.as_raw_nonzero().get()));
        for (pid, ..) in children.chain(std::iter::once(&(*shim, None, true))) {
            match kill_process(*pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(shims.len())
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn is_shim(pid: i32, id: &str) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
    words.first().is_some_and(|w| w.windows(15).any(|part| part == b"containerd-shim"))
        && words.windows(2).any(|pair| pair[0] == b"-id" && pair[1] == id.as_bytes())
}
