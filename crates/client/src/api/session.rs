//! One session.

use std::time::Duration;

use reqwest::Method;
use wharf_domain::limits;
use wharf_wire::api;

use super::files::FilesApi;
use super::{Crud, Never};
use crate::call::Call;
use crate::client::Client;
use crate::error::{Error, Result, shown};
use crate::page::List;
use crate::stream::EventStream;
use crate::terminal::{self, Terminal};
use crate::tunnel::Tunnel;

/// What a screenshot is to show.
#[derive(Clone, Debug, Default)]
pub struct ScreenshotOptions {
    /// `x,y,width,height`; the whole screen when not said.
    pub region: Option<String>,
    pub scale: Option<f32>,
    /// Milliseconds of quiet to wait for.
    pub settle: Option<u32>,
    pub no_cursor: bool,
}

/// The largest copy, of many files, on a slow disk.
const PUBLISHING: Duration = Duration::from_secs(1800);

/// `/spaces/{space}/sessions/{session}/…`
#[derive(Clone)]
pub struct SessionApi {
    client: Client,
    space: String,
    name: String,
}

/// A call the server may hold for as long as it holds any.
pub(super) fn waiting(call: Call, what: &str) -> Call {
    call.query("wait", what).limit(Some(Duration::from_secs(u64::from(limits::WAIT_SECONDS) + 30)))
}

impl SessionApi {
    pub(crate) fn new(client: Client, space: &str, name: &str) -> Self {
        Self { client, space: space.to_owned(), name: name.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn call<'a>(&'a self, method: Method, rest: impl IntoIterator<Item = &'a str>) -> Call {
        self.client.call(
            method,
            ["spaces", self.space.as_str(), "sessions", self.name.as_str()].into_iter().chain(rest),
        )
    }

    pub async fn get(&self) -> Result<api::Session> {
        self.call(Method::GET, []).send_json().await
    }

    /// Asks for its computer to go down; files and log stay.
    pub async fn close(&self) -> Result<()> {
        self.call(Method::POST, ["close"]).send_unit().await
    }

    /// Asks for its computer to come up.
    pub async fn restore(&self) -> Result<()> {
        self.call(Method::POST, ["restore"]).send_unit().await
    }

    /// Cancels the running turn.
    pub async fn cancel(&self) -> Result<()> {
        self.call(Method::POST, ["cancel"]).send_unit().await
    }

    pub async fn fork(&self, body: &api::ForkSession) -> Result<api::Session> {
        self.call(Method::POST, ["fork"]).json(body).send_json().await
    }

    pub async fn lineage(&self) -> Result<api::Lineage> {
        self.call(Method::GET, ["lineage"]).send_json().await
    }

    pub async fn stats(&self) -> Result<api::SessionStats> {
        self.call(Method::GET, ["stats"]).send_json().await
    }

    pub fn snapshots(&self) -> Crud<api::Snapshot, api::CreateSnapshot, Never> {
        Crud::new(
            self.client.clone(),
            ["spaces", self.space.as_str(), "sessions", self.name.as_str(), "snapshots"],
        )
    }

    /// What waits, or waited, for somebody's yes.
    pub fn approvals(&self, filters: Vec<(&'static str, String)>) -> List {
        let this = self.clone();
        List::new(move || {
            filters
                .iter()
                .fold(this.call(Method::GET, ["approvals"]), |call, (name, value)| call.query(name, value))
        })
    }

    pub async fn approval(&self, id: &str) -> Result<api::Approval> {
        self.call(Method::GET, ["approvals", id]).send_json().await
    }

    /// Says yes or no.
    pub async fn decide(&self, id: &str, body: &api::Decide) -> Result<api::Approval> {
        self.call(Method::POST, ["approvals", id]).json(body).send_json().await
    }

    /// What left the session.
    pub fn egress(&self, filters: Vec<(&'static str, String)>) -> List {
        let this = self.clone();
        List::new(move || {
            filters
                .iter()
                .fold(this.call(Method::GET, ["egress"]), |call, (name, value)| call.query(name, value))
        })
    }

    pub fn messages(&self, filters: Vec<(&'static str, String)>) -> List {
        let this = self.clone();
        List::new(move || {
            filters
                .iter()
                .fold(this.call(Method::GET, ["messages"]), |call, (name, value)| call.query(name, value))
        })
    }

    pub async fn message(&self, seq: i64) -> Result<api::Message> {
        let seq = seq.to_string();
        self.call(Method::GET, ["messages", &seq]).send_json().await
    }

    /// Queues a message; with `wait`, the answer comes when its turn has ended.
    pub async fn post(&self, message: &api::PostMessage, wait: bool) -> Result<api::PostedMessage> {
        let call = self.call(Method::POST, ["messages"]).json(message);
        if wait { waiting(call, "done").send_json().await } else { call.send_json().await }
    }

    /// The session's log from behind `after` on, followed until dropped.
    pub async fn events(&self, after: Option<i64>) -> Result<EventStream> {
        let this = self.clone();
        EventStream::open(move || this.call(Method::GET, ["events"]), after.map(|n| n.to_string())).await
    }

    /// The session's log from behind `after` on, as it is now.
    pub async fn log(&self, after: i64) -> Result<EventStream> {
        EventStream::once(self.call(Method::GET, ["events"]).query("after", after).query("no_follow", true))
            .await
    }

    /// Runs a command to its end. For commands that write much or run long, see [`Self::exec_stream`].
    pub async fn exec(&self, body: &api::ExecRequest) -> Result<api::ExecResult> {
        let limit = u64::from(body.timeout_seconds.unwrap_or(limits::EXEC_TIMEOUT_SECONDS)) + 60;
        self.call(Method::POST, ["exec"]).json(body).limit(Some(Duration::from_secs(limit))).send_json().await
    }

    /// Runs a command; [`api::ExecEvent`]s come as they happen, `exit` last.
    pub async fn exec_stream(&self, body: &api::ExecRequest) -> Result<EventStream> {
        EventStream::once(self.call(Method::POST, ["exec"]).json(body)).await
    }

    /// Starts a command and leaves it running.
    pub async fn spawn(&self, body: &api::ExecRequest) -> Result<api::Process> {
        let body = api::ExecRequest { background: true, ..body.clone() };
        self.call(Method::POST, ["exec"]).json(&body).send_json().await
    }

    pub fn processes(&self) -> List {
        let this = self.clone();
        List::new(move || this.call(Method::GET, ["processes"]))
    }

    pub async fn process(&self, id: u64) -> Result<api::Process> {
        self.call(Method::GET, ["processes", &id.to_string()]).send_json().await
    }

    /// A process's output from the beginning, as [`api::ExecEvent`]s; `exit` comes last.
    pub async fn follow(&self, id: u64) -> Result<EventStream> {
        let (this, id) = (self.clone(), id.to_string());
        EventStream::open(
            move || this.call(Method::GET, ["processes", &id, "output"]).query("follow", true),
            None,
        )
        .await
    }

    pub async fn signal(&self, process: u64, signal: api::SignalName) -> Result<()> {
        self.call(Method::POST, ["processes", &process.to_string(), "signal"])
            .json(&api::SignalRequest { signal })
            .send_unit()
            .await
    }

    /// Writes to a process's stdin, and closes it behind that when `close`.
    pub async fn stdin(&self, process: u64, bytes: &[u8], close: bool) -> Result<()> {
        let (data, encoding) = api::Encoding::encode(bytes);
        let body = api::StdinRequest { data, encoding, close };
        self.call(Method::POST, ["processes", &process.to_string(), "stdin"]).json(&body).send_unit().await
    }

    /// Opens a terminal, or comes back to the one of that id.
    pub async fn terminal(&self, options: &terminal::Options) -> Result<Terminal> {
        let mut call = self
            .call(Method::GET, ["terminal"])
            .query("cols", options.cols)
            .query("rows", options.rows)
            .query_opt("id", options.id)
            .query_opt("after", options.after)
            .query_opt("user", options.user.as_deref());
        if let Some(command) = &options.command {
            call = call.query("command", command);
        }
        Terminal::open(call).await
    }

    /// What listens in the session.
    pub async fn ports(&self) -> Result<api::ListeningPorts> {
        self.call(Method::GET, ["ports"]).send_json().await
    }

    /// A link to a port, for a browser.
    pub async fn port_link(&self, body: &api::CreatePortLink) -> Result<api::PortLink> {
        self.call(Method::POST, ["port-links"]).json(body).send_json().await
    }

    /// A connection to a port.
    pub async fn tunnel(&self, port: u16) -> Result<Tunnel> {
        Tunnel::open(self.call(Method::GET, ["tunnel"]).query("port", port)).await
    }

    /// The session's screen as RFB (RFC 6143), what VNC viewers speak. Who only looks changes nothing.
    pub async fn desktop(&self, view_only: bool) -> Result<Tunnel> {
        let mode = if view_only { "view" } else { "control" };
        Tunnel::open(self.call(Method::GET, ["desktop"]).query("mode", mode)).await
    }

    /// Makes an immutable copy of files. Takes as long as there are files to copy.
    pub async fn publish(&self, body: &api::Publish) -> Result<api::Published> {
        self.call(Method::POST, ["publish"]).json(body).limit(Some(PUBLISHING)).send_json().await
    }

    /// Ends all published copies of the session.
    pub async fn unpublish(&self) -> Result<api::Unpublished> {
        self.call(Method::DELETE, ["publish"]).send_json().await
    }

    /// A picture of the session's screen, as PNG.
    pub async fn screenshot(&self, options: &ScreenshotOptions) -> Result<bytes::Bytes> {
        let call = self
            .call(Method::GET, ["screenshot"])
            .query_opt("region", options.region.as_deref())
            .query_opt("scale", options.scale)
            .query_opt("settle", options.settle)
            .query_opt("cursor", options.no_cursor.then_some(false))
            .limit(Some(Duration::from_secs(180)));
        let url = call.url().clone();
        let answer = call.send().await?;
        answer.bytes().await.map_err(|e| Error::Broken { url: shown(&url), reason: e.to_string() })
    }

    /// The session's files; works on a closed session too.
    pub fn files(&self) -> FilesApi {
        FilesApi::new(self.clone())
    }
}
