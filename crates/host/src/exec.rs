//! `POST /exec`: runs a command to its end.
//!
//! Whoever asks holds it: when the caller goes away, the command and all it started are killed. What shall outlive its caller is
//! a process (`processes`) or a turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use wharf_domain::Code;
use wharf_domain::limits::EXEC_TIMEOUT_SECONDS;
use wharf_wire::host::B64;
use wharf_wire::host::exec::{ExecEvent, ExecRequest, ExecResult, Stream};

use crate::fault::{Fault, Result};
use crate::host::Host;
use crate::limits;
use crate::process::{Follower, KillOnDrop, Process};
use crate::reply::{self, Gone, Reply, Sender};
use crate::request::{self, Incomes, Query};
use crate::ring::Ring;

pub async fn run(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    Query::of(&request)?.finish()?;
    let streamed = request::wants_ndjson(&request);
    let mut wanted: ExecRequest = request::json(&mut request, limits::EXEC_BODY_BYTES).await?;
    check(&wanted)?;
    if wanted.stdin_open {
        return Err(Fault::invalid("stdin_open", "only a process (POST /processes) can be written to later"));
    }
    let limit = Duration::from_secs(u64::from(match wanted.timeout_seconds {
        Some(seconds) => seconds,
        None => host.identity().and_then(|i| i.limits.exec_timeout_seconds).unwrap_or(EXEC_TIMEOUT_SECONDS),
    }));
    let permit = Arc::clone(&host.execs)
        .try_acquire_owned()
        .map_err(|_| Fault::new(Code::RateLimited, format!("{} commands run already", limits::EXECS)))?;
    let process =
        Process::start(&host, &wanted, wanted.max_output_bytes.unwrap_or(limits::RING_BYTES), streamed)?;
    process.feed(&mut wanted);

    if streamed {
        let (sender, reply) = reply::ndjson();
        tokio::spawn(stream(host, process, limit, sender, permit));
        return Ok(reply);
    }
    let exit = {
        let guard = KillOnDrop { reaper: &host.reaper, pid: process.pid };
        let exit = process.finished_within(&host.reaper, Some(limit)).await;
        drop(guard);
        exit
    };
    let (stdout, stdout_b64, stdout_truncated) = kept(&process.stdout);
    let (stderr, stderr_b64, stderr_truncated) = kept(&process.stderr);
    reply::json(&ExecResult {
        exit,
        stdout,
        stdout_b64,
        stdout_truncated,
        stdout_bytes: process.stdout.end(),
        stderr,
        stderr_b64,
        stderr_truncated,
        stderr_bytes: process.stderr.end(),
        timed_out: process.timed_out.load(Ordering::Relaxed),
        duration_ms: process.duration_ms(),
    })
}

/// What every command is held to, here and in `processes`.
pub fn check(wanted: &ExecRequest) -> Result<()> {
    if wanted.stdin.is_some() && wanted.stdin_b64.is_some() {
        return Err(Fault::invalid("stdin_b64", "give stdin or stdin_b64, not both"));
    }
    check_timeout(wanted.timeout_seconds)?;
    if let Some(bytes) = wanted.max_output_bytes
        && !(1..=limits::RING_MAX_BYTES).contains(&bytes)
    {
        return Err(Fault::invalid(
            "max_output_bytes",
            format!("{bytes} is not between 1 and {}", limits::RING_MAX_BYTES),
        ));
    }
    Ok(())
}

pub fn check_timeout(seconds: Option<u32>) -> Result<()> {
    match seconds {
        Some(s) if !(1..=limits::TIMEOUT_MAX_SECONDS).contains(&s) => Err(Fault::invalid(
            "timeout_seconds",
            format!("{s} is not between 1 and {}", limits::TIMEOUT_MAX_SECONDS),
        )),
        _ => Ok(()),
    }
}

fn kept(ring: &Ring) -> (String, Option<B64>, bool) {
    let slice = ring.read(0, usize::MAX);
    let truncated = slice.lost > 0;
    let mut bytes = slice.bytes;
    if truncated {
        // The cut may have gone through a character.
        let torn = bytes.iter().take(3).take_while(|b| **b & 0b1100_0000 == 0b1000_0000).count();
        bytes.drain(..torn);
    }
    match String::from_utf8(bytes) {
        Ok(text) => (text, None, truncated),
        Err(e) => {
            let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
            (text, Some(B64(e.into_bytes())), truncated)
        }
    }
}

async fn stream(
    host: Arc<Host>,
    process: Arc<Process>,
    limit: Duration,
    sender: Sender,
    permit: OwnedSemaphorePermit,
) {
    let _permit = permit;
    let _guard = KillOnDrop { reaper: &host.reaper, pid: process.pid };
    tokio::select! {
        () = sender.closed() => {}
        _ = events(&host, &process, limit, &sender) => {}
    }
}

async fn events(host: &Host, process: &Process, limit: Duration, sender: &Sender) -> Result<(), Gone> {
    // Nothing is lost here: a slow reader slows the command.
    let mut followers = [
        Follower::holding(Stream::Stdout, &process.stdout),
        Follower::holding(Stream::Stderr, &process.stderr),
    ];
    sender.line(&ExecEvent::Started { pid: process.pid }).await?;
    let ended = process.finished_within(&host.reaper, Some(limit));
    tokio::pin!(ended);
    let mut is_over = false;
    loop {
        let [out, err] = &followers;
        if !is_over {
            tokio::select! {
                _ = &mut ended => is_over = true,
                () = out.wait() => {}
                () = err.wait() => {}
            }
        }
        let mut quiet = true;
        for follower in &mut followers {
            for event in follower.take(is_over) {
                quiet = false;
                sender.line(&event).await?;
            }
        }
        if is_over && quiet && followers.iter().all(|f| f.done) {
            return sender.line(&process.exit_event()).await;
        }
    }
}
