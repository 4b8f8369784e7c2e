//! The stories' image: busybox, the program that tries to get out, and what the tests' own process 1 links to.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

pub const BUSYBOX: &str = "/bin/busybox";

/// Makes it in `dir` after some rearranging by a script in its root. `init` and `breakout` are built programs.
pub fn tiny_image(dir: &Path, init: &Path, breakout: &Path, script: &str) -> std::fs::File {
    let root = dir.join("tiny");
    for (path, mode) in [
        ("bin", 0o755),
        ("usr", 0o755),
        ("etc", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
        ("dev", 0o755),
        ("run", 0o755),
        ("root", 0o700),
        ("home/agent", 0o755),
        ("tmp", 0o1777),
    ] {
        std::fs::create_dir_all(root.join(path)).unwrap();
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::chown(root.join("home/agent"), Some(1000), Some(1000)).unwrap();
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nagent:x:1000:1000::/home/agent:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nagent:x:1000:\n").unwrap();
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    let applets = Command::new(BUSYBOX).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let linked = Command::new("ldd").arg(init).output().unwrap();
    for library in String::from_utf8(linked.stdout).unwrap().split_whitespace().filter(|w| w.starts_with('/'))
    {
        let inside = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
        std::fs::copy(library, inside).unwrap();
    }
    std::fs::copy(breakout, root.join("bin/breakout")).unwrap();
    assert!(Command::new("sh").current_dir(&root).args(["-c", script]).status().unwrap().success());
    let archive = dir.join("tiny.tar");
    let made =
        Command::new("tar").arg("-C").arg(&root).args(["-cf"]).arg(&archive).arg(".").status().unwrap();
    assert!(made.success());
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::File::open(archive).unwrap()
}
