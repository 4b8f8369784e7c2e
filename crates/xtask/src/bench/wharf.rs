//! The system under test: a release `wharf up` on a data directory of the bench's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::http::Http;

pub struct Wharf {
    child: Child,
    pub address: String,
    pub ready_in: Duration,
    token: String,
    /// Where its sockets are: a socket's path has 107 bytes, whatever the checkout is called.
    run: PathBuf,
    stopped: bool,
}

pub const SPACE: &str = "/v1/spaces/bench";

impl Wharf {
    /// Starts it with `warm` computers of the base image standing ready.
    pub async fn start(dir: &Path, warm: u32) -> Result<Self> {
        Self::configured(dir, &format!("[warm]\nbase = {warm}\n")).await
    }

    /// Starts it with sessions on the Docker Engine of that socket.
    pub async fn on_docker(dir: &Path, socket: &Path) -> Result<Self> {
        let config = format!(
            "runtime = \"docker\"\n[warm]\nbase = 0\n[docker]\nhost = \"{}\"\nwaive_disk_limit = true\n\
             waive_user_namespaces = true\n",
            socket.display()
        );
        Self::configured(dir, &config).await
    }

    /// With these settings, as `wharf.toml` has them.
    pub async fn configured(dir: &Path, settings: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let config = dir.join("bench.toml");
        std::fs::write(&config, settings)?;
        let run = std::env::temp_dir().join(format!("wharf-bench-{}", std::process::id()));
        std::fs::create_dir_all(&run)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("wharf.log"))?;
        let since = Instant::now();
        let mut child = Command::new(binary()?)
            .arg("up")
            .arg("--config")
            .arg(&config)
            .env("WHARF_DATA_DIR", dir.join("data"))
            .env("WHARF_RUN_DIR", &run)
            .env("WHARF_LISTEN", &address)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start wharf up")?;
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("wharf up ended with {status}; see {}", dir.join("wharf.log").display());
            }
            if let Ok(mut http) = Http::connect(&address, None).await
                && http.get("/readyz").await.is_ok()
            {
                break;
            }
            ensure!(since.elapsed() < Duration::from_secs(60), "wharf is not ready after 60 s");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let ready_in = since.elapsed();
        let token = login(&address, &dir.join("data")).await?;
        Ok(Self { child, address, ready_in, token, run, stopped: false })
    }

    pub async fn http(&self) -> Result<Http> {
        Http::connect(&self.address, Some(self.token.clone())).await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The image under test and a space to work in; both may be there from an earlier start.
    pub async fn furnish(&self, archive: &Path) -> Result<()> {
        let mut http = self.http().await?;
        if http.get(SPACE).await.is_err() {
            http.post("/v1/spaces", json!({ "name": "bench" })).await?;
        }
        let images = http.get(&format!("{SPACE}/images")).await?;
        let there = images["items"].as_array().is_some_and(|l| l.iter().any(|i| i["name"] == "base"));
        if !there {
            self.import(archive, "base")?;
        }
        Ok(())
    }

    pub fn import(&self, archive: &Path, name: &str) -> Result<()> {
        let status = Command::new(binary()?)
            .args(["image", "import"])
            .arg(archive)
            .arg(name)
            .env("WHARF_URL", format!("http://{}", self.address))
            .env("WHARF_TOKEN", &self.token)
            .env("WHARF_SPACE", "bench")
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "importing {} failed", archive.display());
        Ok(())
    }

    pub async fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        let since = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(since.elapsed() < Duration::from_secs(30), "wharf did not stop within 30 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stopped = true;
        Ok(())
    }
}

impl Drop for Wharf {
    fn drop(&mut self) {
        if !self.stopped {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
            let _ = self.child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.run);
    }
}

fn binary() -> Result<PathBuf> {
    let path = Path::new("target/release/wharf").canonicalize().context("build it first: make release")?;
    Ok(path)
}

async fn login(address: &str, data: &Path) -> Result<String> {
    let password =
        std::fs::read_to_string(data.join("initial-admin-password")).context("the first admin's password")?;
    let mut http = Http::connect(address, None).await?;
    let answer: Value =
        http.post("/v1/auth/login", json!({ "username": "admin", "password": password.trim() })).await?;
    let bearer = answer["access_token"].as_str().context("login answered no access_token")?.to_owned();
    Ok(bearer)
}

/// A session's body with the limits the peer has too.
pub fn session(name: &str) -> Value {
    json!({
        "name": name, "image": "base", "agent": { "kind": "shell" }, "idle_timeout_seconds": 86_400,
        "resources": { "cpu_millis": 1000, "memory_mib": 512, "disk_mib": 4096, "pids": 256 },
    })
}
