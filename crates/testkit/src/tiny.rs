//! A root filesystem small enough to make in every test run: Debian's static busybox, the users, and nothing else.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// Where Debian's `busybox-static` puts it.
const BUSYBOX: &str = "/bin/busybox";

/// Writes an image archive (plain tar) that every runtime can import: `/bin/sh`, busybox's applets, `root` and
/// `agent` (uid 1000).
pub fn archive(to: &Path) -> std::io::Result<()> {
    let tree = tempfile::tempdir()?;
    let root = tree.path();
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755))?;
    for dir in ["usr/bin", "etc", "proc", "sys", "dev", "run", "root", "tmp", "home/agent", "var/lib"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
    std::fs::copy(BUSYBOX, root.join("usr/bin/busybox"))?;
    for applet in String::from_utf8_lossy(&Command::new(BUSYBOX).arg("--list").output()?.stdout).lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("usr/bin").join(applet))?;
        }
    }
    for link in ["bin", "sbin"] {
        symlink("usr/bin", root.join(link))?;
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000:agent:/home/agent:/bin/sh\n",
    )?;
    std::fs::write(root.join("etc/group"), "root:x:0:\nagent:x:1000:\n")?;
    let tar = |args: &[&str]| -> std::io::Result<()> {
        let status = Command::new("tar").arg("-C").arg(root).args(args).status()?;
        if status.success() { Ok(()) } else { Err(std::io::Error::other(format!("tar {args:?}: {status}"))) }
    };
    let out = to.display().to_string();
    tar(&["-cf", &out, "--owner=0", "--group=0", "--numeric-owner", "--exclude=./home/agent", "."])?;
    tar(&["-rf", &out, "--owner=1000", "--group=1000", "--numeric-owner", "./home/agent"])
}
