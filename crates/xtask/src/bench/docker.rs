//! The peer: Docker Engine from Debian's packages, started privately on a socket and directories of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub const IMAGE: &str = "wharf-bench:base";
/// The same limits as the sessions beside it.
pub const LIMITS: &[&str] = &["--network", "none", "--cpus", "1", "--memory", "512m", "--pids-limit", "256"];

pub struct Docker {
    daemon: Child,
    dir: PathBuf,
}

impl Docker {
    pub fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let log = std::fs::File::create(dir.join("dockerd.log"))?;
        let at = |name: &str| dir.join(name).display().to_string();
        let mut daemon = Command::new("dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("sock")), "--bridge", "none", "--iptables=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start dockerd: install Debian's docker.io")?;
        let since = Instant::now();
        let this = loop {
            if let Some(status) = daemon.try_wait()? {
                bail!("dockerd ended with {status}; see {}", at("dockerd.log"));
            }
            let mut up = Command::new("docker");
            up.args(["-H", &format!("unix://{}", at("sock")), "info"]);
            if quiet(up)?.success() {
                break Self { daemon, dir };
            }
            ensure!(since.elapsed() < Duration::from_secs(30), "dockerd is not ready after 30 s");
            std::thread::sleep(Duration::from_millis(100));
        };
        Ok(this)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new("docker");
        c.arg("-H").arg(format!("unix://{}", self.dir.join("sock").display())).args(args);
        c
    }

    /// Runs to its end and answers what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let out = self.command(args).stdin(Stdio::null()).output()?;
        ensure!(out.status.success(), "docker {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?.trim().to_owned())
    }

    /// Takes the root filesystem that the sessions use as an image.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let name = archive.display().to_string();
        let unpack = match archive.extension().and_then(|e| e.to_str()) {
            Some("zst") => "zstd -dc",
            Some("gz") => "gzip -dc",
            _ => "cat",
        };
        let line = format!(
            "set -o pipefail; {unpack} '{name}' | docker -H unix://{} import - {IMAGE}",
            self.dir.join("sock").display()
        );
        let status = Command::new("bash").args(["-c", &line]).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "docker import of {name} failed");
        Ok(())
    }
}

fn quiet(mut c: Command) -> Result<std::process::ExitStatus> {
    Ok(c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?)
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Ok(ids) = self.run(&["ps", "-aq"]) {
            for id in ids.lines() {
                let _ = self.run(&["rm", "-f", id]);
            }
        }
        // dockerd ends its containerd on SIGTERM; SIGKILL would orphan it.
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
    }
}
