//! A jail's root filesystem, laid out from inside its mount namespace.
//!
//! The volume's content is the session's own and may have been rearranged by whoever was root in it: no path of it
//! is used before it was opened without following a symbolic link. Until pivot_root the working directory is the
//! place everything hangs on; no path of the machine is walked.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags as M, MountPropagationFlags, MoveMountFlags, UnmountFlags};

use crate::step::{At, Step};

/// Where a jail sees its host's program.
pub(super) const HOST: &CStr = c"/run/wharf/wharf-host";
/// Chromium keeps its frames there.
const SHM: &CStr = c"mode=1777,size=512m";
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What the OCI runtime specification's usual configuration hides.
const MASKED: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/kmsg",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// From the jailer's mount points to a root of its own. The working directory on entry holds `lower`, `upper` and
/// `root`; on leaving it is the new root. `agent` is who the session's host will be when that is not root.
pub(super) fn lay_out([lower, upper, host, gateway]: &[OwnedFd; 4], agent: Option<u32>) -> Result<(), Step> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at("make mounts private")?;
    attach(lower, "lower").at("attach the image")?;
    attach(upper, "upper").at("attach the volume")?;
    let layers = c"lowerdir=lower,upperdir=upper/upper,workdir=upper/work,userxattr";
    rustix::mount::mount("overlay", "root", "overlay", M::NODEV, layers).at("mount the root")?;
    rustix::process::chdir("root").at("enter the root")?;

    for directory in ["proc", "sys", "dev", "run", "etc"] {
        real_directory(directory)?;
    }
    let plain = M::NOSUID | M::NODEV | M::NOEXEC;
    mount("proc", "proc", plain, None)?;
    mount("sysfs", "sys", plain | M::RDONLY, None)?;
    mount("tmpfs", "dev", M::NOSUID | M::NOEXEC, Some(c"mode=755,size=64k"))?;
    devices()?;
    real_directory("run/wharf")?;
    mount("tmpfs", "run/wharf", M::NOSUID | M::NODEV, Some(c"mode=755,size=64k"))?;
    if let Some(agent) = agent {
        // Its host puts the desktop's socket there. What is mounted below stays: a mount point is neither moved nor removed.
        let (uid, gid) = (rustix::fs::Uid::from_raw(agent), rustix::fs::Gid::from_raw(agent));
        rustix::fs::chown("run/wharf", Some(uid), Some(gid)).at("give /run/wharf to the agent")?;
    }
    empty_file("run/wharf/wharf-host")?;
    attach(host, "run/wharf/wharf-host").at("attach wharf-host")?;
    rustix::fs::mkdir("run/wharf/gateway", Mode::from_raw_mode(0o711)).at("make /run/wharf/gateway")?;
    attach(gateway, "run/wharf/gateway").at("attach the gateway's directory")?;

    rustix::process::pivot_root(".", ".").at("pivot_root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).at("leave the machine's root")?;
    rustix::process::chdir("/").at("enter the root")
}

fn attach(tree: &OwnedFd, at: &str) -> rustix::io::Result<()> {
    rustix::mount::move_mount(tree.as_fd(), "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn mount(kind: &str, at: &str, flags: M, data: Option<&CStr>) -> Result<(), Step> {
    rustix::mount::mount(kind, at, kind, flags, data).at_with(|| format!("mount {kind} on /{at}"))
}

/// Makes sure of a directory below the root that no symbolic link leads to.
fn real_directory(path: &str) -> Result<(), Step> {
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve)
    };
    match open() {
        Ok(_) => Ok(()),
        Err(Errno::NOENT) => {
            rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)).at_with(|| format!("make /{path}"))?;
            open().map(drop).at_with(|| format!("open /{path}"))
        }
        Err(Errno::LOOP | Errno::NOTDIR) => {
            Err(Step::refused("check the root", format!("/{path} of the volume is not a directory")))
        }
        Err(e) => Err(Step::failed(format!("open /{path}"), e)),
    }
}

fn empty_file(path: &str) -> Result<(), Step> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map(drop).at_with(|| format!("make /{path}"))
}

fn devices() -> Result<(), Step> {
    for device in DEVICES {
        let here = format!("dev/{device}");
        empty_file(&here)?;
        rustix::mount::mount_bind(format!("/dev/{device}"), &here).at_with(|| format!("bind /{here}"))?;
    }
    for directory in ["dev/pts", "dev/shm", "dev/mqueue"] {
        rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755)).at_with(|| format!("make /{directory}"))?;
    }
    let quiet = M::NOSUID | M::NOEXEC;
    mount("devpts", "dev/pts", quiet, Some(c"newinstance,ptmxmode=0666,mode=0620,gid=5"))?;
    mount("tmpfs", "dev/shm", quiet | M::NODEV, Some(SHM))?;
    mount("mqueue", "dev/mqueue", quiet | M::NODEV, None)?;
    let links = [
        ("pts/ptmx", "dev/ptmx"),
        ("/proc/self/fd", "dev/fd"),
        ("/proc/self/fd/0", "dev/stdin"),
        ("/proc/self/fd/1", "dev/stdout"),
        ("/proc/self/fd/2", "dev/stderr"),
    ];
    for (to, link) in links {
        rustix::fs::symlink(to, link).at_with(|| format!("link /{link}"))?;
    }
    Ok(())
}

/// Hides and protects what of /proc and /sys tells or does too much. After `lay_out`.
pub(super) fn hide() -> Result<(), Step> {
    for path in MASKED {
        let step = || format!("mask {path}");
        match rustix::fs::stat(path) {
            Err(Errno::NOENT) => {}
            Err(e) => return Err(Step::failed(step(), e)),
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {
                let flags = M::RDONLY | M::NOSUID | M::NODEV | M::NOEXEC;
                rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(c"size=4k,nr_inodes=2"))
                    .at_with(step)?;
            }
            Ok(_) => rustix::mount::mount_bind("/dev/null", path).at_with(step)?,
        }
    }
    for path in READ_ONLY {
        let step = || format!("protect {path}");
        match rustix::mount::mount_bind(path, path) {
            Err(Errno::NOENT) => continue,
            other => other.at_with(step)?,
        }
        let flags = M::BIND | M::RDONLY | M::NOSUID | M::NODEV | M::NOEXEC;
        rustix::mount::mount_remount(path, flags, c"").at_with(step)?;
    }
    Ok(())
}
