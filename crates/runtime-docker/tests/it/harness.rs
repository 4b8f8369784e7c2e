//! A machine with an engine and the runtime on it, and a census when it is done.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use wharf_domain::image::ImageRef;
use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::Running;
use wharf_runtime_docker::{DockerRuntime, Settings};
use wharf_testkit::contract::{self, Promises, tiny_image};
use wharf_testkit::docker::{self, Engine};

pub struct Machine {
    pub dir: PathBuf,
    pub runtime: DockerRuntime,
    pub image: ImageRef,
    pub engine: Engine,
}

pub async fn start() -> Option<Machine> {
    if docker::missing().is_some() {
        return None;
    }
    Some(Machine::start(true).await)
}

/// Starts a machine, or returns from the test where there can be none.
#[macro_export]
macro_rules! machine {
    () => {{
        let Some(machine) = $crate::harness::start().await else { return };
        machine
    }};
}

impl Machine {
    /// With or without leave to do what this engine cannot promise.
    pub async fn start(waive: bool) -> Self {
        Self::start_in(directory(), waive).await
    }

    /// In a directory that may have been prepared.
    pub async fn start_in(dir: PathBuf, waive: bool) -> Self {
        let engine = Engine::start(&dir.join("engine"));
        let mut machine = Self {
            runtime: DockerRuntime::open(settings(&dir, &engine, waive)).unwrap(),
            image: ImageRef { name: "tiny".parse().unwrap(), digest: String::new() },
            engine,
            dir,
        };
        let archive = contract::Machine::image_with(&machine, "");
        machine.image = machine.runtime.import_image(&"tiny".parse().unwrap(), archive).await.unwrap().image;
        machine
    }

    /// As after a crash of the process that had it: another runtime on the same directories.
    pub fn again(&mut self) {
        self.runtime = DockerRuntime::open(settings(&self.dir, &self.engine, true)).unwrap();
    }

    /// The engine's own program, asked directly.
    pub fn docker(&self, args: &[&str]) -> String {
        let socket = format!("unix://{}", self.engine.socket().display());
        let out = Command::new("docker").args(["-H", &socket]).args(args).output().unwrap();
        assert!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

/// A new one with a short name.
pub fn directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("dock-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = PathBuf::from("/tmp").join(name);
    std::fs::create_dir(&dir).unwrap();
    dir
}

fn settings(dir: &Path, engine: &Engine, waive: bool) -> Settings {
    Settings {
        waive_disk_limit: waive,
        waive_user_namespaces: waive,
        ..Settings::new(engine.socket(), dir.join("run"), dir.join("data"), example("docker_init"))
    }
}

pub fn example(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build -p wharf-runtime-docker --examples", path.display());
    path
}

impl contract::Machine for Machine {
    fn runtime(&self) -> &dyn SandboxRuntime {
        &self.runtime
    }

    fn image(&self) -> &ImageRef {
        &self.image
    }

    fn promises(&self) -> Promises {
        Promises {
            disk_limit: false,
            root_is_nobody: false,
            hides_paths: false,
            new_jail_each_start: false,
            writes_etc: false,
        }
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    fn log(&self) -> String {
        self.engine.log()
    }

    fn leftovers(&self) -> String {
        let mut found = String::new();
        for name in self.docker(&["ps", "--format", "{{.Names}} {{.Status}}"]).lines() {
            let _ = writeln!(found, "container: {name}");
        }
        for jail in std::fs::read_dir(self.dir.join("run/jails")).into_iter().flatten().flatten() {
            let _ = writeln!(found, "jail: {}", jail.path().display());
        }
        found
    }

    fn image_with(&self, script: &str) -> File {
        tiny_image(&self.dir, &example("docker_init"), &example("docker_breakout"), script)
    }

    fn first_process(&self, running: &Running) -> i32 {
        let name = format!("wharf-{}", running.volume);
        self.docker(&["inspect", "-f", "{{.State.Pid}}", &name]).parse().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- dockerd\n{}", tail(&self.engine.log()));
        }
        self.engine.down();
        let here = self.dir.display().to_string();
        let mut left = String::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&here) {
                let _ = writeln!(left, "process: {command}");
            }
        }
        for entry in std::fs::read_dir(self.dir.join("data")).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("import-") {
                let _ = writeln!(left, "unpacked archive: {}", entry.path().display());
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        assert!(left.is_empty() || std::thread::panicking(), "left behind:\n{left}");
    }
}

fn tail(log: &str) -> &str {
    let from = log.char_indices().rev().nth(6000).map_or(0, |(i, _)| i);
    &log[from..]
}
