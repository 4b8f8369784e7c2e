//! A runtime whose computers are real hosts on a desk: plain processes with a directory for a root.
//!
//! Volumes are directories, snapshots copies of them. Nothing is isolated: that is the jail's business and tested there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::{JailId, Name, SessionId, SnapshotId, VolumeId};
use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::{
    Capabilities, Fault, ImageInfo, Inventory, JailSpec, Running, SnapshotInfo, Source, Stats, VolumeSpec,
};

struct Up {
    running: Running,
    host: Child,
}

#[derive(Default)]
struct State {
    up: HashMap<SessionId, Up>,
    /// How long the end of a computer takes: half of it before the host is gone, half of it behind.
    stop_takes: Duration,
    images: Vec<ImageInfo>,
    promises: Option<Capabilities>,
}

pub struct Desk {
    dir: tempfile::TempDir,
    state: Mutex<State>,
}

fn host_program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().unwrap().parent().unwrap().join("examples/host");
    assert!(program.exists(), "build it first: cargo build -p wharf-server --example host");
    program
}

fn failed(step: &str, cause: impl std::fmt::Display) -> Fault {
    Fault::Failed { step: step.to_owned(), cause: cause.to_string() }
}

fn copy(from: &Path, to: &Path) -> Result<(), Fault> {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().map_err(|e| failed("cp", e))?;
    if done.success() { Ok(()) } else { Err(failed("cp", done)) }
}

impl Desk {
    pub fn new() -> Self {
        let image = ImageRef { name: "base".parse().unwrap(), digest: "d".repeat(64) };
        let images = vec![ImageInfo { image, size_bytes: 1, created_ms: 1, used_by: 0 }];
        // Short: socket paths are.
        let dir = tempfile::Builder::new().prefix("wd").tempdir_in("/tmp").unwrap();
        Self { dir, state: Mutex::new(State { images, ..State::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it says from now on that it can keep.
    pub fn promise(&self, promises: Capabilities) {
        self.lock().promises = Some(promises);
    }

    fn volume(&self, id: VolumeId) -> PathBuf {
        self.dir.path().join(format!("v-{id}"))
    }

    fn snapshot(&self, id: SnapshotId) -> PathBuf {
        self.dir.path().join(format!("s-{id}"))
    }

    /// As the kernel would after an out-of-memory kill of PID 1.
    pub fn kill(&self, session: SessionId) {
        if let Some(mut up) = self.lock().up.remove(&session) {
            end(&mut up.host);
        }
    }

    /// As an engine that takes its time over ending containers.
    pub fn stops_slowly(&self, takes: Duration) {
        self.lock().stop_takes = takes;
    }

    fn make(&self, spec: &VolumeSpec) -> Result<(), Fault> {
        let volume = self.volume(spec.volume);
        if volume.exists() {
            return Ok(());
        }
        match spec.source {
            Source::Existing => Err(Fault::Missing(format!("volume {}", spec.volume))),
            Source::Snapshot(id) => copy(&self.snapshot(id), &volume),
            Source::Empty => {
                let made = || {
                    for below in ["home/agent", "etc", "tmp", "root"] {
                        std::fs::create_dir_all(volume.join(below))?;
                    }
                    std::fs::write(
                        volume.join("etc/passwd"),
                        "root:x:0:0:root:/root:/bin/sh\nagent:x:0:0:agent:/home/agent:/bin/sh\n",
                    )
                };
                made().map_err(|e: std::io::Error| failed("volume", e))
            }
        }
    }

    fn start(&self, spec: &JailSpec) -> Result<Running, Fault> {
        let mut state = self.lock();
        if let Some(up) = state.up.get(&spec.session) {
            if up.running.incarnation == spec.incarnation {
                return Ok(up.running.clone());
            }
            if let Some(mut old) = state.up.remove(&spec.session) {
                end(&mut old.host);
            }
        }
        self.make(&spec.volume)?;
        let jail = JailId::new();
        let socket = self.dir.path().join(format!("{}", jail.uuid().simple()));
        let host = Command::new(host_program())
            .arg("--listen")
            .arg(&socket)
            .arg("--root")
            .arg(self.volume(spec.volume.volume))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| failed("spawn", e))?;
        let running = Running {
            jail,
            session: spec.session,
            incarnation: spec.incarnation,
            volume: spec.volume.volume,
            host_socket: socket.clone(),
            warm: false,
        };
        state.up.insert(spec.session, Up { running: running.clone(), host });
        for _ in 0..2000 {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                return Ok(running);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(failed("host", "it does not listen"))
    }
}

fn end(host: &mut Child) {
    // SIGTERM: it ends what it runs, as the end of a jail would.
    let _ = Command::new("kill").arg(host.id().to_string()).status();
    for _ in 0..500 {
        if let Ok(Some(_)) = host.try_wait() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = host.kill();
    let _ = host.wait();
}

impl Drop for Desk {
    fn drop(&mut self) {
        for up in self.lock().up.values_mut() {
            end(&mut up.host);
        }
    }
}

#[async_trait]
impl SandboxRuntime for Desk {
    fn name(&self) -> &'static str {
        "native"
    }

    async fn capabilities(&self) -> Result<Capabilities, Fault> {
        let said = self.lock().promises.clone();
        said.ok_or_else(|| Fault::Refused("a desk promises nothing".into()))
    }

    async fn inventory(&self) -> Result<Inventory, Fault> {
        let state = self.lock();
        Ok(Inventory {
            running: state.up.values().map(|u| u.running.clone()).collect(),
            volumes: Vec::new(),
            snapshots: Vec::new(),
            images: state.images.clone(),
        })
    }

    async fn prepare_volume(&self, spec: &VolumeSpec) -> Result<(), Fault> {
        self.make(spec)
    }

    async fn launch(&self, spec: &JailSpec) -> Result<Running, Fault> {
        tokio::task::block_in_place(|| self.start(spec))
    }

    async fn observe(&self, session: SessionId) -> Result<Option<Running>, Fault> {
        Ok(self.lock().up.get(&session).map(|u| u.running.clone()))
    }

    async fn stop(&self, session: SessionId, _grace: Duration) -> Result<(), Fault> {
        let half = self.lock().stop_takes / 2;
        if !self.lock().up.contains_key(&session) {
            return Ok(());
        }
        tokio::time::sleep(half).await;
        let up = self.lock().up.remove(&session);
        if let Some(mut up) = up {
            tokio::task::block_in_place(|| end(&mut up.host));
        }
        tokio::time::sleep(half).await;
        Ok(())
    }

    async fn set_limits(&self, _: SessionId, _: VolumeId, _: &Resources) -> Result<(), Fault> {
        Ok(())
    }

    async fn stats(&self, session: SessionId, _: VolumeId) -> Result<Stats, Fault> {
        let up = self.lock().up.contains_key(&session);
        Ok(Stats { disk_bytes: 4096, pids: u64::from(up), ..Stats::default() })
    }

    async fn snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<SnapshotInfo, Fault> {
        let to = self.snapshot(snapshot);
        if !to.exists() {
            copy(&self.volume(volume), &to)?;
        }
        Ok(SnapshotInfo { snapshot, bytes: 4096, stall_micros: 42 })
    }

    async fn delete_snapshot(&self, snapshot: SnapshotId) -> Result<(), Fault> {
        let _ = std::fs::remove_dir_all(self.snapshot(snapshot));
        Ok(())
    }

    async fn delete_volume(&self, volume: VolumeId) -> Result<(), Fault> {
        let _ = std::fs::remove_dir_all(self.volume(volume));
        Ok(())
    }

    async fn keep_warm(&self, _: &Name, _: u32) -> Result<(), Fault> {
        Ok(())
    }

    async fn import_image(&self, name: &Name, mut archive: std::fs::File) -> Result<ImageInfo, Fault> {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut archive, &mut bytes).map_err(|e| failed("read", e))?;
        if bytes.starts_with(b"not a tar") {
            return Err(Fault::Refused("the archive is not a tar archive".into()));
        }
        let digest = format!("{:064x}", bytes.len());
        let image = ImageRef { name: name.clone(), digest };
        let info = ImageInfo { image, size_bytes: bytes.len() as u64, created_ms: 2, used_by: 0 };
        self.lock().images.push(info.clone());
        Ok(info)
    }

    async fn delete_image(&self, image: &ImageRef) -> Result<(), Fault> {
        self.lock().images.retain(|i| i.image != *image);
        Ok(())
    }
}
