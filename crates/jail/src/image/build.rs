//! Builds an image from its recipe: mmdebstrap makes a Debian root file system, the recipe's script finishes it.
//!
//! Runs as root, on this machine, from its own package sources; needs no jailer. The result is a tar compressed with
//! zstd, to be imported like any other archive.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::recipe::Recipe;
use super::{Progress, sources};
use crate::step::{At, Step};

/// Enough to see why a package did not install.
const KEPT_LINES: usize = 60;
/// A compromise: a tenth of the default level's time for a quarter more bytes.
const ZSTD_LEVEL: i32 = 3;

/// mmdebstrap's announcements, in their order.
const STAGES: [(&str, &str); 7] = [
    ("I: running apt-get update", "reading package lists"),
    ("I: downloading packages", "downloading the core"),
    ("I: extracting archives", "extracting the core"),
    ("I: installing essential", "installing the core"),
    ("I: installing remaining", "installing packages"),
    ("I: running --customize-hook", "running the script"),
    ("I: creating tarball", "packing"),
];

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    pub path: PathBuf,
    pub bytes: u64,
    pub took: Duration,
    /// The archive was there already, from the same recipe.
    pub cached: bool,
}

/// Where an archive of this recipe is kept in `cache`: a changed recipe is another file.
pub fn cached_path(cache: &Path, recipe: &Recipe) -> PathBuf {
    cache.join(format!("{}-{}.tar.zst", recipe.name, &recipe.digest[..16]))
}

/// As [`build`], in `cache`, unless the same recipe was built there before.
pub fn build_cached(
    recipe: &Recipe,
    cache: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, Step> {
    let path = cached_path(cache, recipe);
    match fs::metadata(&path) {
        Ok(found) => Ok(Built { path, bytes: found.len(), took: Duration::ZERO, cached: true }),
        Err(_) => build(recipe, &path, progress),
    }
}

/// Builds the image's archive at `out`, which appears only when it is whole. Takes a minute or so and needs the network
/// as apt does; its proxy settings are taken from the environment.
pub fn build(recipe: &Recipe, out: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Built, Step> {
    let begun = Instant::now();
    if !rustix::process::geteuid().is_root() {
        return Err(Step::refused("build the image", "only root can make a root file system"));
    }
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).at_with(|| format!("create {}", parent.display()))?;
    let workshop = Workshop::new()?;
    let list = workshop.write("sources.list", &sources::of_machine(Path::new("/etc/apt"), &recipe.suite)?)?;
    let script = workshop.write("setup.sh", &recipe.script)?;
    let half_made = out.with_extension(format!("tmp-{}", std::process::id()));
    let answer = run(recipe, &list, &script, &half_made, progress).and_then(|()| {
        fs::rename(&half_made, out).at_with(|| format!("name {}", out.display()))?;
        fs::metadata(out).at_with(|| format!("stat {}", out.display()))
    });
    if answer.is_err() {
        fs::remove_file(&half_made).ok();
    }
    Ok(Built { path: out.to_owned(), bytes: answer?.len(), took: begun.elapsed(), cached: false })
}

fn run(
    recipe: &Recipe,
    list: &Path,
    script: &Path,
    half_made: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Step> {
    let mut child = spawn(recipe, list, script)?;
    let (Some(mut tar), Some(log)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Step::failed("run mmdebstrap", "its output is not connected"));
    };
    let file = File::create_new(half_made).at_with(|| format!("create {}", half_made.display()))?;
    let mut last = VecDeque::with_capacity(KEPT_LINES);
    let packed = std::thread::scope(|scope| {
        let packing = scope.spawn(move || pack(&mut tar, file));
        follow(log, &mut last, progress);
        packing.join()
    });
    let status = child.wait().at("wait for mmdebstrap")?;
    if !status.success() {
        let said = last.make_contiguous().join("\n");
        return Err(Step::failed("build the image", format!("mmdebstrap ended with {status}:\n{said}")));
    }
    match packed {
        Ok(packed) => packed.at("write the image's archive"),
        Err(_) => Err(Step::failed("write the image's archive", "the packer panicked")),
    }
}

fn spawn(recipe: &Recipe, list: &Path, script: &Path) -> Result<Child, Step> {
    // Both paths are ours and hold no quote. `env -i`: nothing of the builder's environment is in the script's.
    let hook = format!(
        "cp '{}' \"$1/.setup.sh\" && chroot \"$1\" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
         LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive /bin/sh -eu /.setup.sh && rm \"$1/.setup.sh\"",
        script.display()
    );
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--mode=root", "--variant=minbase", "--format=tar"])
        .arg(format!("--include={}", recipe.packages.join(",")))
        // A build that dies is thrown away whole; dpkg need not sync each file.
        .arg("--dpkgopt=force-unsafe-io")
        .args(["--aptopt=Acquire::Retries \"3\"", "--aptopt=APT::Install-Recommends \"false\""])
        .arg(format!("--customize-hook={hook}"))
        .args([recipe.suite.as_str(), "-"])
        .arg(list)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .envs(std::env::vars_os().filter(|(key, _)| {
            ["http_proxy", "https_proxy", "no_proxy", "TMPDIR"].iter().any(|known| key == known)
        }))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: prctl is async-signal-safe and touches only the new process.
    unsafe {
        command.pre_exec(|| {
            // TERM, so that it takes its mounts down.
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        });
    }
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Step::refused("build the image", "mmdebstrap is not installed"),
        _ => Step::failed("run mmdebstrap", error),
    })
}

/// Passes the log on, keeping its end for an error.
fn follow(log: impl io::Read, last: &mut VecDeque<String>, progress: &mut dyn FnMut(Progress)) {
    let mut stage = 0;
    for line in BufReader::new(log).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if let Some(at) = STAGES.iter().skip(stage).position(|(mark, _)| line.starts_with(mark)) {
            stage += at + 1;
            let name = STAGES[stage - 1].1;
            progress(Progress::Stage { number: stage as u32, of: STAGES.len() as u32, name });
        }
        if last.len() == KEPT_LINES {
            last.pop_front();
        }
        last.push_back(line.clone());
        progress(Progress::Line(line));
    }
}

fn pack(tar: &mut impl io::Read, file: File) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    io::copy(tar, &mut encoder)?;
    let mut file = encoder.finish()?;
    file.flush()?;
    file.sync_all()
}

/// A directory for what is handed to mmdebstrap; gone when the build is over.
struct Workshop(PathBuf);

impl Workshop {
    fn new() -> Result<Self, Step> {
        let path =
            std::env::temp_dir().join(format!("wharf-image-{}-{}", std::process::id(), super::now_ms()));
        if path.to_str().is_none_or(|path| path.contains(['\'', '"', '\\', ','])) {
            return Err(Step::refused(
                "build the image",
                "the temporary directory's name holds a quote or comma",
            ));
        }
        fs::create_dir(&path).at_with(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Step> {
        let path = self.0.join(name);
        fs::write(&path, text).at_with(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
