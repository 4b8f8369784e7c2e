//! A Docker Engine of the test's own: Debian's `docker.io` on directories and a socket that go away with it.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DAEMON: &str = "/usr/sbin/dockerd";
const MKFS: &str = "/sbin/mkfs.ext4";

/// Why there can be none here; `None` when there can. Fails where it is required.
pub fn missing() -> Option<String> {
    let why = if !rustix::process::geteuid().is_root() {
        "not root".to_owned()
    } else if !Path::new(DAEMON).exists() {
        format!("{DAEMON} is missing (apt install docker.io)")
    } else if !Path::new(MKFS).exists() {
        format!("{MKFS} is missing (apt install e2fsprogs)")
    } else {
        return None;
    };
    let required = std::env::var("WHARF_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r.trim() == "docker"), "Docker tests are required here, but: {why}");
    println!("skipped: {why}");
    Some(why)
}

/// A file system of a directory's own, in one file beside it. Engines leave hundreds of thousands of files behind, and to remove them
/// one by one takes minutes on some disks; this way it is one.
pub struct Disk(PathBuf);

impl Disk {
    /// Over an empty directory; takes no room before something is written.
    pub fn over(dir: &Path) -> Self {
        let disk = Self(dir.canonicalize().unwrap());
        std::fs::File::create(disk.file()).unwrap().set_len(24 << 30).unwrap();
        let file = disk.file().display().to_string();
        let at = disk.0.display().to_string();
        for (program, args) in [
            (MKFS, &["-q", "-F", "-m", "0", "-O", "^has_journal", file.as_str()][..]),
            ("mount", &["-o", "loop,noatime", file.as_str(), at.as_str()]),
        ] {
            let done = Command::new(program).args(args).output().unwrap();
            assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
        }
        std::fs::remove_dir(disk.0.join("lost+found")).unwrap();
        disk
    }

    fn file(&self) -> PathBuf {
        self.0.with_extension("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !Command::new("umount").arg(&self.0).status().is_ok_and(|s| s.success()) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
        let _ = std::fs::remove_file(self.file());
    }
}

pub struct Engine {
    dir: PathBuf,
    daemon: Option<Child>,
}

impl Engine {
    /// Starts one in a new directory. Its path must be short: sockets lie in it.
    pub fn start(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut engine = Self { dir: dir.canonicalize().unwrap(), daemon: None };
        engine.up();
        engine
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// Starts it on what it left, and waits until it answers.
    pub fn up(&mut self) {
        // One that a killed daemon left behind keeps the next from starting its own; a service manager ends it too.
        self.kill_containerd();
        let log = std::fs::File::options().append(true).create(true).open(self.dir.join("log")).unwrap();
        let at = |name: &str| self.dir.join(name).display().to_string();
        let mut daemon = Command::new(DAEMON)
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("sock")), "--bridge", "none", "--iptables=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !self.answers() {
            if let Some(status) = daemon.try_wait().unwrap() {
                panic!("dockerd ended with {status}:\n{}", self.log());
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no dockerd after 30 s:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.daemon = Some(daemon);
    }

    fn answers(&self) -> bool {
        use std::io::{Read as _, Write as _};
        let Ok(mut stream) = std::os::unix::net::UnixStream::connect(self.socket()) else { return false };
        let mut text = [0_u8; 12];
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n").is_ok()
            && stream.read_exact(&mut text).is_ok()
            && text.ends_with(b"200")
    }

    /// Stops it, and with it all containers.
    pub fn down(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        // It ends its containerd on SIGTERM; SIGKILL would orphan that one.
        let _ = Command::new("kill").arg(daemon.id().to_string()).status();
        let _ = daemon.wait();
    }

    /// As when the machine's memory is short: nothing of it is ended in order. What runs in containers runs on, for as long as
    /// nobody starts it again.
    pub fn kill(&mut self, with_containerd: bool) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let _ = daemon.kill();
        let _ = daemon.wait();
        if with_containerd {
            self.kill_containerd();
        }
    }

    /// Its helper, where that is still this engine's.
    fn kill_containerd(&self) {
        let pid =
            std::fs::read_to_string(self.dir.join("exec/containerd/containerd.pid")).unwrap_or_default();
        let pid = pid.trim();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&self.dir.display().to_string()) {
            let _ = Command::new("kill").args(["-9", pid]).status();
            let begun = Instant::now();
            // Its arguments go with its memory, before anybody has waited for it.
            while std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty()) {
                assert!(begun.elapsed() < Duration::from_secs(10), "containerd {pid} outlives its kill");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // A number that is somebody's again, or a process nobody has waited for, would pass for one that runs.
        for left in ["containerd.pid", "containerd.sock", "containerd.sock.ttrpc"] {
            let _ = std::fs::remove_file(self.dir.join("exec/containerd").join(left));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Killed before: what ran on ends with the next one.
        if self.daemon.is_none() && self.dir.join("pid").exists() && !std::thread::panicking() {
            self.up();
        }
        self.down();
        self.kill_containerd();
        // What a container that would not end still holds.
        let here = self.dir.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points =
            mounts.lines().rev().filter_map(|l| l.split(' ').nth(4)).filter(|p| p.starts_with(&here));
        for point in points {
            let _ = Command::new("umount").args(["-l", point]).status();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
