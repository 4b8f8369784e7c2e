//! One request on `git http-backend`, as its manual has it (git-http-backend(1), RFC 3875).
//!
//! Bodies stream both ways and are never whole in memory. Whoever hangs up, says nothing for long or takes too long ends the
//! processes of the request, all of them; but not a push that was let in: that one is finished, which takes moments.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use futures_util::{StreamExt as _, TryFutureExt as _};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wharf_domain::{PushId, RepoId};

use crate::hook;
use crate::program::Setting;
use crate::root::Root;
use crate::tidy::BUSY;
use crate::{GitError, Result, io as named};

/// Bytes of the head of the backend's answer.
const HEAD: usize = 16 * 1024;
/// Bytes of what it says on stderr that are kept for the log.
const SAID: usize = 8 * 1024;
/// One piece of a body.
const CHUNK: usize = 64 * 1024;
/// Between the wish to end and the end.
const GRACE: Duration = Duration::from_secs(2);
/// How long the rest of a body is taken that nobody reads any more, so that the client reads why.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a push waits while the collector is at work.
const LOCK_SECONDS: &str = "60";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Clone and fetch.
    UploadPack,
    /// Push.
    ReceivePack,
}

impl Service {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

/// What is asked of the backend.
#[derive(Debug)]
pub struct Call {
    pub repo: RepoId,
    pub service: Service,
    /// `info/refs` instead of the service itself.
    pub advertise: bool,
    /// Whether the body is compressed.
    pub gzip: bool,
    pub length: Option<u64>,
    /// `Git-Protocol`, checked.
    pub protocol: Option<String>,
    /// Who asks, for git's own records.
    pub user: String,
    /// Of a push: what its hooks ask under.
    pub push: Option<PushId>,
    /// Bytes of a pack that git refuses while it comes.
    pub max_input: Option<u64>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub whole: Duration,
    /// Without a byte either way.
    pub idle: Duration,
}

/// Set when a push is let in: from then on it is finished whatever the client does.
#[derive(Clone, Debug, Default)]
pub struct Hold(Arc<AtomicBool>);

impl Hold {
    pub fn hold(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn held(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The backend's answer.
pub struct Answer<B> {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: B,
}

/// An answer that has begun. The handle tells when the processes have ended, whatever becomes of the answer.
pub struct Started<B> {
    pub answer: Answer<B>,
    pub ended: JoinHandle<Ended>,
}

/// No answer came.
pub struct Broken {
    pub cause: GitError,
    pub ended: Option<JoinHandle<Ended>>,
}

/// How the backend's processes ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<ExitStatus>,
    /// Why they were ended from here.
    pub cut: Option<&'static str>,
    pub said: String,
}

impl Ended {
    pub fn whole(&self) -> bool {
        self.cut.is_none() && self.status.is_some_and(|s| s.success())
    }
}

/// When something was said last, in milliseconds since the start.
#[derive(Clone)]
struct Beat(Arc<AtomicU64>, Instant);

impl Beat {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(0)), Instant::now())
    }

    fn beat(&self) {
        self.0.store(self.1.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn silent(&self) -> Duration {
        self.1.elapsed().saturating_sub(Duration::from_millis(self.0.load(Ordering::Relaxed)))
    }
}

fn command(root: &Root, call: &Call) -> Command {
    let mut more: Vec<Setting> = Vec::new();
    if let Some(most) = call.max_input {
        more.push(("receive.maxInputSize", most.to_string()));
    }
    let programs = root.programs();
    let pushes = call.service == Service::ReceivePack && !call.advertise;
    let mut command = if pushes {
        let mut command = root.dressed(&programs.flock, Some(call.repo), &more);
        command
            .args(["--shared", "--no-fork", "--timeout", LOCK_SECONDS, "--conflict-exit-code"])
            .arg(BUSY.to_string())
            .arg(root.lock_file(call.repo))
            .arg(&programs.git);
        command
    } else {
        root.dressed(&programs.git, Some(call.repo), &more)
    };
    let service = call.service.as_str();
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root.repos())
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", &call.user)
        .env("REMOTE_ADDR", "wharf")
        .env("SERVER_PROTOCOL", "HTTP/1.1");
    if call.advertise {
        command
            .env("REQUEST_METHOD", "GET")
            .env("PATH_INFO", format!("/{}.git/info/refs", call.repo))
            .env("QUERY_STRING", format!("service={service}"));
    } else {
        command
            .env("REQUEST_METHOD", "POST")
            .env("PATH_INFO", format!("/{}.git/{service}", call.repo))
            .env("QUERY_STRING", "")
            .env("CONTENT_TYPE", format!("application/x-{service}-request"));
        if let Some(length) = call.length {
            command.env("CONTENT_LENGTH", length.to_string());
        }
        if call.gzip {
            command.env("HTTP_CONTENT_ENCODING", "gzip");
        }
    }
    if let Some(protocol) = &call.protocol {
        command.env("GIT_PROTOCOL", protocol);
    }
    if let Some(push) = call.push {
        command.env(hook::SOCKET, root.socket()).env(hook::PUSH, push.to_string());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command
}

/// Starts the backend and answers with the head of what it says; the body follows.
pub async fn serve<B>(
    root: &Root,
    call: &Call,
    body: B,
    bounds: Bounds,
    hold: Hold,
) -> Result<Started<impl Stream<Item = io::Result<Bytes>> + Send + use<B>>, Broken>
where
    B: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
{
    let broken = |cause, ended| Broken { cause, ended };
    let spawned = named(|| "start git http-backend".into(), command(root, call).spawn());
    let mut child = spawned.map_err(|e| broken(e, None))?;
    let (Some(stdin), Some(mut stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(broken(GitError::Unreadable("git http-backend has no pipes".into()), None));
    };
    let beat = Beat::new();
    let pump = tokio::spawn(pump(body, stdin, beat.clone()));
    let (here, gone) = oneshot::channel();
    let (tell, ended) = oneshot::channel();
    let attended = tokio::spawn(attend(child, stderr, gone, tell, beat.clone(), bounds, hold));
    let mut buffer = BytesMut::with_capacity(CHUNK);
    let head = loop {
        if let Some(found) = head(&mut buffer) {
            break found;
        }
        let read = if buffer.len() > HEAD { Ok(0) } else { stdout.read_buf(&mut buffer).await };
        match read {
            Ok(n) if n > 0 => beat.beat(),
            _ => {
                let said = String::from_utf8_lossy(&buffer).chars().take(200).collect();
                return Err(broken(GitError::Unreadable(said), Some(attended)));
            }
        }
    };
    let (status, headers) = match head {
        Ok(head) => head,
        Err(e) => return Err(broken(e, Some(attended))),
    };
    let first = buffer.freeze();
    let flow = Flow { stdout: Some(stdout), beat, pump: Some(pump), ended: Some(ended), _here: here };
    let first = stream::iter((!first.is_empty()).then_some(Ok(first)));
    let answer = Answer { status, headers, body: first.chain(stream::unfold(flow, Flow::next)) };
    Ok(Started { answer, ended: attended })
}

/// The body of an answer. Dropped early, it takes `_here` along, and the processes are ended.
struct Flow {
    stdout: Option<ChildStdout>,
    beat: Beat,
    pump: Option<JoinHandle<()>>,
    ended: Option<oneshot::Receiver<bool>>,
    _here: oneshot::Sender<()>,
}

impl Flow {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let stdout = self.stdout.as_mut()?;
        let mut chunk = BytesMut::with_capacity(CHUNK);
        match stdout.read_buf(&mut chunk).await {
            Ok(0) => {
                self.stdout = None;
                // The client reads the answer when it has sent everything.
                if let Some(pump) = self.pump.take() {
                    let _ = pump.await;
                }
                let sound = match self.ended.take() {
                    Some(ended) => ended.await.unwrap_or(false),
                    None => false,
                };
                // An answer that was cut off must not look whole.
                (!sound).then(|| (Err(io::Error::other("git was ended")), self))
            }
            Ok(_) => {
                self.beat.beat();
                Some((Ok(chunk.freeze()), self))
            }
            Err(e) => {
                self.stdout = None;
                Some((Err(e), self))
            }
        }
    }
}

/// The request's body into the backend. What it does not read any more is taken all the same, for a while.
async fn pump<B: Stream<Item = io::Result<Bytes>> + Unpin>(mut body: B, stdin: ChildStdin, beat: Beat) {
    let mut stdin = Some(stdin);
    let mut until = None;
    loop {
        let next = match until {
            None => body.next().await,
            Some(until) => tokio::time::timeout_at(until, body.next()).await.unwrap_or(None),
        };
        let Some(Ok(chunk)) = next else { return };
        beat.beat();
        if let Some(pipe) = stdin.as_mut()
            && pipe.write_all(&chunk).await.is_err()
        {
            stdin = None;
        }
        if stdin.is_none() {
            // Counted from the last byte: whoever still sends is still there.
            until = Some(tokio::time::Instant::now() + DRAIN);
        }
    }
}

/// Waits for the processes of one request and ends them when they must end.
async fn attend(
    mut child: Child,
    stderr: ChildStderr,
    mut gone: oneshot::Receiver<()>,
    tell: oneshot::Sender<bool>,
    beat: Beat,
    bounds: Bounds,
    hold: Hold,
) -> Ended {
    let said = tokio::spawn(listen(stderr));
    let begun = Instant::now();
    let (mut cut, mut client) = (None, true);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.ok(),
            _ = &mut gone, if client => {
                client = false;
                if !hold.held() {
                    cut = Some("the client went away");
                }
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                if begun.elapsed() > bounds.whole {
                    cut = Some("it took longer than git.request_seconds");
                } else if beat.silent() > bounds.idle && !hold.held() {
                    cut = Some("nothing was said for GIT_IDLE_SECONDS");
                }
            }
        }
        if cut.is_some() {
            break end(&mut child).await;
        }
    };
    let _ = tell.send(cut.is_none() && status.is_some_and(|s| s.code().is_some()));
    // A process that outlives its parents (there should be none) may hold the pipe.
    let said = tokio::time::timeout(GRACE, said).unwrap_or_else(|_| Ok(String::new())).await;
    Ended { status, cut, said: said.unwrap_or_default() }
}

/// Asks the whole group to end, then makes it. Its leader is not reaped yet, so the number is still its own.
async fn end(child: &mut Child) -> Option<ExitStatus> {
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    for signal in [Signal::TERM, Signal::KILL] {
        if let Some(group) = group {
            let _ = kill_process_group(group, signal);
        }
        if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
            return status.ok();
        }
    }
    None
}

async fn listen(stderr: ChildStderr) -> String {
    let mut reader = BufReader::new(stderr);
    let (mut kept, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(n) = reader.read(&mut chunk).await {
        if n == 0 {
            break;
        }
        let room = SAID.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&chunk[..room]);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

type Head = (u16, Vec<(String, String)>);

/// Status and headers, once their end is there; what follows stays in the buffer.
fn head(buffer: &mut BytesMut) -> Option<Result<Head>> {
    let find =
        |mark: &[u8]| buffer.windows(mark.len()).position(|w| w == mark).map(|at| (at, at + mark.len()));
    let (end, begin) = find(b"\r\n\r\n").or_else(|| find(b"\n\n"))?;
    let text = buffer.split_to(begin);
    let Ok(text) = std::str::from_utf8(&text[..end]) else {
        return Some(Err(GitError::Unreadable("its head is no text".into())));
    };
    let (mut status, mut headers) = (200, Vec::new());
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            return Some(Err(GitError::Unreadable(line.chars().take(200).collect())));
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            match value.split(' ').next().and_then(|code| code.parse().ok()) {
                Some(code) => status = code,
                None => return Some(Err(GitError::Unreadable(line.chars().take(200).collect()))),
            }
        } else {
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }
    Some(Ok((status, headers)))
}

#[cfg(test)]
mod tests;
