//! Background processes: started, looked at, written to, signalled and forgotten by number.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use rustix::process::Signal;
use wharf_domain::Code;
use wharf_wire::host::Piece;
use wharf_wire::host::exec::{
    ExecRequest, Output, ProcessInfo, Processes as List, SignalName, SignalRequest, StdinRequest, Stream,
};

use crate::exec::check;
use crate::fault::{Fault, Result};
use crate::host::Host;
use crate::limits;
use crate::process::{Follower, Process};
use crate::reply::{self, Gone, Reply, Sender};
use crate::request::{self, Incomes, Query};
use crate::text::unfinished;

#[derive(Default)]
pub struct Processes {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u64,
    by_id: BTreeMap<u64, Arc<Process>>,
}

impl Processes {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: u64) -> Result<Arc<Process>> {
        self.table()
            .by_id
            .get(&id)
            .cloned()
            .ok_or_else(|| Fault::not_found(format!("there is no process {id}")))
    }

    fn room(&self) -> Result<()> {
        let running = self.table().by_id.values().filter(|p| p.exit().is_none()).count();
        if running >= limits::PROCESSES {
            return Err(Fault::new(
                Code::RateLimited,
                format!("{} processes run already", limits::PROCESSES),
            ));
        }
        Ok(())
    }

    fn add(&self, process: &Arc<Process>) -> u64 {
        let mut table = self.table();
        table.last += 1;
        let id = table.last;
        table.by_id.insert(id, Arc::clone(process));
        let ended: Vec<u64> =
            table.by_id.iter().filter(|(_, p)| p.exit().is_some()).map(|(id, _)| *id).collect();
        for old in ended.iter().rev().skip(limits::PROCESSES_ENDED) {
            table.by_id.remove(old);
        }
        id
    }
}

fn info(id: u64, p: &Process) -> ProcessInfo {
    let exit = p.exit();
    ProcessInfo {
        id,
        pid: p.pid,
        argv: p.argv.clone(),
        cwd: p.cwd.clone(),
        user: p.user.clone(),
        running: exit.is_none(),
        exit: exit.unwrap_or_default(),
        timed_out: p.timed_out.load(Ordering::Relaxed),
        started_at_ms: p.started_at_ms,
        duration_ms: p.duration_ms(),
        stdout_bytes: p.stdout.end(),
        stderr_bytes: p.stderr.end(),
        stdin_open: p.stdin_open.load(Ordering::Relaxed),
    }
}

pub async fn create(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    Query::of(&request)?.finish()?;
    let mut wanted: ExecRequest = request::json(&mut request, limits::EXEC_BODY_BYTES).await?;
    check(&wanted)?;
    host.processes.room()?;
    let process =
        Process::start(&host, &wanted, wanted.max_output_bytes.unwrap_or(limits::RING_BYTES), false)?;
    process.feed(&mut wanted);
    let id = host.processes.add(&process);
    let limit = wanted.timeout_seconds.map(|s| Duration::from_secs(u64::from(s)));
    let watched = Arc::clone(&process);
    tokio::spawn(async move { watched.finished_within(&host.reaper, limit).await });
    reply::json_with(StatusCode::CREATED, &info(id, &process))
}

pub fn list(host: &Host) -> Result<Reply> {
    let table = host.processes.table();
    reply::json(&List { processes: table.by_id.iter().map(|(id, p)| info(*id, p)).collect() })
}

pub fn get(host: &Host, id: u64) -> Result<Reply> {
    reply::json(&info(id, &*host.processes.get(id)?))
}

/// Forgets a process that has ended.
pub fn delete(host: &Host, id: u64) -> Result<Reply> {
    let process = host.processes.get(id)?;
    if process.exit().is_none() {
        return Err(Fault::new(Code::InvalidState, format!("process {id} runs; signal it first")));
    }
    host.processes.table().by_id.remove(&id);
    Ok(reply::empty())
}

pub async fn signal(host: &Host, id: u64, mut request: Incomes) -> Result<Reply> {
    let wanted: SignalRequest = request::json(&mut request, limits::BODY_BYTES).await?;
    let signal = parse_signal(&wanted.signal)?;
    let process = host.processes.get(id)?;
    if !host.reaper.signal(process.pid, signal, wanted.only_leader) {
        return Err(Fault::new(Code::InvalidState, format!("process {id} has ended")));
    }
    Ok(reply::empty())
}

pub fn parse_signal(signal: &SignalName) -> Result<Signal> {
    let none =
        || Fault::invalid("signal", "there is no such signal; use one like TERM, KILL, INT, HUP, USR1");
    match signal {
        SignalName::Number(n) => Signal::from_named_raw(*n).ok_or_else(none),
        SignalName::Name(name) => {
            let name = name.to_ascii_uppercase();
            Ok(match name.strip_prefix("SIG").unwrap_or(&name) {
                "HUP" => Signal::HUP,
                "INT" => Signal::INT,
                "QUIT" => Signal::QUIT,
                "KILL" => Signal::KILL,
                "USR1" => Signal::USR1,
                "USR2" => Signal::USR2,
                "ALRM" => Signal::ALARM,
                "TERM" => Signal::TERM,
                "CONT" => Signal::CONT,
                "STOP" => Signal::STOP,
                "TSTP" => Signal::TSTP,
                "WINCH" => Signal::WINCH,
                "ABRT" => Signal::ABORT,
                _ => return Err(none()),
            })
        }
    }
}

pub async fn stdin(host: &Host, id: u64, mut request: Incomes) -> Result<Reply> {
    let wanted: StdinRequest = request::json(&mut request, limits::EXEC_BODY_BYTES).await?;
    let bytes = match (wanted.text, wanted.b64) {
        (Some(_), Some(_)) => return Err(Fault::invalid("b64", "give text or b64, not both")),
        (Some(text), None) => text.into_bytes(),
        (None, Some(b64)) => b64.0,
        (None, None) => Vec::new(),
    };
    host.processes.get(id)?.write(&bytes, wanted.close).await?;
    Ok(reply::empty())
}

/// Output from an offset; with `follow` a stream of events to the process's end.
pub fn output(host: &Host, id: u64, request: &Incomes) -> Result<Reply> {
    let mut query = Query::of(request)?;
    let stream = match query.take("stream").as_deref() {
        None => None,
        Some("stdout") => Some(Stream::Stdout),
        Some("stderr") => Some(Stream::Stderr),
        Some(other) => {
            return Err(Fault::invalid("stream", format!("{other:?} is neither stdout nor stderr")));
        }
    };
    let offset: u64 = query.number("offset")?.unwrap_or(0);
    let stderr_offset: Option<u64> = query.number("stderr_offset")?;
    let limit: usize =
        query.number("limit")?.unwrap_or(limits::PIECE_BYTES).clamp(1, limits::RING_MAX_BYTES as usize);
    let follow = query.flag("follow")?;
    query.finish()?;
    let process = host.processes.get(id)?;
    if follow {
        let (out, err) = match stream {
            None => (Some(offset), Some(stderr_offset.unwrap_or(0))),
            Some(Stream::Stderr) => (None, Some(offset)),
            Some(_) => (Some(offset), None),
        };
        let (sender, reply) = reply::ndjson();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                _ = follow_both(&process, out, err, &sender) => {}
            }
        });
        return Ok(reply);
    }
    let stream = stream.unwrap_or(Stream::Stdout);
    let ring = process.ring(stream)?;
    let ended = process.exit().is_some();
    let mut slice = ring.read(offset, limit);
    let torn = unfinished(&slice.bytes);
    if torn > 0 && torn < slice.bytes.len() && !slice.end {
        slice.bytes.truncate(slice.bytes.len() - torn);
    }
    let next = slice.next();
    reply::json(&Output {
        stream,
        offset: slice.offset,
        lost: slice.lost,
        piece: Piece::from(slice.bytes),
        next,
        end: ended && ring.is_closed() && next == ring.end(),
    })
}

async fn follow_both(
    process: &Process,
    out: Option<u64>,
    err: Option<u64>,
    sender: &Sender,
) -> Result<(), Gone> {
    let mut followers: Vec<Follower> = out
        .map(|from| Follower::watching(Stream::Stdout, &process.stdout, from))
        .into_iter()
        .chain(err.map(|from| Follower::watching(Stream::Stderr, &process.stderr, from)))
        .collect();
    let ended = process.finished();
    tokio::pin!(ended);
    let mut is_over = false;
    loop {
        if !is_over {
            tokio::select! {
                _ = &mut ended => is_over = true,
                () = any(&followers) => {}
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

async fn any(followers: &[Follower]) {
    match followers {
        [a, b] => tokio::select! { () = a.wait() => {}, () = b.wait() => {} },
        [a] => a.wait().await,
        _ => std::future::pending().await,
    }
}
