//! A running command: its two output rings, its input, its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use wharf_domain::Code;
use wharf_wire::host::Piece;
use wharf_wire::host::exec::{ExecEvent, ExecRequest, Exit, Stream};

use crate::fault::{Fault, Result};
use crate::host::Host;
use crate::limits;
use crate::pump::{Pipe, into_ring};
use crate::reaper::{ExitWatch, Reaper, ended};
use crate::ring::Ring;
use crate::spawn::{Streams, Wanted, prepare};
use crate::text::Chunker;

pub struct Process {
    pub pid: i32,
    pub argv: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub stdout: Arc<Ring>,
    pub stderr: Arc<Ring>,
    pub stdin: Mutex<Option<Pipe>>,
    /// Mirrors `stdin` for readers that must not wait for a slow write.
    pub stdin_open: AtomicBool,
    exit: ExitWatch,
    pub timed_out: AtomicBool,
    pub started: Instant,
    pub started_at_ms: u64,
    ended: std::sync::OnceLock<Instant>,
}

impl Process {
    /// Starts what a request asks for. Standard input stays open when the request has any. `held`: output waits
    /// for a reader from its first byte on.
    pub fn start(host: &Host, request: &ExecRequest, ring_bytes: u64, held: bool) -> Result<Arc<Self>> {
        let launch = prepare(host, &Wanted::from(request))?;
        let has_input = request.stdin.is_some() || request.stdin_b64.is_some() || request.stdin_open;
        let (argv, cwd, user) = (launch.argv.clone(), launch.cwd.clone(), launch.account.name.clone());
        let spawned = launch.start(&host.reaper, host.power, Streams::Pipes { stdin: has_input })?;
        let pipe = |fd: Option<std::os::fd::OwnedFd>| fd.map(Pipe::new).transpose();
        let pipes = pipe(spawned.stdin).and_then(|i| Ok((i, pipe(spawned.stdout)?, pipe(spawned.stderr)?)));
        let (stdin, stdout, stderr) = pipes.map_err(|e| {
            host.reaper.kill(spawned.pid);
            Fault::new(Code::Unavailable, format!("no descriptors for the command's output: {e}"))
        })?;
        let process = Arc::new(Self {
            pid: spawned.pid,
            argv,
            cwd,
            user,
            stdout: Arc::new(Ring::new(ring_bytes)),
            stderr: Arc::new(Ring::new(ring_bytes)),
            stdin_open: AtomicBool::new(stdin.is_some()),
            stdin: Mutex::new(stdin),
            exit: spawned.exit,
            timed_out: AtomicBool::new(false),
            started: Instant::now(),
            started_at_ms: now_ms(),
            ended: std::sync::OnceLock::new(),
        });
        if held {
            process.stdout.hold(Some(0));
            process.stderr.hold(Some(0));
        }
        for (pipe, ring) in [(stdout, &process.stdout), (stderr, &process.stderr)] {
            if let Some(pipe) = pipe {
                tokio::spawn(into_ring(Arc::new(pipe), Arc::clone(ring)));
            }
        }
        Ok(process)
    }

    /// Writes the request's input; closes it behind unless it shall stay open.
    pub fn feed(self: &Arc<Self>, request: &mut ExecRequest) {
        let input = match (request.stdin.take(), request.stdin_b64.take()) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(b64)) => b64.0,
            (None, None) => Vec::new(),
        };
        if !self.stdin_open.load(Ordering::Relaxed) {
            return;
        }
        let (process, open) = (Arc::clone(self), request.stdin_open);
        tokio::spawn(async move {
            // A command need not read its input; that is no fault.
            let _ = process.write(&input, !open).await;
        });
    }

    /// Writes to standard input, waiting as long as the command does not read and lives.
    pub async fn write(&self, bytes: &[u8], close: bool) -> Result<()> {
        let closed = || Fault::new(Code::InvalidState, "standard input is closed");
        let mut stdin = self.stdin.lock().await;
        let pipe = stdin.as_ref().ok_or_else(closed)?;
        let result = tokio::select! {
            result = pipe.write_all(bytes) => result,
            _ = ended(&self.exit) => Err(std::io::Error::from_raw_os_error(libc::EPIPE)),
        };
        if close || result.is_err() {
            *stdin = None;
            self.stdin_open.store(false, Ordering::Relaxed);
        }
        result.map_err(|_| closed())
    }

    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    pub fn duration_ms(&self) -> u64 {
        let end = self.ended.get().copied().unwrap_or_else(Instant::now);
        end.duration_since(self.started).as_millis() as u64
    }

    /// Resolves when the command has ended and its output is in, or what still holds its pipes had its time.
    pub async fn finished(&self) -> Exit {
        let exit = ended(&self.exit).await;
        self.ended.get_or_init(Instant::now);
        let _ = tokio::time::timeout(limits::DRAIN, async {
            self.stdout.wait_closed().await;
            self.stderr.wait_closed().await;
        })
        .await;
        exit
    }

    /// Like `finished`, but after `limit` it is killed.
    pub async fn finished_within(&self, reaper: &Reaper, limit: Option<Duration>) -> Exit {
        if let Some(limit) = limit {
            tokio::select! {
                exit = self.finished() => return exit,
                () = tokio::time::sleep(limit) => {}
            }
            if self.exit().is_none() {
                self.timed_out.store(true, Ordering::Relaxed);
                reaper.kill(self.pid);
            }
        }
        self.finished().await
    }

    pub fn ring(&self, stream: Stream) -> Result<&Arc<Ring>> {
        match stream {
            Stream::Stdout => Ok(&self.stdout),
            Stream::Stderr => Ok(&self.stderr),
            Stream::Output => Err(Fault::invalid("stream", "a process has stdout and stderr")),
        }
    }

    pub fn exit_event(&self) -> ExecEvent {
        ExecEvent::Exit {
            exit: self.exit().unwrap_or_default(),
            timed_out: self.timed_out.load(Ordering::Relaxed),
            duration_ms: self.duration_ms(),
            stdout_bytes: self.stdout.end(),
            stderr_bytes: self.stderr.end(),
        }
    }
}

/// Kills a command and what it started when whoever waits for it goes away.
pub struct KillOnDrop<'a> {
    pub reaper: &'a Reaper,
    pub pid: i32,
}

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        self.reaper.kill(self.pid);
    }
}

/// Follows one ring of a process and makes events of it, without tearing characters.
pub struct Follower {
    stream: Stream,
    ring: Arc<Ring>,
    next: u64,
    chunker: Chunker,
    holds: bool,
    pub done: bool,
}

impl Follower {
    /// A reader the writer waits for, so that nothing is lost. There may be one for a ring.
    pub fn holding(stream: Stream, ring: &Arc<Ring>) -> Self {
        let mut follower = Self::watching(stream, ring, 0);
        follower.holds = true;
        follower.hold();
        follower
    }

    /// A reader that loses what it is too slow for.
    pub fn watching(stream: Stream, ring: &Arc<Ring>, from: u64) -> Self {
        Self {
            stream,
            ring: Arc::clone(ring),
            next: from,
            chunker: Chunker::default(),
            holds: false,
            done: false,
        }
    }

    pub async fn wait(&self) {
        if self.done {
            std::future::pending::<()>().await;
        }
        self.ring.wait(self.next).await;
    }

    /// What is there now; `last` when no more will be awaited. Empty when there is nothing new.
    pub fn take(&mut self, last: bool) -> Vec<ExecEvent> {
        let mut events = Vec::new();
        if self.done {
            return events;
        }
        let slice = self.ring.read(self.next, limits::PIECE_BYTES);
        if slice.lost > 0 {
            self.flush(&mut events);
            events.push(ExecEvent::Lost { stream: self.stream, offset: self.next, bytes: slice.lost });
            self.next = slice.offset;
        }
        let offset = self.next - self.chunker.held() as u64;
        self.next = slice.next();
        self.hold();
        let piece = self.chunker.push(&slice.bytes);
        if !piece.is_empty() {
            events.push(ExecEvent::Output { stream: self.stream, offset, piece: Piece::from(piece) });
        }
        if slice.end || (last && slice.bytes.is_empty()) {
            self.flush(&mut events);
            self.done = true;
        }
        events
    }

    fn flush(&mut self, events: &mut Vec<ExecEvent>) {
        let rest = self.chunker.finish();
        if !rest.is_empty() {
            let offset = self.next - rest.len() as u64;
            events.push(ExecEvent::Output { stream: self.stream, offset, piece: Piece::from(rest) });
        }
    }

    fn hold(&self) {
        if self.holds {
            self.ring.hold(Some(self.next));
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.holds {
            self.ring.hold(None);
        }
    }
}

pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
