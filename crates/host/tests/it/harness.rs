//! A host of its own for every test, and the end of all it started.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use wharf_chassis::HostClient;
use wharf_chassis::host_client::{Events, HostError};
use wharf_domain::{Code, SessionId, TurnId};
use wharf_wire::host::exec::{ExecEvent, ExecRequest, ExecResult};
use wharf_wire::host::turn::{AgentKind, AgentSpec, Block, Done, Said, TurnEvent, TurnMessage, TurnRequest};
use wharf_wire::host::{Env, Fault, Identity};

pub struct Host {
    child: Child,
    pub client: HostClient,
    dir: Option<TempDir>,
}

/// Guardrails without a rule, one request a connection.
fn allow_all(listener: tokio::net::UnixListener) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = vec![0; 65_536];
            let _ = stream.read(&mut asked).await;
            let body = r#"{"decision":"allow"}"#;
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
}

impl Host {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/home/agent")).unwrap();
        Self::start_in(dir).await
    }

    /// Before the guardrails of this socket, which stands where the gateway's would.
    pub async fn start_before(guard: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/home/agent")).unwrap();
        Self::begin(dir, guard.to_owned()).await
    }

    /// A host on the volume of another. Its guardrails allow everything.
    pub async fn start_in(dir: TempDir) -> Self {
        let guard = dir.path().join("guard.sock");
        let _ = std::fs::remove_file(&guard);
        allow_all(tokio::net::UnixListener::bind(&guard).unwrap());
        Self::begin(dir, guard).await
    }

    async fn begin(dir: TempDir, guard: PathBuf) -> Self {
        let socket = dir.path().join("host.sock");
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf-host-dev"));
        command.arg("--listen").arg(&socket).arg("--root").arg(dir.path().join("root"));
        command.env("WHARF_GATEWAY_SOCKET", guard);
        Self::launch(command, dir, &socket).await
    }

    pub async fn launch(mut command: Command, dir: TempDir, socket: &Path) -> Self {
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let client = HostClient::new(socket);
        let until = Instant::now() + Duration::from_secs(10);
        while client.health().await.is_err() {
            assert!(Instant::now() < until, "the host did not come up");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Self { child, client, dir: Some(dir) }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.as_ref().unwrap().path().join("root")
    }

    pub fn home(&self) -> PathBuf {
        self.root().join("home/agent")
    }

    /// As the kernel kills: no word, no farewell. Its volume stays.
    pub fn kill(mut self) -> TempDir {
        let below = below(self.child.id());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // In a jail the namespace ends with its first process; here the test sees to it.
        let pids = below.iter().map(ToString::to_string);
        let _ = Command::new("kill").arg("-9").args(pids).stderr(Stdio::null()).status();
        self.dir.take().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn wait(&mut self) {
        self.child.wait().unwrap();
    }

    pub fn terminate(&mut self) -> std::process::ExitStatus {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        self.child.wait().unwrap()
    }

    /// A file of the agent's home.
    pub fn file(&self, path: &str, content: &str) {
        let path = self.home().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub async fn run(&self, turn: &TurnRequest) -> Vec<TurnEvent> {
        all(self.client.turn(turn, 0).await.unwrap()).await
    }

    pub async fn sh(&self, script: &str) -> ExecResult {
        self.client.exec(&ExecRequest::argv(["/bin/sh", "-c", script])).await.unwrap()
    }

    pub async fn claim(&self, env: Env) -> SessionId {
        let session = SessionId::new();
        self.client.claim(&identity(session, env)).await.unwrap();
        session
    }
}

impl Drop for Host {
    /// Asked to end, it ends everything it started; the host of a namespace is a child of what made the namespace.
    fn drop(&mut self) {
        let own = self.child.id();
        let below = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let is_namespace =
            std::fs::read_to_string(format!("/proc/{own}/comm")).is_ok_and(|c| c.trim() == "unshare");
        let whom = if is_namespace { below.trim().to_owned() } else { own.to_string() };
        let _ = Command::new("kill").arg(whom).stderr(Stdio::null()).status();
        for _ in 0..500 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn identity(session: SessionId, env: Env) -> Identity {
    Identity {
        session,
        hostname: "harbour".into(),
        env,
        agents: Vec::new(),
        instructions: Some("be brief".into()),
        limits: wharf_wire::host::SessionLimits::default(),
        authority: None,
    }
}

fn below(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<u32> = children.split_whitespace().map(|p| p.parse().unwrap()).collect();
    let deeper: Vec<u32> = children.iter().flat_map(|p| below(*p)).collect();
    [children, deeper].concat()
}

/// The process is there and no zombie.
pub fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| !s[s.rfind(')').unwrap()..].starts_with(") Z"))
}

pub async fn until_dead(pid: i32) {
    for _ in 0..500 {
        if !lives(pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} outlives its command");
}

pub async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    for _ in 0..1000 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("in vain: {what}");
}

pub fn refused<T>(result: Result<T, HostError>) -> Fault {
    match result {
        Err(HostError::Refused(fault)) => fault,
        Err(other) => panic!("not a refusal: {other}"),
        Ok(_) => panic!("accepted what should be refused"),
    }
}

pub fn code<T>(result: Result<T, HostError>) -> Code {
    refused(result).code
}

pub async fn all<T: serde::de::DeserializeOwned + Unpin>(mut events: Events<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(event) = events.next().await {
        all.push(event.unwrap());
    }
    all
}

/// Bytes of one stream in order, checked to have no hole but those that are told.
pub fn output_of(events: &[ExecEvent], which: wharf_wire::host::exec::Stream) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for event in events {
        if let ExecEvent::Output { stream, offset, piece } = event
            && *stream == which
        {
            assert_eq!(*offset, bytes.len() as u64, "a hole in {which:?}");
            bytes.extend(piece.clone().into_bytes());
        }
    }
    bytes
}

pub fn shell_turn(script: &str) -> TurnRequest {
    turn_of(AgentSpec::shell(), script)
}

pub fn turn_of(agent: AgentSpec, text: &str) -> TurnRequest {
    TurnRequest {
        turn: TurnId::new(),
        agent,
        agents: Vec::new(),
        message: TurnMessage { seq: 7, content: vec![Block::text(text)] },
        history: Vec::new(),
        timeout_seconds: Some(30),
    }
}

/// An agent that is a Python program.
pub fn python(program: &str) -> AgentSpec {
    AgentSpec {
        name: "py".into(),
        kind: AgentKind::Command,
        entry: vec!["python3".into(), "-uc".into(), program.into()],
        ..AgentSpec::shell()
    }
}

/// An agent whose function lies in the agent's home.
pub fn called(kind: AgentKind, entry: &str) -> AgentSpec {
    AgentSpec { name: "fn".into(), kind, entry: vec![entry.into()], ..AgentSpec::shell() }
}

pub fn said(events: &[TurnEvent]) -> Vec<&Said> {
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            assert_eq!(event.n, events[at - 1].n + 1, "numbers without a gap");
        }
    }
    events.iter().map(|e| &e.said).collect()
}

pub fn done(events: &[TurnEvent]) -> Done {
    match &events.last().expect("a turn says something").said {
        Said::Done(done) => done.clone(),
        other => panic!("the last event is {other:?}"),
    }
}

/// The reply's text, all messages together.
pub fn reply(events: &[TurnEvent]) -> String {
    let mut text = String::new();
    for event in events {
        if let Said::Message { content } = &event.said {
            content.iter().filter_map(Block::as_text).for_each(|t| text.push_str(t));
        }
    }
    text
}

pub fn output(events: &[TurnEvent]) -> String {
    let mut bytes = Vec::new();
    for event in events {
        if let Said::Output { piece, .. } = &event.said {
            bytes.extend(piece.clone().into_bytes());
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A request as no client of ours would send it; status and body.
pub async fn raw(socket: &Path, request: &str) -> (u16, Value) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, b)| b);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// What `seq 1 last` writes.
pub fn numbers(last: u32, newline: &str) -> String {
    use std::fmt::Write as _;
    (1..=last).fold(String::new(), |mut all, i| {
        write!(all, "{i}{newline}").unwrap();
        all
    })
}
