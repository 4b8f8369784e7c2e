//! A machine with a jailer on it, and a census when it is done.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use wharf_domain::image::ImageRef;
use wharf_jail::NativeRuntime;
use wharf_ports::SandboxRuntime;
pub use wharf_testkit::contract::{ok, run};

const BUSYBOX: &str = "/bin/busybox";
const IDS_PER_MACHINE: u32 = 65536 * 512;

/// Why these tests cannot run here; `None` when they can. Fails where they are required.
pub fn missing() -> Option<String> {
    let why = if rustix::process::geteuid().is_root() {
        (!Path::new(BUSYBOX).exists()).then(|| format!("{BUSYBOX} is missing (apt install busybox-static)"))
    } else {
        Some("not root".to_owned())
    }?;
    let required = std::env::var("WHARF_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r.trim() == "jail"), "jail tests are required here, but: {why}");
    println!("skipped: {why}");
    Some(why)
}

/// Starts a machine, or returns from the test where jails cannot be tested.
#[macro_export]
macro_rules! machine {
    () => {{
        if $crate::harness::missing().is_some() {
            return;
        }
        $crate::harness::Machine::start().await
    }};
}

pub struct Machine {
    pub dir: PathBuf,
    pub runtime: NativeRuntime,
    pub image: ImageRef,
    pub first_id: u32,
    pub cgroup_parent: String,
    control_uid: u32,
    jailer: Option<Child>,
}

impl Machine {
    pub async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("jail-{pid}-{number}");
        let dir = PathBuf::from("/tmp").join(&name);
        std::fs::create_dir(&dir).unwrap();
        let mut machine = Self {
            runtime: NativeRuntime::new(dir.join("run/jailer.sock")),
            image: ImageRef { name: "tiny".parse().unwrap(), digest: String::new() },
            // Above what installations take by default, and apart from other machines of these tests.
            first_id: (1 << 31) + (pid.wrapping_mul(7) + number) % 63 * IDS_PER_MACHINE,
            cgroup_parent: name,
            control_uid: 0,
            jailer: None,
            dir,
        };
        machine.start_jailer(true);
        let archive = machine.image_with("");
        let info = machine.runtime.import_image(&"tiny".parse().unwrap(), archive).await.unwrap();
        machine.image = info.image;
        machine
    }

    /// The tests' image after some rearranging by a script in its root.
    pub fn image_with(&self, script: &str) -> std::fs::File {
        wharf_testkit::contract::tiny_image(&self.dir, &example("session_init"), &example("breakout"), script)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/jailer.sock")
    }

    pub fn start_jailer(&mut self, stop_jails_on_exit: bool) {
        let settings = format!(
            r#"{{"run_dir":"{0}/run","data_dir":"{0}/data","host_binary":"{1}","cgroup_parent":"{2}","first_id":{3},"control_uid":{4},"stop_jails_on_exit":{stop_jails_on_exit}}}"#,
            self.dir.display(),
            example("session_init").display(),
            self.cgroup_parent,
            self.first_id,
            self.control_uid,
        );
        let log = std::fs::File::options().append(true).create(true).open(self.log_path()).unwrap();
        let child =
            Command::new(example("jailer")).arg(settings).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        self.jailer = Some(child);
        let begun = Instant::now();
        while !answers(&self.socket()) {
            if let Some(status) = self.jailer.as_mut().unwrap().try_wait().unwrap() {
                panic!("the jailer ended with {status}:\n{}", self.log());
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "no jailer after 10 s:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As the power of an out-of-memory killer would.
    pub fn kill_jailer(&mut self) {
        let mut jailer = self.jailer.take().unwrap();
        jailer.kill().unwrap();
        jailer.wait().unwrap();
    }

    pub fn stop_jailer(&mut self) {
        let mut jailer = self.jailer.take().unwrap();
        let pid = rustix::process::Pid::from_child(&jailer);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let begun = Instant::now();
        while jailer.try_wait().unwrap().is_none() {
            if begun.elapsed() > Duration::from_secs(20) {
                jailer.kill().unwrap();
                panic!("the jailer did not stop:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("jailer.log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until as many jails stand ready, seen from the outside: directories of jails that are nobody's.
    pub fn wait_for_warm(&self, count: usize) {
        let begun = Instant::now();
        while self.records().iter().filter(|r| r.contains(r#""phase":"warm""#)).count() != count {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{count} warm jails expected:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn records(&self) -> Vec<String> {
        let jails = std::fs::read_dir(self.dir.join("run/jails")).unwrap().flatten();
        jails.filter_map(|jail| std::fs::read_to_string(jail.path().join("state.json")).ok()).collect()
    }

    /// Processes with ids of this machine's jails.
    pub fn processes(&self) -> Vec<String> {
        let ours = self.first_id..self.first_id + IDS_PER_MACHINE;
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
            let uid =
                status.lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
            if uid.is_some_and(|uid: u32| ours.contains(&uid)) && !status.contains("State:\tZ") {
                found.push(status.lines().take(8).collect::<Vec<_>>().join(" "));
            }
        }
        found
    }

    pub fn cgroups(&self) -> Vec<PathBuf> {
        // Version 2 first: it is the one that kills.
        let trees = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path());
        [PathBuf::from("/sys/fs/cgroup/unified"), PathBuf::from("/sys/fs/cgroup")]
            .into_iter()
            .chain(trees.filter(|tree| !tree.ends_with("unified")))
            .map(|tree| tree.join(&self.cgroup_parent))
            .filter(|ours| ours.is_dir())
            .collect()
    }

    fn clear_up(&self) {
        for ours in self.cgroups() {
            for jail in std::fs::read_dir(&ours).unwrap().flatten().filter(|e| e.path().is_dir()) {
                let _ = std::fs::write(jail.path().join("cgroup.kill"), "1");
                for _ in 0..200 {
                    match std::fs::remove_dir(jail.path()) {
                        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        _ => break,
                    }
                }
            }
            let _ = std::fs::remove_dir(ours);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }

    /// Everything of this machine that should not be there once its jails are stopped.
    pub fn leftovers(&self) -> String {
        let mut found = String::new();
        for process in self.processes() {
            let _ = writeln!(found, "process: {process}");
        }
        for ours in self.cgroups() {
            for entry in std::fs::read_dir(&ours).unwrap().flatten().filter(|e| e.path().is_dir()) {
                let _ = writeln!(found, "cgroup: {}", entry.path().display());
            }
        }
        for jail in std::fs::read_dir(self.dir.join("run/jails")).into_iter().flatten().flatten() {
            let _ = writeln!(found, "jail: {}", jail.path().display());
        }
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- jailer\n{}", self.log());
            // One failure is enough: clear up, as far as it goes, and let the first one be seen.
            let _ = self.jailer.take().map(|mut jailer| jailer.kill().and_then(|()| jailer.wait()));
            self.clear_up();
            return;
        }
        if self.jailer.is_none() {
            self.start_jailer(true);
        }
        self.stop_jailer();
        let mut found = self.leftovers();
        let here = self.dir.to_string_lossy().into_owned();
        for line in
            std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains(&here))
        {
            let _ = writeln!(found, "mount: {line}");
        }
        // The kernel lets go of a loop device a moment after the last mount.
        let begun = Instant::now();
        while let Some(device) = loop_device(&here) {
            if begun.elapsed() > Duration::from_secs(3) {
                let _ = writeln!(found, "loop device: {device}");
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for ours in self.cgroups() {
            let _ = writeln!(found, "cgroup: {}", ours.display());
        }
        if found.is_empty() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
        assert!(found.is_empty(), "left behind:\n{found}");
    }
}

/// Whether a request is answered, which it is only when everything left from before has been looked at.
fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let hello = br#"{"hello":{"protocol":1}}"#;
    let asked = stream.write_all(&[&(hello.len() as u32).to_be_bytes()[..], hello].concat());
    asked.is_ok() && stream.read_exact(&mut [0u8; 8]).is_ok()
}

fn loop_device(below: &str) -> Option<String> {
    for entry in std::fs::read_dir("/sys/block").unwrap().flatten() {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if backing.starts_with(below) {
            return Some(format!("{} on {}", entry.file_name().to_string_lossy(), backing.trim()));
        }
    }
    None
}

pub fn example(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build -p wharf-jail --examples", path.display());
    path
}
