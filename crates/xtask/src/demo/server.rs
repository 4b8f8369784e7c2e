//! `wharf up` as the demonstration runs it: started, killed, started again, stopped, and looked at from outside.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A name of its own under every cgroup hierarchy, so that nothing of another installation is touched or counted.
const CGROUPS: &str = "wharf-demo";

pub struct Server {
    wharf: PathBuf,
    data: PathBuf,
    child: Child,
    _out: BufReader<ChildStdout>,
    pub url: String,
    pub ready_line: String,
}

/// One process as `/proc` shows it.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub uid: u32,
    pub name: String,
    pub capabilities: u64,
    pub groups: usize,
}

impl Server {
    pub fn start(wharf: &Path, dir: &Path) -> Result<Self> {
        let listen =
            format!("127.0.0.1:{}", std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        Self::spawn(wharf, dir, &listen)
    }

    /// On the same data directory and port.
    pub fn restart(&mut self, dir: &Path) -> Result<()> {
        let listen = self.url.trim_start_matches("http://").to_owned();
        *self = Self::spawn(&self.wharf.clone(), dir, &listen)?;
        Ok(())
    }

    fn spawn(wharf: &Path, dir: &Path, listen: &str) -> Result<Self> {
        let data = dir.join("data");
        let log = File::options().create(true).append(true).open(dir.join("wharf.log"))?;
        let mut child = Command::new(wharf)
            .args(["up", "--listen", listen, "--set"])
            .arg(format!("jailer.cgroup_prefix={CGROUPS}"))
            .arg("--data-dir")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("wharf up")?;
        let mut out = BufReader::new(child.stdout.take().context("its output")?);
        let mut ready_line = String::new();
        loop {
            let mut line = String::new();
            if out.read_line(&mut line)? == 0 {
                let status = child.wait()?;
                bail!(
                    "wharf up ended ({status}) before it was ready; see {}",
                    dir.join("wharf.log").display()
                );
            }
            if line.starts_with("wharf is ready") {
                ready_line.push_str(line.trim());
                break;
            }
        }
        Ok(Self {
            wharf: wharf.to_owned(),
            data,
            child,
            _out: out,
            url: format!("http://{listen}"),
            ready_line,
        })
    }

    pub fn password_file(&self) -> PathBuf {
        self.data.join("initial-admin-password")
    }

    /// Everything that began with this `wharf up`: its descendants, and whatever sits in its cgroups.
    fn processes(&self) -> Result<Vec<Process>> {
        let keeper = self.child.id().cast_signed();
        let mut found = Vec::new();
        let mut parents = std::collections::HashMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
            let field = |name: &str| {
                status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap_or_default()
            };
            parents.insert(pid, field("PPid:").parse::<i32>().unwrap_or_default());
            let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            found.push((
                Process {
                    pid,
                    uid: field("Uid:")
                        .split_whitespace()
                        .nth(1)
                        .and_then(|u| u.parse().ok())
                        .unwrap_or_default(),
                    name: String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned(),
                    capabilities: u64::from_str_radix(field("CapEff:"), 16).unwrap_or_default(),
                    groups: field("Groups:").split_whitespace().count(),
                },
                cgroups.contains(&format!("/{CGROUPS}/")),
            ));
        }
        let descends = |mut pid: i32| {
            while pid > 1 {
                if pid == keeper {
                    return true;
                }
                pid = parents.get(&pid).copied().unwrap_or_default();
            }
            false
        };
        Ok(found.into_iter().filter(|(p, jailed)| *jailed || descends(p.pid)).map(|(p, _)| p).collect())
    }

    pub fn kill_all(&mut self) -> Result<()> {
        let all = self.processes()?;
        ensure!(all.len() > 4, "only {} processes: {all:?}", all.len());
        for process in &all {
            if let Some(pid) = Pid::from_raw(process.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        self.child.wait()?;
        Ok(())
    }

    /// Keeper and jailer are root; nothing else is, and nothing else holds a capability or a group of root's.
    pub fn check_privileges(&self) -> Result<()> {
        let all = self.processes()?;
        let root: BTreeSet<String> = all.iter().filter(|p| p.uid == 0).map(|p| last_word(&p.name)).collect();
        for process in all.iter().filter(|p| p.uid == 0) {
            ensure!(
                process.pid == self.child.id().cast_signed() || last_word(&process.name) == "jailer",
                "{} (pid {}) runs as root",
                process.name,
                process.pid
            );
        }
        ensure!(root.contains("jailer"), "there is no jailer among {root:?}");
        let control: Vec<_> = all.iter().filter(|p| last_word(&p.name) == "control-plane").collect();
        ensure!(control.len() == 1, "there are {} control planes", control.len());
        for process in control {
            ensure!(
                process.uid != 0 && process.capabilities == 0,
                "the control plane is privileged: {process:?}"
            );
            ensure!(process.groups <= 1, "the control plane kept supplementary groups: {process:?}");
        }
        Ok(())
    }

    /// SIGTERM, a clean end, and nothing left of processes, cgroups and mounts.
    pub fn stop(&mut self) -> Result<()> {
        let before = self.processes()?;
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("its pid")?;
        kill_process(pid, Signal::TERM)?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(begun.elapsed() < Duration::from_secs(40), "wharf up does not stop");
            std::thread::sleep(Duration::from_millis(20));
        };
        ensure!(status.success(), "wharf up ended with {status}");
        let left: Vec<_> = before.iter().filter(|p| alive(p)).collect();
        ensure!(left.is_empty(), "left over: {left:?}");
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let data = self.data.display().to_string();
        ensure!(!mounts.contains(&data), "a mount below {data} is left over");
        Ok(())
    }
}

impl Drop for Server {
    /// A story that failed must not leave a server behind.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.stop();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn alive(process: &Process) -> bool {
    std::fs::read(format!("/proc/{}/cmdline", process.pid)).is_ok_and(|line| {
        String::from_utf8_lossy(&line).replace('\0', " ").trim() == process.name && !line.is_empty()
    })
}

fn last_word(line: &str) -> String {
    line.split_whitespace().last().unwrap_or_default().to_owned()
}
