//! A repository of Debian's own packages on this machine: a package that is not in an image, and all it needs there.
//!
//! They are fetched once from where the machine itself is installed from, and kept in `target/`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

#[track_caller]
fn ok(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{command:?}: {}: {said}", out.status);
    String::from_utf8(out.stdout).unwrap()
}

/// A directory with the packages and their index, for an entry `deb [trusted=yes] http://… ./`.
pub fn repository(archive: &Path, package: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let image = archive.file_name().unwrap().to_string_lossy().replace(".tar.zst", "");
    let whole = target.join(format!("debian/{package}-for-{image}"));
    if whole.exists() {
        return whole.canonicalize().unwrap();
    }
    let at = target.join(format!("debian/{package}-for-{image}.{}", std::process::id()));
    let state = at.join("state");
    for dir in ["state/lists/partial", "partial"] {
        std::fs::create_dir_all(at.join(dir)).unwrap();
    }
    // What the image has is not fetched.
    ok(Command::new("tar")
        .arg("--zstd")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(&state)
        .arg("./var/lib/dpkg/status"));
    let apt = || {
        let mut command = Command::new("apt-get");
        command
            .args(["-q", "-y", "-o", "APT::Sandbox::User=root"])
            .args(["-o", &format!("Dir::State::lists={}", state.join("lists").display())])
            .args(["-o", &format!("Dir::State::status={}", state.join("var/lib/dpkg/status").display())])
            .args(["-o", &format!("Dir::Cache={}", state.display())])
            .args(["-o", &format!("Dir::Cache::archives={}", at.display())]);
        command
    };
    ok(apt().arg("update"));
    ok(apt().args(["install", "--download-only", "--no-install-recommends", package]));
    let mut index = String::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&at).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "deb"));
    files.sort();
    for file in files {
        // A colon of an epoch is written in a way that an address is not.
        let plain = at.join(file.file_name().unwrap().to_string_lossy().replace("%3a", "."));
        std::fs::rename(&file, &plain).unwrap();
        let sum = ok(Command::new("sha256sum").arg(&plain));
        let bytes = plain.metadata().unwrap().len();
        let name = plain.file_name().unwrap().to_string_lossy().into_owned();
        let control = ok(Command::new("dpkg-deb").arg("-f").arg(&plain));
        let sum = sum.split(' ').next().unwrap();
        write!(index, "{}\nFilename: ./{name}\nSize: {bytes}\nSHA256: {sum}\n\n", control.trim_end())
            .unwrap();
    }
    std::fs::write(at.join("Packages"), index).unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    if std::fs::rename(&at, &whole).is_err() {
        // Another test was as quick.
        std::fs::remove_dir_all(&at).unwrap();
    }
    whole.canonicalize().unwrap()
}

/// The image's archive with this as its one source of packages.
pub fn installs_from(archive: &Path, source: &str, to: &Path) {
    let out = std::fs::File::create(to).unwrap();
    assert!(Command::new("zstd").args(["-q", "-dc"]).arg(archive).stdout(out).status().unwrap().success());
    let tree = tempfile::tempdir().unwrap();
    let list = "etc/apt/sources.list.d/0000sources.list";
    std::fs::create_dir_all(tree.path().join("etc/apt/sources.list.d")).unwrap();
    std::fs::write(tree.path().join(list), format!("{source}\n")).unwrap();
    ok(Command::new("tar").arg("-C").arg(tree.path()).arg("-rf").arg(to).args([
        "--owner=0",
        "--group=0",
        &format!("./{list}"),
    ]));
}
