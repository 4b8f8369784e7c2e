//! One method per endpoint of the host.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use wharf_domain::TurnId;
use wharf_domain::limits::EXEC_TIMEOUT_MAX_SECONDS;
use wharf_wire::host::desktop::{
    BATCH_MS, DESKTOP_PROTOCOL, DesktopInfo, InputDone, InputRequest, SETTLE_MAX_MS, Screenshot, ViewMode,
};
use wharf_wire::host::exec::{
    ExecEvent, ExecRequest, ExecResult, Output, ProcessInfo, Processes, SignalRequest, StdinRequest,
    Stream as Which,
};
use wharf_wire::host::files::{
    ChangeMode, ChangeOwner, Deleted, FileInfo, FileList, MakeDirectory, MoveFile, Unpacked, WriteOptions,
    Written,
};
use wharf_wire::host::terminal::{TERMINAL_PROTOCOL, TerminalInfo, TerminalRequest, Terminals};
use wharf_wire::host::turn::{Cancelled, SetupRequest, TurnEvent, TurnInfo, TurnRequest, Turns};
use wharf_wire::host::{Claimed, Health, Identity, NDJSON, Port, Ports, Stats, TUNNEL_PROTOCOL};

use super::{
    ANSWER, Body, ByteStream, Events, FileStream, HostClient, Result, Target, TerminalStream, full, json_of,
    read, request, streamed,
};

fn nothing() -> Body {
    full(Bytes::new())
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRange {
    /// From a byte on, to the end or through a last byte.
    From(u64, Option<u64>),
    /// The last bytes.
    Last(u64),
}

fn name(stream: Which) -> &'static str {
    match stream {
        Which::Stderr => "stderr",
        Which::Stdout | Which::Output => "stdout",
    }
}

impl HostClient {
    pub async fn health(&self) -> Result<Health> {
        self.get("/health").await
    }

    /// Hands a session's identity to the jail. Once; the same again is accepted.
    pub async fn claim(&self, identity: &Identity) -> Result<Claimed> {
        self.post("/identity", identity).await
    }

    pub async fn stats(&self) -> Result<Stats> {
        self.get("/stats").await
    }

    /// TCP ports something in the session listens on.
    pub async fn ports(&self) -> Result<Vec<Port>> {
        Ok(self.get::<Ports>("/ports").await?.ports)
    }

    /// Bytes to and from a port on the session's loopback.
    pub async fn tunnel(&self, port: u16) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        self.upgrade(Target::new(format!("/ports/{port}")), TUNNEL_PROTOCOL).await
    }

    /// The screen there is. Starts nothing.
    pub async fn desktop(&self) -> Result<DesktopInfo> {
        self.get("/desktop").await
    }

    /// Bytes of RFB, as one viewer of the desktop. Starts it when it has to.
    pub async fn view_desktop(
        &self,
        mode: ViewMode,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        self.upgrade(Target::new("/desktop").with("mode", mode.as_str()), DESKTOP_PROTOCOL).await
    }

    /// The screen as PNG. Starts the desktop when it has to.
    pub async fn screenshot(&self, wanted: &Screenshot) -> Result<Bytes> {
        let target = Target::new("/screenshot")
            .maybe("region", wanted.region)
            .maybe("size", wanted.size)
            .maybe("scale", wanted.scale)
            .maybe("settle", wanted.settle_ms)
            .maybe("settle_limit", wanted.settle_limit_ms)
            .maybe("cursor", wanted.no_cursor.then_some("false"));
        // It comes up, settles, and is packed.
        let limit = 2 * ANSWER + Duration::from_millis(SETTLE_MAX_MS.into());
        self.call_within(Some(limit), request(Method::GET, target, nothing())?).await
    }

    /// Acts with pointer and keyboard. Dropping the future ends the batch early.
    pub async fn input(&self, wanted: &InputRequest) -> Result<InputDone> {
        let limit = 4 * ANSWER + Duration::from_millis(BATCH_MS.into());
        read(&self.call_within(Some(limit), request(Method::POST, "/input", json_of(wanted)?)?).await?)
    }

    /// Writes the session's files to the disk.
    pub async fn sync(&self) -> Result<()> {
        self.act(Method::POST, "/sync", nothing()).await
    }

    /// Runs a command to its end. Dropping the future kills it.
    pub async fn exec(&self, wanted: &ExecRequest) -> Result<ExecResult> {
        let seconds = wanted.timeout_seconds.unwrap_or(EXEC_TIMEOUT_MAX_SECONDS);
        let limit = Duration::from_secs(u64::from(seconds)) + ANSWER;
        read(&self.call_within(Some(limit), request(Method::POST, "/exec", json_of(wanted)?)?).await?)
    }

    /// The same as a stream of events. Dropping it kills the command.
    pub async fn exec_stream(&self, wanted: &ExecRequest) -> Result<Events<ExecEvent>> {
        self.events(Method::POST, "/exec".into(), json_of(wanted)?).await
    }

    async fn events<T: DeserializeOwned>(
        &self,
        method: Method,
        target: Target,
        body: Body,
    ) -> Result<Events<T>> {
        let mut request = request(method, target, body)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(NDJSON));
        let (response, connection) = self.open(request).await?;
        Ok(Events::new(ByteStream::new(response.into_body(), connection)))
    }

    /// Starts a process that lives on by itself.
    pub async fn start_process(&self, wanted: &ExecRequest) -> Result<ProcessInfo> {
        self.post("/processes", wanted).await
    }

    pub async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        Ok(self.get::<Processes>("/processes").await?.processes)
    }

    pub async fn process(&self, id: u64) -> Result<ProcessInfo> {
        self.get(Target::new(format!("/processes/{id}"))).await
    }

    /// Output from an offset on, as much as fits an answer.
    pub async fn process_output(&self, id: u64, stream: Which, offset: u64) -> Result<Output> {
        let target = Target::new(format!("/processes/{id}/output"))
            .with("stream", name(stream))
            .with("offset", offset);
        self.get(target).await
    }

    /// Output from two offsets on, to the process's end.
    pub async fn follow_process(&self, id: u64, stdout: u64, stderr: u64) -> Result<Events<ExecEvent>> {
        let target = Target::new(format!("/processes/{id}/output"))
            .with("follow", "true")
            .with("offset", stdout)
            .with("stderr_offset", stderr);
        self.events(Method::GET, target, nothing()).await
    }

    pub async fn signal_process(&self, id: u64, signal: &SignalRequest) -> Result<()> {
        self.act(Method::POST, Target::new(format!("/processes/{id}/signal")), json_of(signal)?).await
    }

    pub async fn write_process(&self, id: u64, input: &StdinRequest) -> Result<()> {
        self.act(Method::POST, Target::new(format!("/processes/{id}/stdin")), json_of(input)?).await
    }

    /// Forgets a process that has ended.
    pub async fn delete_process(&self, id: u64) -> Result<()> {
        self.act(Method::DELETE, Target::new(format!("/processes/{id}")), nothing()).await
    }

    pub async fn create_terminal(&self, wanted: &TerminalRequest) -> Result<TerminalInfo> {
        self.post("/terminals", wanted).await
    }

    pub async fn terminals(&self) -> Result<Vec<TerminalInfo>> {
        Ok(self.get::<Terminals>("/terminals").await?.terminals)
    }

    pub async fn terminal(&self, id: u64) -> Result<TerminalInfo> {
        self.get(Target::new(format!("/terminals/{id}"))).await
    }

    /// Looks at a terminal: its scrollback from byte `after` on, then what comes.
    pub async fn attach_terminal(&self, id: u64, after: u64) -> Result<TerminalStream> {
        let target = Target::new(format!("/terminals/{id}")).with("after", after);
        Ok(TerminalStream::new(self.upgrade(target, TERMINAL_PROTOCOL).await?))
    }

    pub async fn delete_terminal(&self, id: u64) -> Result<()> {
        self.act(Method::DELETE, Target::new(format!("/terminals/{id}")), nothing()).await
    }

    pub async fn stat(&self, path: &str, follow: bool) -> Result<FileInfo> {
        self.get(Target::new("/files/stat").with("path", path).flag("follow", follow)).await
    }

    pub async fn list_files(&self, path: &str, after: Option<&str>, limit: Option<u32>) -> Result<FileList> {
        self.get(Target::new("/files/list").with("path", path).maybe("after", after).maybe("limit", limit))
            .await
    }

    pub async fn read_file(&self, path: &str, range: Option<FileRange>) -> Result<FileStream> {
        let mut request = request(Method::GET, Target::new("/files/content").with("path", path), nothing())?;
        if let Some(range) = range {
            let text = match range {
                FileRange::From(first, None) => format!("bytes={first}-"),
                FileRange::From(first, Some(last)) => format!("bytes={first}-{last}"),
                FileRange::Last(bytes) => format!("bytes=-{bytes}"),
            };
            if let Ok(value) = HeaderValue::try_from(text) {
                request.headers_mut().insert(RANGE, value);
            }
        }
        let (response, connection) = self.open(request).await?;
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let (length, range) =
            (header(CONTENT_LENGTH).and_then(|v| v.parse().ok()), header(CONTENT_RANGE).map(str::to_owned));
        Ok(FileStream { length, range, bytes: ByteStream::new(response.into_body(), connection) })
    }

    /// Writes a whole file at once, or nothing of it. A stream that fails leaves what was there.
    pub async fn write_file(
        &self,
        path: &str,
        options: &WriteOptions,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Written> {
        self.put_file(path, options, streamed(content)).await
    }

    /// The same for content at hand.
    pub async fn write_bytes(
        &self,
        path: &str,
        options: &WriteOptions,
        content: impl Into<Bytes>,
    ) -> Result<Written> {
        self.put_file(path, options, full(content)).await
    }

    async fn put_file(&self, path: &str, options: &WriteOptions, content: Body) -> Result<Written> {
        let target = Target::new("/files/content")
            .with("path", path)
            .maybe("mode", options.mode.map(|m| format!("{m:o}")))
            .maybe("owner", options.owner.as_deref())
            .flag("parents", options.parents)
            .flag("append", options.append);
        // As long as the stream feeds it.
        read(&self.call_within(None, request(Method::PUT, target, content)?).await?)
    }

    pub async fn make_directory(&self, wanted: &MakeDirectory) -> Result<()> {
        self.act(Method::POST, "/files/mkdir", json_of(wanted)?).await
    }

    pub async fn delete_file(&self, path: &str, recursive: bool) -> Result<Deleted> {
        self.call(
            Method::DELETE,
            Target::new("/files").with("path", path).flag("recursive", recursive),
            nothing(),
        )
        .await
    }

    pub async fn move_file(&self, wanted: &MoveFile) -> Result<()> {
        self.act(Method::POST, "/files/move", json_of(wanted)?).await
    }

    pub async fn change_mode(&self, wanted: &ChangeMode) -> Result<()> {
        self.act(Method::POST, "/files/chmod", json_of(wanted)?).await
    }

    pub async fn change_owner(&self, wanted: &ChangeOwner) -> Result<()> {
        self.act(Method::POST, "/files/chown", json_of(wanted)?).await
    }

    /// A path as a tar stream.
    pub async fn read_tar(&self, path: &str) -> Result<ByteStream> {
        let request = request(Method::GET, Target::new("/files/tar").with("path", path), nothing())?;
        let (response, connection) = self.open(request).await?;
        Ok(ByteStream::new(response.into_body(), connection))
    }

    /// Unpacks a tar stream into a directory. `owner` None: `agent`.
    pub async fn write_tar(
        &self,
        path: &str,
        owner: Option<&str>,
        parents: bool,
        archive: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Unpacked> {
        let target =
            Target::new("/files/tar").with("path", path).maybe("owner", owner).flag("parents", parents);
        read(&self.call_within(None, request(Method::PUT, target, streamed(archive))?).await?)
    }

    /// Starts a turn, or attaches to the one of this id: running, it goes on; over, it is told again. Never runs it twice.
    /// Dropping the stream does not end the turn.
    pub async fn turn(&self, wanted: &TurnRequest, after: u64) -> Result<Events<TurnEvent>> {
        self.events(Method::POST, Target::new("/turns").with("after", after), json_of(wanted)?).await
    }

    /// Events of a turn the host knows.
    pub async fn turn_events(&self, turn: TurnId, after: u64) -> Result<Events<TurnEvent>> {
        self.events(Method::GET, Target::new(format!("/turns/{turn}/events")).with("after", after), nothing())
            .await
    }

    pub async fn turn_info(&self, turn: TurnId) -> Result<TurnInfo> {
        self.get(Target::new(format!("/turns/{turn}"))).await
    }

    pub async fn turns(&self) -> Result<Turns> {
        self.get("/turns").await
    }

    pub async fn cancel_turn(&self, turn: TurnId) -> Result<Cancelled> {
        self.call(Method::POST, Target::new(format!("/turns/{turn}/cancel")), nothing()).await
    }

    /// Runs the volume's setup script, or tells how it went.
    pub async fn setup(&self, wanted: &SetupRequest, after: u64) -> Result<Events<TurnEvent>> {
        self.events(Method::POST, Target::new("/setup").with("after", after), json_of(wanted)?).await
    }
}
