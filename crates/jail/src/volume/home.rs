//! Makes the directory the pool lives in reachable: finds or makes the file system, mounts it, turns quotas on.
//!
//! The mount is made in a mount namespace of the calling thread's own, so no other program sees session files and
//! nothing is left mounted when the process dies. A file system that is not ours is never reconfigured: an existing
//! btrfs is used directly only where simple quotas are already on (turning them on marks it unreadable to older
//! kernels), else the pool is one sparse file on it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::{Driver, DriverChoice, PoolSettings, ioctl, loopback};
use crate::step::{At, Step};

const BTRFS_MAGIC: i64 = 0x9123_683E;
/// btrfs refuses to be smaller than about 110 MiB; this leaves it room to breathe.
const SMALLEST_MIB: u64 = 256;
const MIB: u64 = 1 << 20;
/// How long a starting jailer waits for the one before it to be gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Says that a pool's directories are of the directory driver, so that a later btrfs does not hide them.
const MARK: &str = ".directory";

/// Where everything of the pool is, opened.
pub(super) struct Home {
    pub driver: Driver,
    /// The file system holds nothing but the pool.
    pub own: bool,
    pub root: OwnedFd,
    /// The data directory on its own file system: what must not fill up below a sparse pool.
    pub below: OwnedFd,
}

pub(super) fn make_data_dir(settings: &PoolSettings) -> Result<(), Step> {
    let data = &settings.data_dir;
    if !data.is_absolute() {
        return Err(Step::refused("open the pool", format!("{} is not an absolute path", data.display())));
    }
    fs::create_dir_all(data).at_with(|| format!("create {}", data.display()))?;
    fs::set_permissions(data, fs::Permissions::from_mode(0o700))
        .at_with(|| format!("chmod {}", data.display()))?;
    let pool = data.join("pool");
    fs::create_dir_all(&pool).at_with(|| format!("create {}", pool.display()))
}

/// Two jailers on one pool would each believe to own the volumes; the second waits briefly for the first to end.
pub(super) fn lock(settings: &PoolSettings) -> Result<File, Step> {
    let path = settings.data_dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .at_with(|| format!("open {}", path.display()))?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Err(Errno::WOULDBLOCK) => {
                return Err(Step::failed(
                    "lock the pool",
                    format!("another process has {} open", path.display()),
                ));
            }
            Err(error) => return Err(Step::failed("lock the pool", error)),
        }
    }
}

pub(super) fn open(settings: &PoolSettings) -> Result<Home, Step> {
    let data = &settings.data_dir;
    let pool = data.join("pool");
    let file = data.join("pool.btrfs");
    let driver = choose(settings, &file)?;
    ioctl::own_mount_namespace().at("enter a mount namespace of its own")?;
    // What is mounted here stays here; what the machine mounts later still arrives.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .at("make mounts private")?;
    // Where this process had the pool open before and lost it, its mount is still in the way.
    while rustix::mount::unmount(&pool, UnmountFlags::DETACH).is_ok() {}
    let below = open_dir(data)?;
    // Set-user-id files of sessions are real ones to whoever reaches them without the id mapping.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let own = driver == Driver::Btrfs && !direct(data);
    if own {
        mount_file(&file, &pool, settings, flags)?;
    } else {
        bind(&pool, flags)?;
    }
    let root = open_dir(&pool)?;
    if driver == Driver::Directory {
        File::create(pool.join(MARK)).at("mark the pool")?;
    }
    if driver == Driver::Btrfs && quota_mode(&root)?.as_deref() != Some("squota") {
        ioctl::enable_simple_quotas(&root).map_err(|error| {
            Step::refused("turn on simple quotas", format!("{error}; disk limits need Linux 6.7 or newer"))
        })?;
    }
    Ok(Home { driver, own, root, below })
}

/// Which driver this machine gets; an existing pool decides before anything else, since it holds data.
fn choose(settings: &PoolSettings, file: &Path) -> Result<Driver, Step> {
    let possible = || -> Result<(), String> {
        let known = fs::read_to_string("/proc/filesystems").map_err(|error| error.to_string())?;
        if !known.lines().any(|line| line.trim() == "btrfs") {
            return Err("the kernel has no btrfs".to_owned());
        }
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        if !has_simple_quotas(&release) {
            return Err(format!("Linux {release} has no simple quotas on btrfs; they came with 6.7"));
        }
        if !file.exists() && !direct(&settings.data_dir) && mkfs().is_none() {
            return Err("mkfs.btrfs is not installed (package btrfs-progs)".to_owned());
        }
        Ok(())
    };
    match settings.driver {
        DriverChoice::Directory if file.exists() => Err(Step::refused(
            "choose the volume driver",
            format!("{} holds volumes of the btrfs driver; remove it first", file.display()),
        )),
        DriverChoice::Directory => Ok(Driver::Directory),
        DriverChoice::Btrfs if settings.data_dir.join("pool").join(MARK).exists() => Err(Step::refused(
            "choose the volume driver",
            "the pool holds volumes of the directory driver; remove it first",
        )),
        DriverChoice::Btrfs => {
            possible().map(|()| Driver::Btrfs).map_err(|why| Step::refused("choose the volume driver", why))
        }
        DriverChoice::Auto => match possible() {
            Ok(()) if settings.data_dir.join("pool").join(MARK).exists() => Ok(Driver::Directory),
            Ok(()) => Ok(Driver::Btrfs),
            Err(why) if file.exists() => Err(Step::failed("choose the volume driver", why)),
            Err(why) => {
                tracing::warn!(why, "volumes are plain directories: forks copy and disk limits are refused");
                Ok(Driver::Directory)
            }
        },
    }
}

/// Whether `data` is on a btrfs that already counts by simple quotas.
fn direct(data: &Path) -> bool {
    rustix::fs::statfs(data).is_ok_and(|stat| stat.f_type == BTRFS_MAGIC)
        && !data.join("pool.btrfs").exists()
        && open_dir(data).is_ok_and(|dir| matches!(quota_mode(&dir), Ok(Some(mode)) if mode == "squota"))
}

fn quota_mode(root: &OwnedFd) -> Result<Option<String>, Step> {
    let uuid = ioctl::filesystem_uuid(root).at("read the pool's UUID")?;
    match fs::read_to_string(format!("/sys/fs/btrfs/{uuid}/qgroups/mode")) {
        Ok(mode) => Ok(Some(mode.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Step::failed("read the quota mode", error)),
    }
}

/// By the release (`6.1.0-18-amd64`); one that cannot be read is taken at its word when quotas are turned on.
pub(super) fn has_simple_quotas(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) >= (6, 7),
        _ => true,
    }
}

fn bind(pool: &Path, flags: MountFlags) -> Result<(), Step> {
    rustix::mount::mount_bind(pool, pool).at("bind the pool")?;
    rustix::mount::mount_remount(pool, MountFlags::BIND | flags, c"").at("restrict the pool's mount")
}

fn mount_file(file: &Path, pool: &Path, settings: &PoolSettings, flags: MountFlags) -> Result<(), Step> {
    let wanted = wanted_bytes(settings)?;
    if !file.exists() {
        make_file(file, wanted)?;
    }
    let backing = OpenOptions::new().read(true).write(true).open(file).at("open the pool file")?;
    grow_file(&backing, wanted)?;
    let attached = loopback::attach(&backing)?;
    ioctl::grow_loop(&attached.device).at("grow the pool's loop device")?;
    // `discard=async` gives freed space back to the file system below the sparse file.
    rustix::mount::mount(&attached.path, pool, c"btrfs", flags, Some(c"discard=async"))
        .at_with(|| format!("mount {} on {}", attached.path.display(), pool.display()))?;
    // Always, since a crash may have come between growing the file and this; it changes nothing where nothing grew.
    ioctl::grow_filesystem(open_dir(pool)?.as_fd()).at("grow the pool")
}

/// How large the sparse file shall be: by the settings, else four fifths of what is free.
fn wanted_bytes(settings: &PoolSettings) -> Result<Option<u64>, Step> {
    match settings.loop_size_mib {
        Some(mib) if mib < SMALLEST_MIB => {
            Err(Step::refused("size the pool", format!("{mib} MiB is less than {SMALLEST_MIB} MiB")))
        }
        Some(mib) => Ok(Some(mib * MIB)),
        None => Ok(None),
    }
}

/// Makes and formats the file under another name first, so that a file of the right name is always a file system.
fn make_file(file: &Path, wanted: Option<u64>) -> Result<(), Step> {
    let parent = file.parent().unwrap_or(Path::new("/"));
    let bytes = match wanted {
        Some(bytes) => bytes,
        None => {
            let stat = rustix::fs::statvfs(parent).at("ask for free space")?;
            stat.f_bavail * stat.f_frsize / 5 * 4 / MIB * MIB
        }
    };
    if bytes < SMALLEST_MIB * MIB {
        return Err(Step::refused(
            "size the pool",
            format!("{} has too little free space", parent.display()),
        ));
    }
    let program = mkfs().ok_or_else(|| Step::refused("format the pool", "mkfs.btrfs is not installed"))?;
    let half_made = file.with_extension("btrfs.tmp");
    match fs::remove_file(&half_made) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Step::failed("remove a half-made pool file", error));
        }
        _ => {}
    }
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&half_made)
        .at("create the pool file")?;
    // Only where the file system below copies on write; elsewhere it answers that it does not know the flag.
    ioctl::no_copy_on_write(&made).ok();
    made.set_len(bytes).at("size the pool file")?;
    let output = Command::new(program)
        .args(["--quiet", "--nodiscard", "--metadata", "single", "--data", "single", "--label", "wharf"])
        .arg(&half_made)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .at("run mkfs.btrfs")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Step::failed("format the pool", format!("{}: {}", output.status, said.trim())));
    }
    made.sync_all().at("sync the pool file")?;
    fs::rename(&half_made, file).at("name the pool file")?;
    File::open(parent).and_then(|dir| dir.sync_all()).at("sync the data directory")
}

/// Larger settings grow a pool; smaller ones never shrink it, since sessions may have filled it.
fn grow_file(file: &File, wanted: Option<u64>) -> Result<(), Step> {
    let now = file.metadata().at("stat the pool file")?.len();
    match wanted {
        Some(bytes) if bytes > now => file.set_len(bytes).at("grow the pool file"),
        Some(bytes) if bytes < now => {
            tracing::warn!(
                asked_mib = bytes / MIB,
                has_mib = now / MIB,
                "the pool file is larger than the settings ask for and is not shrunk"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

fn mkfs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = OsString::from("/usr/local/sbin:/usr/sbin:/sbin");
    std::env::split_paths(&path)
        .chain(std::env::split_paths(&standard))
        .map(|dir| dir.join("mkfs.btrfs"))
        .find(|program| program.is_file())
}

pub(super) fn open_dir(path: impl AsRef<OsStr>) -> Result<OwnedFd, Step> {
    let path = Path::new(path.as_ref());
    rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .at_with(|| format!("open {}", path.display()))
}

/// Unmounts the pool in this thread's namespace; the loop device follows by itself.
pub(super) fn close(pool: &Path) {
    rustix::mount::unmount(pool, UnmountFlags::DETACH).ok();
}
