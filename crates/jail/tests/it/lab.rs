//! A pool in a directory of its own, an image to stand on, and sandboxes to look from inside.
//!
//! On drop: no loop device and no mount of it is left.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MoveMountFlags, mount, move_mount};
use wharf_domain::image::ImageRef;
use wharf_domain::{SnapshotId, VolumeId};
use wharf_jail::step::Step;
use wharf_jail::volume::{DriverChoice, Mounts, Pool, PoolSettings};
use wharf_ports::runtime::{Source, VolumeSpec};

static NEXT: AtomicU32 = AtomicU32::new(0);
/// Where root inside a test sandbox is outside.
pub const OUTSIDE_ROOT: u32 = 300_000;

pub struct Lab {
    pub dir: PathBuf,
    pub settings: PoolSettings,
    pool: Option<Pool>,
}

/// A lab, or returns from the test where there can be none.
#[macro_export]
macro_rules! lab {
    ($make:ident $(, $argument:expr)*) => {{
        if $crate::harness::missing().is_some() {
            return;
        }
        $crate::lab::Lab::$make($($argument),*)
    }};
}

impl Lab {
    pub fn btrfs() -> Self {
        Self::with(DriverChoice::Btrfs, false)
    }

    pub fn directory() -> Self {
        Self::with(DriverChoice::Directory, true)
    }

    pub fn with(driver: DriverChoice, waive_disk_limit: bool) -> Self {
        let dir = PathBuf::from(format!(
            "/tmp/vol-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        for name in ["lower", "volume", "root"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let settings =
            PoolSettings { data_dir: dir.join("data"), loop_size_mib: Some(1024), driver, waive_disk_limit };
        let pool = Pool::open(&settings).unwrap();
        Self { dir, settings, pool: Some(pool) }
    }

    pub fn pool(&self) -> &Pool {
        self.pool.as_ref().unwrap()
    }

    /// Runs `work` in a process that has the pool open and then kills it; the next process opens the pool again.
    pub fn killed_while(&mut self, work: impl FnOnce(&Self)) {
        self.close();
        // SAFETY: as in `sandbox`.
        match unsafe { libc::fork() } {
            0 => {
                self.reopen();
                work(self);
                // SAFETY: ends this process as nothing can prepare for.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
            child => assert_eq!(wait(child), libc::SIGKILL, "it did not get as far as being killed"),
        }
        self.reopen();
    }

    pub fn reopen(&mut self) {
        drop(self.pool.take());
        self.pool = Some(Pool::open(&self.settings).unwrap());
    }

    pub fn close(&mut self) {
        drop(self.pool.take());
    }

    /// A path in the pool, as only this thread sees it.
    pub fn inside(&self, path: &str) -> PathBuf {
        self.settings.data_dir.join("pool").join(path)
    }

    /// The smallest image there can be.
    pub fn image(&self) -> ImageRef {
        self.image_of("plain", b"from the image\n")
    }

    pub fn image_of(&self, name: &str, motd: &[u8]) -> ImageRef {
        let archive = self.file(&root_tar(motd));
        self.pool().import_image(&name.parse().unwrap(), archive).unwrap().image
    }

    /// `bytes` in a file, opened for reading.
    pub fn file(&self, bytes: &[u8]) -> File {
        let path = self.dir.join(format!("file-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, bytes).unwrap();
        File::open(path).unwrap()
    }

    pub fn volume(&self, disk_mib: u32) -> VolumeId {
        let volume = VolumeId::new();
        self.pool().prepare(&spec(volume, &self.image(), disk_mib)).unwrap();
        volume
    }

    pub fn fork(&self, snapshot: SnapshotId, disk_mib: u32) -> Result<VolumeId, Step> {
        let volume = VolumeId::new();
        let source = Source::Snapshot(snapshot);
        self.pool().prepare(&VolumeSpec { source, ..spec(volume, &self.image(), disk_mib) })?;
        Ok(volume)
    }

    /// What a session sees as `/path`, written as the pool's owner.
    pub fn upper(&self, volume: VolumeId, path: &str) -> PathBuf {
        self.inside(&format!("volumes/{volume}/upper/{path}"))
    }

    /// Runs `work` as root of a user namespace of its own, in the volume's overlay as `/tmp/…/root`.
    pub fn sandbox(
        &self,
        volume: VolumeId,
        work: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<(), String> {
        let namespace = UserNamespace::new();
        let mounts = self.pool().mounts(volume, namespace.fd.as_fd()).unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        // SAFETY: the child runs ordinary code, but only this thread holds locks here (each test is a process).
        match unsafe { libc::fork() } {
            0 => {
                drop(read);
                let mut write = write;
                let entered = self.enter(&namespace, &mounts);
                write.write_all(b".").ok();
                let answer = entered.and_then(|root| work(&root));
                if let Err(error) = &answer {
                    write.write_all(error.as_bytes()).ok();
                }
                // SAFETY: ends the child without running the test harness's exit handlers.
                unsafe { libc::_exit(i32::from(answer.is_err())) }
            }
            child => {
                drop(write);
                let mut mounted = [0];
                read.read_exact(&mut mounted).ok();
                self.pool().settle(volume).unwrap();
                let mut said = String::new();
                read.read_to_string(&mut said).unwrap();
                if wait(child) == 0 { Ok(()) } else { Err(said) }
            }
        }
    }

    fn enter(&self, namespace: &UserNamespace, mounts: &Mounts) -> Result<PathBuf, String> {
        let said = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
        // SAFETY: plain system calls in a process of one thread.
        unsafe {
            if libc::setns(namespace.fd.as_raw_fd(), libc::CLONE_NEWUSER) < 0
                || libc::setresgid(0, 0, 0) < 0
                || libc::setresuid(0, 0, 0) < 0
                || libc::unshare(libc::CLONE_NEWNS) < 0
            {
                return Err(format!("enter the namespace: {}", std::io::Error::last_os_error()));
            }
        }
        let root = self.dir.join("root");
        for (tree, name) in [(&mounts.lower, "lower"), (&mounts.upper, "volume")] {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(tree, c"", rustix::fs::CWD, self.dir.join(name), flags).map_err(said("move_mount"))?;
        }
        let (lower, volume) = (self.dir.join("lower"), self.dir.join("volume"));
        let options = format!(
            "userxattr,lowerdir={},upperdir={}/upper,workdir={}/work",
            lower.display(),
            volume.display(),
            volume.display()
        );
        let options = std::ffi::CString::new(options).unwrap();
        mount("overlay", &root, "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .map_err(said("mount overlay"))?;
        Ok(root)
    }

    /// Loop devices attached to anything of this lab.
    pub fn loops(&self) -> Vec<String> {
        loops_of(&self.dir)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.close();
        if std::thread::panicking() {
            return;
        }
        let until = Instant::now() + Duration::from_secs(5);
        while !self.loops().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.loops(), Vec::<String>::new(), "a loop device is left");
        for process in ["self", "1"] {
            let mounts = fs::read_to_string(format!("/proc/{process}/mounts")).unwrap();
            let left: Vec<&str> =
                mounts.lines().filter(|line| line.contains(&*self.dir.to_string_lossy())).collect();
            assert!(left.is_empty(), "mounts are left in {process}: {left:?}");
        }
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn loops_of(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if file.starts_with(&*dir.to_string_lossy()) {
            found.push(format!("{} {}", entry.file_name().to_string_lossy(), file.trim()));
        }
    }
    found
}

pub fn spec(volume: VolumeId, image: &ImageRef, disk_mib: u32) -> VolumeSpec {
    VolumeSpec { volume, image: image.clone(), disk_mib, source: Source::Empty }
}

/// A user namespace mapping 0 to [`OUTSIDE_ROOT`], held by a descriptor.
pub struct UserNamespace {
    pub fd: OwnedFd,
}

impl UserNamespace {
    pub fn new() -> Self {
        let (mut ready, tell) = std::io::pipe().unwrap();
        let (stay, done) = std::io::pipe().unwrap();
        // SAFETY: the child makes plain system calls only.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop((ready, done));
            // SAFETY: as above.
            unsafe {
                let made = libc::unshare(libc::CLONE_NEWUSER) == 0;
                (&tell).write_all(&[u8::from(made)]).ok();
                (&stay).read_exact(&mut [0]).ok();
                libc::_exit(0);
            }
        }
        drop((tell, stay));
        let mut made = [0];
        ready.read_exact(&mut made).unwrap();
        assert_eq!(made, [1], "no user namespaces here");
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{child}/{map}"), format!("0 {OUTSIDE_ROOT} 65536\n")).unwrap();
        }
        let fd = File::open(format!("/proc/{child}/ns/user")).unwrap().into();
        drop(done);
        wait(child);
        Self { fd }
    }
}

fn wait(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

/// A root file system of three files.
pub fn root_tar(motd: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["./", "./etc/", "./usr/", "./usr/bin/"] {
        append(&mut tar, dir, tar::EntryType::Directory, b"", "");
    }
    append(&mut tar, "./etc/motd", tar::EntryType::Regular, motd, "");
    append(&mut tar, "./usr/bin/tool", tar::EntryType::Regular, b"#!/bin/sh\necho tool\n", "");
    append(&mut tar, "./bin", tar::EntryType::Symlink, b"", "usr/bin");
    tar.into_inner().unwrap()
}

/// Adds a member with exactly this name, however wicked.
pub fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, content: &[u8], link: &str) {
    let mut header = tar::Header::new_gnu();
    let field = &mut header.as_old_mut().name;
    field[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(if content.starts_with(b"#!") || kind == tar::EntryType::Directory {
        0o755
    } else {
        0o644
    });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.append(&header, content).unwrap();
}
