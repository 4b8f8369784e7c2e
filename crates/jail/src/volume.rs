//! Volumes: what a session writes beyond its image, with a limit that bites, snapshots and forks.
//!
//! A volume is one btrfs subvolume holding `upper` and `work` of the session's overlay. Everything is a kernel call on
//! directories this process holds open; there is no database beside it, because every volume and snapshot says itself
//! what it is. Every call may be repeated, and may have been cut short by a crash at any point before.
//!
//! What survives a power cut: a snapshot, from the moment it is answered. A volume's files, from the last
//! [`Pool::sync`] (closing a session calls it) or the file system's own commit every 30 s, like files on any machine.
//! A volume not yet on the disk is remade empty by the next `prepare`; the row that names it is the truth.
//!
//! What the limit counts: all a volume's own writes, plus what a fork took over from its snapshot. What a snapshot
//! still holds counts to the volume that wrote it, even after the volume deleted it, so a limit is never exceeded.

mod directory;
mod home;
mod idmap;
mod ioctl;
mod loopback;
mod meta;
mod settings;
mod standing;
mod tree;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use wharf_domain::image::ImageRef;
use wharf_domain::{SnapshotId, VolumeId};
use wharf_ports::runtime::{Source, VolumeSpec};

pub(crate) use self::directory::remove as remove_tree;
use self::meta::{Meta, Taken};
pub use self::settings::{Driver, DriverChoice, PoolSettings};
use self::tree::Trees;
use crate::image;
use crate::step::{At, Step};

const MIB: u64 = 1 << 20;
/// Below this much free space in the pool or under it, nothing new begins: a full disk would end running sessions.
const POOL_RESERVE: u64 = 64 * MIB;
const DISK_RESERVE: u64 = 1024 * MIB;
/// What a volume must at least be able to write, so that its overlay can be mounted.
const SMALLEST_ROOM: u64 = 4 * MIB;
/// What mounting the overlay of a full volume, or describing it, may take.
const ROOM: u64 = 4 * MIB;

/// What a jail mounts its root from; both trees are detached and id-mapped.
#[derive(Debug)]
pub struct Mounts {
    /// The image's tree, read-only.
    pub lower: OwnedFd,
    /// The volume, holding the directories `upper` and `work`.
    pub upper: OwnedFd,
    /// The volume was lent room: [`Pool::settle`] is to follow.
    pub unsettled: bool,
}

/// How full everything is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub pool_total: u64,
    pub pool_free: u64,
    /// Free on the file system of the data directory.
    pub disk_free: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    Made,
    Existed,
}

/// All volumes, snapshots and images of a machine. One process at a time has it open.
pub struct Pool {
    settings: PoolSettings,
    trees: Trees,
    root: OwnedFd,
    below: OwnedFd,
    volumes: OwnedFd,
    snapshots: OwnedFd,
    images: image::Store,
    _lock: File,
}

impl Pool {
    /// Opens the pool, making it first where there is none, and removes what a crash left half-made.
    ///
    /// Moves the calling thread to a mount namespace of its own, in which alone the pool is mounted.
    pub fn open(settings: &PoolSettings) -> Result<Self, Step> {
        home::make_data_dir(settings)?;
        let lock = home::lock(settings)?;
        let home = home::open(settings)?;
        let volumes = directory_in(&home.root, "volumes")?;
        let snapshots = directory_in(&home.root, "snapshots")?;
        let pool = Self {
            trees: Trees::new(&home)?,
            images: image::Store::open(&settings.data_dir)?,
            settings: settings.clone(),
            root: home.root,
            below: home.below,
            volumes,
            snapshots,
            _lock: lock,
        };
        pool.sweep()?;
        Ok(pool)
    }

    pub fn driver(&self) -> Driver {
        self.trees.driver()
    }

    /// Whether a disk limit is one; false only for the directory driver.
    pub fn limits_disk(&self) -> bool {
        self.driver() == Driver::Btrfs
    }

    /// Makes the volume unless it is there; the same specification twice is one volume.
    pub fn prepare(&self, spec: &VolumeSpec) -> Result<Prepared, Step> {
        let name = spec.volume.to_string();
        if let Some((dir, found)) = look(&self.volumes, &name)? {
            return self.reuse(spec, &dir, &found).map(|()| Prepared::Existed);
        }
        self.admit(spec)?;
        let limit = u64::from(spec.disk_mib) * MIB;
        let half_made = format!(".tmp-{name}");
        self.trees.destroy(&self.volumes, &half_made)?;
        let meta = Meta {
            image: spec.image.clone(),
            disk_mib: spec.disk_mib,
            inherited_bytes: 0,
            from: None,
            taken: None,
        };
        let (dir, meta) = match spec.source {
            Source::Empty => {
                self.trees.create(&self.volumes, &half_made)?;
                let dir = open_in(&self.volumes, &half_made)?;
                for (child, mode) in [("upper", 0o755), ("work", 0o700)] {
                    rustix::fs::mkdirat(&dir, child, Mode::from_raw_mode(0o700))
                        .at("make the volume's directories")?;
                    rustix::fs::chmodat(&dir, child, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())
                        .at("chmod the volume's directories")?;
                }
                (dir, meta)
            }
            Source::Existing => return Err(Step::missing(format!("volume {name}"))),
            Source::Snapshot(snapshot) => {
                let (source, inherited_bytes) = self.fork_source(spec, snapshot, limit)?;
                self.trees.copy(&source, &self.volumes, &half_made)?;
                let dir = open_in(&self.volumes, &half_made)?;
                (dir, Meta { inherited_bytes, from: Some(snapshot), ..meta })
            }
        };
        self.trees.limit(&dir, own_limit(&meta))?;
        meta::write(&dir, &meta).at("describe the volume")?;
        rustix::fs::renameat_with(&self.volumes, &half_made, &self.volumes, &name, RenameFlags::NOREPLACE)
            .at("name the volume")?;
        Ok(Prepared::Made)
    }

    /// An existing volume answers for the same specification only; its limit follows the specification.
    fn reuse(&self, spec: &VolumeSpec, dir: &OwnedFd, found: &Meta) -> Result<(), Step> {
        let asked = match spec.source {
            Source::Empty | Source::Existing => None,
            Source::Snapshot(snapshot) => Some(snapshot),
        };
        if found.image != spec.image || (asked.is_some() && found.from != asked) {
            return Err(Step::refused(
                "prepare the volume",
                format!(
                    "volume {} exists with image {}@{}{}",
                    spec.volume,
                    found.image.name,
                    found.image.digest,
                    found.from.map(|id| format!(" from snapshot {id}")).unwrap_or_default()
                ),
            ));
        }
        if found.disk_mib == spec.disk_mib {
            Ok(())
        } else {
            self.change_limit(dir, found.clone(), spec.disk_mib)
        }
    }

    /// Refuses a volume that could not work.
    fn admit(&self, spec: &VolumeSpec) -> Result<(), Step> {
        let refuse = |why: String| Err(Step::refused("prepare the volume", why));
        if !self.limits_disk() && !self.settings.waive_disk_limit {
            return refuse(format!(
                "the disk limit of {} MiB cannot be applied: volumes are plain directories on this machine",
                spec.disk_mib
            ));
        }
        if !self.images.has(&spec.image) {
            return refuse(format!(
                "there is no image {}@{} on this machine",
                spec.image.name, spec.image.digest
            ));
        }
        let space = self.space()?;
        if space.pool_free < POOL_RESERVE || space.disk_free < DISK_RESERVE {
            return refuse(format!(
                "the disk is nearly full: {} MiB free in the pool, {} MiB under it",
                space.pool_free / MIB,
                space.disk_free / MIB
            ));
        }
        Ok(())
    }

    /// The snapshot a fork begins as, and how much of the fork's limit its content takes.
    fn fork_source(
        &self,
        spec: &VolumeSpec,
        snapshot: SnapshotId,
        limit: u64,
    ) -> Result<(OwnedFd, u64), Step> {
        let Some((dir, meta)) = look(&self.snapshots, &snapshot.to_string())? else {
            return Err(Step::missing(format!("snapshot {snapshot}")));
        };
        if meta.image != spec.image {
            return Err(Step::refused(
                "prepare the volume",
                format!("snapshot {snapshot} stands on image {}@{}", meta.image.name, meta.image.digest),
            ));
        }
        // What was written and deleted on the way here is in the bound too. Counting costs time by the number of
        // files, so it is done only where the bound would take much of the limit away.
        let bound = meta.taken.map_or(0, |taken| taken.bytes);
        let bytes = if bound > limit / 2 { bound.min(tree::content_bytes(&dir)?) } else { bound };
        if self.limits_disk() && bytes + SMALLEST_ROOM > limit {
            return Err(Step::refused(
                "prepare the volume",
                format!(
                    "snapshot {snapshot} holds {} MiB; the limit of {} MiB is too small",
                    bytes.div_ceil(MIB),
                    spec.disk_mib
                ),
            ));
        }
        Ok((dir, bytes))
    }

    /// Gives a volume another id: how a warm computer becomes a session's.
    pub fn rename(&self, from: VolumeId, to: VolumeId) -> Result<(), Step> {
        match rustix::fs::renameat_with(
            &self.volumes,
            from.to_string(),
            &self.volumes,
            to.to_string(),
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) if look(&self.volumes, &to.to_string())?.is_some() => Ok(()),
            Err(Errno::NOENT) => Err(Step::missing(format!("volume {from}"))),
            Err(Errno::EXIST) => {
                Err(Step::in_use("rename the volume", format!("volume {to} exists already")))
            }
            Err(error) => Err(Step::failed("rename the volume", error)),
        }
    }

    /// Changes the limit; refused below what the volume holds.
    pub fn set_quota(&self, volume: VolumeId, disk_mib: u32) -> Result<(), Step> {
        let (dir, meta) = self.volume(volume)?;
        if meta.disk_mib == disk_mib { Ok(()) } else { self.change_limit(&dir, meta, disk_mib) }
    }

    fn change_limit(&self, dir: &OwnedFd, mut meta: Meta, disk_mib: u32) -> Result<(), Step> {
        if !self.limits_disk() && !self.settings.waive_disk_limit {
            return Err(Step::refused("limit the disk", "volumes are plain directories on this machine"));
        }
        let limit = u64::from(disk_mib) * MIB;
        let used = self.trees.used(dir)? + meta.inherited_bytes;
        if self.limits_disk() && used > limit {
            return Err(Step::refused(
                "limit the disk",
                format!("the volume holds {} MiB, more than {disk_mib} MiB", used.div_ceil(MIB)),
            ));
        }
        meta.disk_mib = disk_mib;
        self.with_room(dir, &meta, || meta::write(dir, &meta).at("describe the volume"))
    }

    /// Bytes used and the limit. What is still on its way to the disk is not counted yet.
    pub fn usage(&self, volume: VolumeId) -> Result<(u64, u64), Step> {
        let (dir, meta) = self.volume(volume)?;
        Ok((self.trees.used(&dir)? + meta.inherited_bytes, u64::from(meta.disk_mib) * MIB))
    }

    /// The image a volume stands on.
    pub fn image_of(&self, volume: VolumeId) -> Result<ImageRef, Step> {
        self.volume(volume).map(|(_, meta)| meta.image)
    }

    /// A point-in-time copy, durable when this returns; answers how many bytes it holds. The same id twice is one
    /// snapshot. A running session is to be synced, then frozen around this call.
    pub fn snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<u64, Step> {
        let name = snapshot.to_string();
        if let Some((_, found)) = look(&self.snapshots, &name)? {
            return match found.taken {
                Some(taken) if taken.volume == volume => Ok(taken.bytes),
                _ => {
                    Err(Step::refused("take a snapshot", format!("snapshot {snapshot} is of another volume")))
                }
            };
        }
        let (dir, mut meta) = self.volume(volume)?;
        let mut taken = Taken { volume, bytes: self.trees.used(&dir)? + meta.inherited_bytes };
        // Described before it exists, so that it never exists undescribed.
        meta.taken = Some(taken.clone());
        self.with_room(&dir, &meta, || {
            meta::write(&dir, &meta).at("describe the snapshot")?;
            if self.driver() == Driver::Btrfs {
                return self.trees.copy(&dir, &self.snapshots, &name);
            }
            let half_made = format!(".tmp-{name}");
            self.trees.destroy(&self.snapshots, &half_made)?;
            self.trees.copy(&dir, &self.snapshots, &half_made)?;
            rustix::fs::renameat(&self.snapshots, &half_made, &self.snapshots, &name).at("name the snapshot")
        })?;
        // Only now is everything written counted.
        let made = open_in(&self.snapshots, &name)?;
        taken.bytes = self.trees.used(&dir)? + meta.inherited_bytes;
        meta.taken = Some(taken.clone());
        meta::write(&made, &meta).at("describe the snapshot")?;
        self.trees.seal(&made)?;
        Ok(taken.bytes)
    }

    /// Nothing to delete is success.
    pub fn delete_snapshot(&self, snapshot: SnapshotId) -> Result<(), Step> {
        self.trees.destroy(&self.snapshots, &snapshot.to_string())
    }

    /// Nothing to delete is success. The caller knows whether a jail runs on it; the file system does not.
    pub fn delete_volume(&self, volume: VolumeId) -> Result<(), Step> {
        self.trees.destroy(&self.volumes, &volume.to_string())
    }

    pub fn volumes(&self) -> Result<Vec<VolumeId>, Step> {
        Ok(tree::names(&self.volumes)?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub fn snapshots(&self) -> Result<Vec<SnapshotId>, Step> {
        Ok(tree::names(&self.snapshots)?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The two trees a jail's overlay is made of, mapped to the ids of its user namespace.
    ///
    /// The overlay makes a directory when it is mounted, which a volume at its limit has no room for: such a session
    /// could never come back to delete anything. So a volume with anything in it gets a little more until
    /// [`Self::settle`].
    pub fn mounts(&self, volume: VolumeId, user_namespace: BorrowedFd<'_>) -> Result<Mounts, Step> {
        let (dir, meta) = self.volume(volume)?;
        let rootfs = self.images.rootfs(&meta.image)?;
        let unsettled = self.limits_disk() && !tree::is_empty(&open_in(&dir, "upper")?)?;
        if unsettled {
            self.lend(&dir, &meta)?;
        }
        Ok(Mounts {
            lower: idmap::read_only(&rootfs, user_namespace).at("map the image's tree")?,
            upper: idmap::writable(&dir, user_namespace).at("map the volume's tree")?,
            unsettled,
        })
    }

    /// Raises the limit by what our own small writes take. How full the volume is does not matter and could not be
    /// told: what is still on its way to the disk is held against the limit, but not counted as used.
    fn lend(&self, dir: &OwnedFd, meta: &Meta) -> Result<(), Step> {
        self.trees.limit(dir, own_limit(meta).max(self.trees.used(dir)?) + ROOM)
    }

    /// Does `work`, which writes to the volume itself, even when that is full.
    fn with_room<T>(
        &self,
        dir: &OwnedFd,
        meta: &Meta,
        work: impl FnOnce() -> Result<T, Step>,
    ) -> Result<T, Step> {
        if !self.limits_disk() {
            return work();
        }
        self.lend(dir, meta)?;
        let answer = work();
        self.trees.limit(dir, own_limit(meta))?;
        answer
    }

    /// To be called once the overlay of [`Self::mounts`] is mounted.
    pub fn settle(&self, volume: VolumeId) -> Result<(), Step> {
        let (dir, meta) = self.volume(volume)?;
        self.trees.limit(&dir, own_limit(&meta))
    }

    /// Brings a volume's files to the disk. Takes as long as the disk needs for all that is waiting.
    pub fn sync(&self, volume: VolumeId) -> Result<(), Step> {
        let (dir, _) = self.volume(volume)?;
        rustix::fs::syncfs(dir).at("sync the volume")
    }

    pub fn space(&self) -> Result<Space, Step> {
        let pool = rustix::fs::fstatvfs(&self.root).at("ask for free space in the pool")?;
        let disk = rustix::fs::fstatvfs(&self.below).at("ask for free space under the pool")?;
        Ok(Space {
            pool_total: pool.f_blocks * pool.f_frsize,
            pool_free: pool.f_bavail * pool.f_frsize,
            disk_free: disk.f_bavail * disk.f_frsize,
        })
    }

    /// Removes what a crash left: half-made and half-removed trees, and quota groups of subvolumes that are gone.
    fn sweep(&self) -> Result<(), Step> {
        for parent in [&self.volumes, &self.snapshots] {
            for name in tree::names(parent)? {
                let leftover = name.starts_with(".tmp-") || name.starts_with(".dead-");
                if leftover || look(parent, &name)?.is_none() {
                    tracing::info!(name, "removing a half-made volume or snapshot");
                    self.trees.destroy(parent, &name)?;
                }
            }
        }
        self.trees.forget_gone();
        self.images.sweep()
    }

    fn volume(&self, volume: VolumeId) -> Result<(OwnedFd, Meta), Step> {
        look(&self.volumes, &volume.to_string())?.ok_or_else(|| Step::missing(format!("volume {volume}")))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        home::close(&self.settings.data_dir.join("pool"));
    }
}

/// What a volume may write itself: its limit less what it inherited.
fn own_limit(meta: &Meta) -> u64 {
    (u64::from(meta.disk_mib) * MIB).saturating_sub(meta.inherited_bytes)
}

/// A finished volume or snapshot, opened.
fn look(parent: &OwnedFd, name: &str) -> Result<Option<(OwnedFd, Meta)>, Step> {
    match rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()) {
        Ok(dir) => Ok(meta::read(&dir).at_with(|| format!("read what {name} is"))?.map(|meta| (dir, meta))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Step::failed(format!("open {name}"), error)),
    }
}

const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

fn open_in(parent: impl AsFd, name: &str) -> Result<OwnedFd, Step> {
    rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()).at_with(|| format!("open {name}"))
}

fn directory_in(parent: impl AsFd, name: &str) -> Result<OwnedFd, Step> {
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => open_in(parent, name),
        Err(error) => Err(Step::failed(format!("make {name}"), error)),
    }
}
