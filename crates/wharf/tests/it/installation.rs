//! A `wharf up` of the test's own: real processes, a real PostgreSQL and real jails in a directory that goes away.
//!
//! Dropping it stops everything; [`Installation::finish`] also looks for what was left behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use wharf_testkit::docker::{self, Disk, Engine};

pub const SPACE: &str = "lab";

pub type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// Where its sessions run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    #[default]
    Native,
    Docker,
}

impl Runtime {
    /// As the API names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Docker => "docker",
        }
    }

    /// Below an installation's directory, where its sessions' files are.
    pub fn files(self) -> &'static str {
        match self {
            Self::Native => "/jail/",
            Self::Docker => "/engine/data/",
        }
    }
}

/// Makes a test of a story on each runtime.
#[macro_export]
macro_rules! on_every_runtime {
    ($story:ident) => {
        mod $story {
            use $crate::installation::Runtime;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn native() {
                super::$story(Runtime::Native).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn docker() {
                super::$story(Runtime::Docker).await;
            }
        }
    };
}

pub struct Installation {
    /// What an engine leaves goes with it: before the engine would clear up after itself.
    _disk: Option<Disk>,
    /// A Docker Engine of its own, where its sessions need one.
    engine: Option<Mutex<Engine>>,
    dir: tempfile::TempDir,
    keeper: Option<Child>,
    pub address: String,
    /// Names this installation's cgroups, and so its jails' processes.
    prefix: String,
    http: reqwest::Client,
    token: tokio::sync::RwLock<String>,
    password: tokio::sync::OnceCell<String>,
}

/// What differs from an ordinary installation: settings, and the names its machine knows.
#[derive(Default)]
pub struct Outside {
    /// More of `wharf.toml`.
    pub settings: String,
    /// Stands in place of `/etc/hosts` for its processes, unless empty.
    pub hosts: String,
    pub runtime: Runtime,
    /// More of `wharf.toml`, above its tables.
    pub above: String,
    /// What its sessions may write together, in MiB; 1024 where it is 0.
    pub room_mib: u32,
}

impl From<Runtime> for Outside {
    fn from(runtime: Runtime) -> Self {
        Self { runtime, ..Self::default() }
    }
}

/// One process of the installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Keeper,
    Jailer,
    /// Who speaks to Docker Engine.
    Docker,
    Control,
    Postgres,
    /// The first process of a session's computer.
    Host,
    /// Whatever else runs in one.
    Inside,
}

/// Whether this machine can run it; fails where the run says it must.
pub fn possible() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    let required = std::env::var("WHARF_TEST_REQUIRE").is_ok_and(|r| r.split(',').any(|w| w == "jail"));
    assert!(root || !required, "WHARF_TEST_REQUIRE names jail, and jails need root");
    if !root {
        eprintln!("skipped: jails need root");
    }
    root
}

/// As [`possible`], for sessions on that runtime.
pub fn possible_on(runtime: Runtime) -> bool {
    possible() && (runtime == Runtime::Native || docker::missing().is_none())
}

impl Installation {
    pub async fn start() -> Self {
        Self::start_with(&Outside::default()).await
    }

    pub async fn start_on(runtime: Runtime) -> Self {
        Self::start_with(&runtime.into()).await
    }

    pub async fn start_with(outside: &Outside) -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-it-").tempdir().unwrap();
        let number = std::process::id();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let prefix = format!("wharf-it-{number}");
        let data = dir.path().join("data");
        let disk = (outside.runtime == Runtime::Docker).then(|| Disk::over(dir.path()));
        std::fs::create_dir(&data).unwrap();
        // The control plane runs as another user and must reach its own directories.
        open_up(dir.path());
        open_up(&data);
        let (engine, above, tables) = match outside.runtime {
            Runtime::Native => (None, "", "tiny = 1\n".to_owned()),
            Runtime::Docker => {
                let engine = Engine::start(&dir.path().join("engine"));
                let socket = engine.socket().display().to_string();
                let waived = "waive_disk_limit = true\nwaive_user_namespaces = true\n";
                let tables = format!("\n[docker]\nhost = \"{socket}\"\n{waived}");
                (Some(Mutex::new(engine)), "runtime = \"docker\"\n", tables)
            }
        };
        std::fs::write(
            data.join("wharf.toml"),
            format!(
                "listen = \"{address}\"\n{above}{}\n[jailer]\ncgroup_prefix = \"{prefix}\"\nid_base = {}\n\
                 loop_size_mib = {}\n\n[log]\nlevel = \"warn\"\n\n[warm]\nbase = 0\n{tables}{}",
                outside.above,
                1_100_000_000 + u64::from(number % 1000) * 1_000_000,
                outside.room_mib.max(1024),
                outside.settings,
            ),
        )
        .unwrap();
        if !outside.hosts.is_empty() {
            let hosts = dir.path().join("hosts");
            std::fs::write(&hosts, &outside.hosts).unwrap();
            open_up(&hosts);
        }
        wharf_client::client::crypto();
        let mut this = Self {
            engine,
            _disk: disk,
            dir,
            keeper: None,
            address,
            prefix,
            http: reqwest::Client::new(),
            token: tokio::sync::RwLock::new(String::new()),
            password: tokio::sync::OnceCell::new(),
        };
        this.up().await;
        this.furnish().await;
        this
    }

    /// Everything it ever wrote is below this.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.as_ref().unwrap().lock().unwrap()
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What the processes wrote to their log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Starts it on its data directory and waits until it is ready. Answers how long that took.
    pub async fn up(&mut self) -> Duration {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let since = Instant::now();
        let wharf = env!("CARGO_BIN_EXE_wharf");
        let hosts = self.dir.path().join("hosts");
        let mut command = if hosts.exists() {
            // Of one process id still: each replaces the one before.
            let mut command = Command::new("unshare");
            let script = "mount --bind \"$1\" /etc/hosts && exec \"$2\" up";
            command.args(["--mount", "sh", "-c", script, "sh"]).arg(hosts).arg(wharf);
            command
        } else {
            let mut command = Command::new(wharf);
            command.arg("up");
            command
        };
        self.keeper = Some(
            command
                .env("WHARF_DATA_DIR", self.data())
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
        self.ready().await;
        since.elapsed()
    }

    /// Waits until the API says that all its parts are there.
    pub async fn ready(&mut self) {
        let since = Instant::now();
        loop {
            if let Some(status) = self.keeper.as_mut().unwrap().try_wait().unwrap() {
                panic!("wharf up ended with {status}:\n{}", tail(&self.log()));
            }
            let answer = self.http.get(format!("http://{}/readyz", self.address)).send().await;
            if answer.is_ok_and(|a| a.status().is_success()) {
                return;
            }
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "not ready after 60 s:\n{}",
                tail(&self.log())
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn furnish(&self) {
        let archive = self.dir.path().join("tiny.tar");
        wharf_testkit::tiny::archive(&archive).unwrap();
        open_up(&archive);
        self.login().await;
        self.post("/v1/spaces", json!({ "name": SPACE })).await;
        self.import(&archive, "tiny").await;
    }

    /// Imports an image over the API.
    pub async fn import(&self, archive: &Path, name: &str) {
        let since = Instant::now();
        let out = Command::new(env!("CARGO_BIN_EXE_wharf"))
            .args(["image", "import"])
            .arg(archive)
            .arg(name)
            .env("WHARF_DATA_DIR", self.data())
            .env("WHARF_URL", format!("http://{}", self.address))
            .env("WHARF_TOKEN", self.token.read().await.as_str())
            .env("WHARF_SPACE", SPACE)
            .env("HOME", self.dir.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "image import: {}", String::from_utf8_lossy(&out.stderr));
        println!("{name} imported in {:.1} s", since.elapsed().as_secs_f32());
    }

    async fn login(&self) {
        let password = self
            .password
            .get_or_init(async || {
                let file = self.data().join("initial-admin-password");
                std::fs::read_to_string(file).unwrap().trim().to_owned()
            })
            .await;
        let body = json!({ "username": "admin", "password": password });
        let answer = self
            .http
            .post(format!("http://{}/v1/auth/login", self.address))
            .json(&body)
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        *self.token.write().await =
            answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    }

    /// One request; errors of the connection are the caller's to judge, an expired token is not.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> reqwest::Result<(StatusCode, Value)> {
        let mut renewed = false;
        loop {
            let mut request = self
                .http
                .request(method.clone(), format!("http://{}{path}", self.address))
                .bearer_auth(self.token.read().await.as_str())
                .timeout(Duration::from_secs(60));
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            let answer = request.send().await?;
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED && !renewed {
                self.login().await;
                renewed = true;
                continue;
            }
            let text = answer.text().await?;
            return Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))));
        }
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(Method::POST, path, Some(&body), None).await.unwrap();
        assert!(status.is_success(), "POST {path}: {status}: {answer}");
        answer
    }

    /// A request of the administrator's, for what [`Self::call`] does not say.
    pub async fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address)).bearer_auth(self.bearer().await)
    }

    /// A WebSocket of the administrator's.
    pub async fn websocket(&self, path: &str) -> Socket {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        let bearer = format!("Bearer {}", self.bearer().await);
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
        tokio_tungstenite::connect_async(request).await.unwrap().0
    }

    /// The token of the administrator's login.
    pub async fn bearer(&self) -> String {
        self.token.read().await.clone()
    }

    /// What is no JSON.
    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let answer = self
            .http
            .get(format!("http://{}{path}", self.address))
            .bearer_auth(self.bearer().await)
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let bytes = answer.bytes().await.unwrap();
        assert!(status.is_success(), "GET {path}: {status}: {}", String::from_utf8_lossy(&bytes));
        bytes.to_vec()
    }

    /// Puts bytes at a path of the API.
    pub async fn upload(&self, path: &str, bytes: Vec<u8>) {
        let request =
            self.http.put(format!("http://{}{path}", self.address)).bearer_auth(self.bearer().await);
        let answer = request.body(bytes).send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "PUT {path}: {status}: {}", answer.text().await.unwrap_or_default());
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call(Method::GET, path, None, None).await.unwrap();
        assert!(status.is_success(), "GET {path}: {status}: {answer}");
        answer
    }

    /// Every process of it by what it is.
    pub fn parts(&self) -> Vec<(Part, u32)> {
        let keeper = self.keeper.as_ref().unwrap().id();
        let processes = processes();
        let mut parts = vec![(Part::Keeper, keeper)];
        for (&pid, process) in &processes {
            if let Some(init) = self.inside(&processes, pid) {
                parts.push((if init { Part::Host } else { Part::Inside }, pid));
            } else if process.parent == keeper {
                let part = match process.uid {
                    0 if process.command.contains("docker-runtime") => Part::Docker,
                    0 => Part::Jailer,
                    _ => Part::Control,
                };
                parts.push((part, pid));
            } else if process.name == "postgres" && descends(&processes, pid, keeper) {
                parts.push((Part::Postgres, pid));
            }
        }
        parts
    }

    /// Whether a process of a session is its first one; `None` for one of no session.
    fn inside(&self, processes: &BTreeMap<u32, Process>, pid: u32) -> Option<bool> {
        let process = &processes[&pid];
        if process.cgroup.contains(&self.prefix) {
            return Some(process.init);
        }
        // A container's first process is the child of a shim that was told the engine's directory.
        let engine = format!("{}/engine/", self.dir.path().display());
        let of_shim =
            |p: &Process| processes.get(&p.parent).is_some_and(|shim| shim.command.contains(&engine));
        let first = |p: &Process| p.init && !p.command.contains(&engine) && of_shim(p);
        if first(process) {
            return Some(true);
        }
        let mut above = processes.get(&process.parent);
        while let Some(p) = above {
            if first(p) {
                return Some(false);
            }
            above = processes.get(&p.parent);
        }
        None
    }

    /// Waits for the keeper, which the test has killed, and for what the kernel then ends.
    pub async fn wait_gone(&mut self) {
        self.keeper.take().unwrap().wait().unwrap();
        let since = Instant::now();
        let data = self.data().display().to_string();
        while processes().values().any(|p| p.command.contains(&data)) {
            assert!(since.elapsed() < Duration::from_secs(30), "processes outlive their keeper");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Directories of jails that are up.
    pub fn jail_dirs(&self) -> usize {
        std::fs::read_dir(self.data().join("run/jails")).map_or(0, Iterator::count)
    }

    /// Stops it as an administrator would.
    pub fn stop(&mut self) {
        let Some(mut keeper) = self.keeper.take() else { return };
        Command::new("kill").arg(keeper.id().to_string()).status().unwrap();
        let since = Instant::now();
        while keeper.try_wait().unwrap().is_none() {
            if since.elapsed() > Duration::from_secs(40) {
                keeper.kill().unwrap();
                keeper.wait().unwrap();
                assert!(std::thread::panicking(), "wharf did not stop within 40 s:\n{}", tail(&self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it and asserts that nothing is left: no process, no cgroup, no mount, no loop device.
    pub fn finish(mut self) {
        self.stop();
        let data = self.data().display().to_string();
        let all = processes();
        let left: Vec<_> = all
            .iter()
            .filter(|(pid, p)| self.inside(&all, **pid).is_some() || p.command.contains(&data))
            .collect();
        assert!(left.is_empty(), "processes left behind: {left:?}");
        let jails = format!("*{}/*", self.prefix);
        let cgroups =
            Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", &jails]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&cgroups.stdout), "", "cgroups left behind");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&data), "mounts left behind:\n{mounts}");
        let loops = Command::new("losetup").args(["-a"]).output().unwrap();
        let loops = String::from_utf8_lossy(&loops.stdout).into_owned();
        assert!(!loops.contains(&data), "loop devices left behind:\n{loops}");
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of wharf up ---\n{}", tail(&self.log()));
            if let Some(engine) = &self.engine {
                let engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                eprintln!("--- log of dockerd ---\n{}", tail(&engine.log()));
            }
        }
        self.stop();
        if let Some(engine) = &self.engine {
            engine.lock().unwrap_or_else(PoisonError::into_inner).down();
        }
    }
}

fn open_up(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn tail(log: &str) -> &str {
    let from = log.char_indices().rev().nth(8000).map_or(0, |(i, _)| i);
    &log[from..]
}

#[derive(Clone, Debug)]
pub struct Process {
    pub name: String,
    pub command: String,
    pub cgroup: String,
    pub parent: u32,
    pub uid: u32,
    /// The first of its pid namespace, when that is not the machine's.
    pub init: bool,
}

pub fn processes() -> BTreeMap<u32, Process> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let Ok(pid) = entry.unwrap().file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |file: &str| {
            std::fs::read(format!("/proc/{pid}/{file}")).map(|b| String::from_utf8_lossy(&b).into_owned())
        };
        let (Ok(status), Ok(command), Ok(cgroup)) = (read("status"), read("cmdline"), read("cgroup")) else {
            continue;
        };
        let field = |key: &str| {
            status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim().to_owned()
        };
        if field("State:").starts_with('Z') {
            continue;
        }
        let first = |s: String| s.split_whitespace().next().and_then(|w| w.parse().ok()).unwrap_or(0);
        let process = Process {
            name: field("Name:"),
            command: command.replace('\0', " "),
            cgroup,
            parent: first(field("PPid:")),
            uid: first(field("Uid:")),
            init: field("NSpid:").split_whitespace().skip(1).last() == Some("1"),
        };
        found.insert(pid, process);
    }
    found
}

fn descends(processes: &BTreeMap<u32, Process>, mut pid: u32, root: u32) -> bool {
    while let Some(process) = processes.get(&pid) {
        if process.parent == root {
            return true;
        }
        pid = process.parent;
    }
    false
}

/// The archive that `wharf image build NAME` has left; its absence is said, and a failure where `NAME-image` is required.
pub fn image_archive(name: &str) -> Option<PathBuf> {
    let images = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/images");
    let of = |file: &Path| {
        file.file_name()
            .and_then(|f| f.to_str())
            .is_some_and(|f| f.starts_with(&format!("{name}-")) && f.ends_with(".tar.zst"))
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(images)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| of(p))
        .collect();
    // Of several, the one of the recipe as it is now.
    found.sort_by_key(|p| p.metadata().and_then(|m| m.modified()).ok());
    let found = found.pop();
    if found.is_none() {
        let required = std::env::var("WHARF_TEST_REQUIRE").unwrap_or_default();
        let wanted = format!("{name}-image");
        assert!(!required.split(',').any(|r| r.trim() == wanted), "the image {name} is required here");
        eprintln!("skipped: no image {name} in target/images");
    }
    found
}
