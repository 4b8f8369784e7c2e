//! The kernel's btrfs and loop interfaces: argument layouts of `linux/btrfs.h` and `linux/loop.h`, one function a call.
//!
//! Nothing here decides anything. Spawning `btrfs` or `losetup` costs milliseconds a call and their exit codes hide
//! the errno, so the hot path never does.

use std::ffi::c_ulong;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

const BTRFS: c_ulong = 0x94;
const READ: c_ulong = 2;
const WRITE: c_ulong = 1;

/// `_IOC` of `asm-generic/ioctl.h`, the encoding of x86-64, aarch64 and riscv64.
const fn ioc(direction: c_ulong, number: c_ulong, size: usize) -> c_ulong {
    (direction << 30) | ((size as c_ulong) << 16) | (BTRFS << 8) | number
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`, with its unions as the members used here.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InoLookup {
    treeid: u64,
    objectid: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaCtl {
    cmd: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct QgroupLimit {
    qgroupid: u64,
    flags: u64,
    max_rfer: u64,
    max_excl: u64,
    rsv_rfer: u64,
    rsv_excl: u64,
}

/// `struct btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
struct QgroupCreate {
    create: u64,
    qgroupid: u64,
}

/// `struct btrfs_ioctl_fs_info_args`; only the fsid is read.
#[repr(C)]
struct FsInfo {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    rest: [u8; 992],
}

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LoopInfo {
    pub device: u64,
    pub inode: u64,
    pub rdevice: u64,
    pub offset: u64,
    pub sizelimit: u64,
    pub number: u32,
    pub encrypt_type: u32,
    pub encrypt_key_size: u32,
    pub flags: u32,
    pub file_name: [u8; 64],
    pub crypt_name: [u8; 64],
    pub encrypt_key: [u8; 32],
    pub init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = {
    assert!(size_of::<VolArgs>() == 4096);
    assert!(size_of::<VolArgsV2>() == 4096);
    assert!(size_of::<InoLookup>() == 4096);
    assert!(size_of::<QuotaCtl>() == 16);
    assert!(size_of::<QgroupLimit>() == 48);
    assert!(size_of::<QgroupCreate>() == 16);
    assert!(size_of::<FsInfo>() == 1024);
    assert!(size_of::<LoopInfo>() == 232);
    assert!(size_of::<LoopConfig>() == 304);
};

const RESIZE: c_ulong = ioc(WRITE, 3, 4096);
const SUBVOL_CREATE: c_ulong = ioc(WRITE, 14, 4096);
const SNAP_DESTROY: c_ulong = ioc(WRITE, 15, 4096);
const INO_LOOKUP: c_ulong = ioc(READ | WRITE, 18, 4096);
const SNAP_CREATE_V2: c_ulong = ioc(WRITE, 23, 4096);
const SUBVOL_SETFLAGS: c_ulong = ioc(WRITE, 26, 8);
const FS_INFO: c_ulong = ioc(READ, 31, 1024);
const QUOTA_CTL: c_ulong = ioc(READ | WRITE, 40, 16);
const QGROUP_CREATE: c_ulong = ioc(WRITE, 42, 16);
const QGROUP_LIMIT: c_ulong = ioc(READ, 43, 48);
const _: () = {
    assert!(SUBVOL_CREATE == 0x5000_940e);
    assert!(SNAP_CREATE_V2 == 0x5000_9417);
    assert!(QUOTA_CTL == 0xc010_9428);
    assert!(QGROUP_LIMIT == 0x8030_942b);
};

const SUBVOL_RDONLY: u64 = 1 << 1;
const QUOTA_ENABLE_SIMPLE: u64 = 4;
const QGROUP_LIMIT_MAX_RFER: u64 = 1;

const LOOP_CONFIGURE: c_ulong = 0x4C0A;
const LOOP_GET_STATUS64: c_ulong = 0x4C05;
const LOOP_SET_CAPACITY: c_ulong = 0x4C07;
const LOOP_CTL_GET_FREE: c_ulong = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// Calls `request` with a pointer to `argument`.
fn call<T>(fd: BorrowedFd<'_>, request: c_ulong, argument: &mut T) -> io::Result<i32> {
    // SAFETY: every caller passes the request number whose argument is exactly `T` (sizes asserted above), and
    // `argument` is a live, exclusive reference for the length of the call.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Calls `request` with a plain number.
fn call_number(fd: BorrowedFd<'_>, request: c_ulong, number: c_ulong) -> io::Result<i32> {
    // SAFETY: the loop requests used with this take no pointer.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, number) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// `name` with a terminating zero in a field of `N` bytes.
fn field<const N: usize>(name: &str) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    if name.is_empty() || name.len() >= 255.min(N) || name.contains('/') {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Ok(bytes)
}

/// An empty subvolume `name` in `dir`. Joins the running transaction: nothing is written to the disk yet.
pub(super) fn create_subvolume(dir: impl AsFd, name: &str) -> io::Result<()> {
    let mut args = VolArgs { fd: 0, name: field(name)? };
    call(dir.as_fd(), SUBVOL_CREATE, &mut args).map(drop)
}

/// A snapshot of `source` as `name` in `dir`. Flushes the source and commits: durable when it returns.
pub(super) fn create_snapshot(source: impl AsFd, dir: impl AsFd, name: &str) -> io::Result<()> {
    let mut args = Box::new(VolArgsV2 {
        fd: i64::from(source.as_fd().as_raw_fd()),
        transid: 0,
        flags: 0,
        unused: [0; 4],
        name: field(name)?,
    });
    call(dir.as_fd(), SNAP_CREATE_V2, &mut *args).map(drop)
}

/// Lets nobody write to subvolume `fd` any more.
pub(super) fn seal_subvolume(fd: impl AsFd) -> io::Result<()> {
    let mut flags = SUBVOL_RDONLY;
    call(fd.as_fd(), SUBVOL_SETFLAGS, &mut flags).map(drop)
}

/// Unlinks a subvolume at once; its space is freed in the background.
pub(super) fn destroy_subvolume(dir: impl AsFd, name: &str) -> io::Result<()> {
    let mut args = VolArgs { fd: 0, name: field(name)? };
    call(dir.as_fd(), SNAP_DESTROY, &mut args).map(drop)
}

/// The id of the subvolume that holds `fd`; it is also the number of its quota group.
pub(super) fn subvolume_id(fd: impl AsFd) -> io::Result<u64> {
    let mut args = Box::new(InoLookup { treeid: 0, objectid: 256, name: [0; 4080] });
    call(fd.as_fd(), INO_LOOKUP, &mut *args)?;
    Ok(args.treeid)
}

pub(super) fn enable_simple_quotas(fd: impl AsFd) -> io::Result<()> {
    call(fd.as_fd(), QUOTA_CTL, &mut QuotaCtl { cmd: QUOTA_ENABLE_SIMPLE, status: 0 }).map(drop)
}

/// Bounds what subvolume `id` may own, in bytes.
pub(super) fn limit(fd: impl AsFd, id: u64, bytes: u64) -> io::Result<()> {
    let mut args = QgroupLimit {
        qgroupid: id,
        flags: QGROUP_LIMIT_MAX_RFER,
        max_rfer: bytes,
        max_excl: 0,
        rsv_rfer: 0,
        rsv_excl: 0,
    };
    call(fd.as_fd(), QGROUP_LIMIT, &mut args).map(drop)
}

/// Removes the quota group of a subvolume that is gone. EBUSY while something it wrote is still referred to.
pub(super) fn remove_quota_group(fd: impl AsFd, id: u64) -> io::Result<()> {
    call(fd.as_fd(), QGROUP_CREATE, &mut QgroupCreate { create: 0, qgroupid: id }).map(drop)
}

/// The file system's UUID in the form sysfs uses.
pub(super) fn filesystem_uuid(fd: impl AsFd) -> io::Result<String> {
    let mut args = Box::new(FsInfo { max_id: 0, num_devices: 0, fsid: [0; 16], rest: [0; 992] });
    call(fd.as_fd(), FS_INFO, &mut *args)?;
    let hex: Vec<String> = args.fsid.iter().map(|byte| format!("{byte:02x}")).collect();
    let groups = [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]];
    Ok(groups.map(<[String]>::concat).join("-"))
}

/// Grows the file system to the size of its device.
pub(super) fn grow_filesystem(fd: impl AsFd) -> io::Result<()> {
    call(fd.as_fd(), RESIZE, &mut VolArgs { fd: 0, name: field("max")? }).map(drop)
}

/// The number of a loop device nobody uses at this moment; another process may take it first.
pub(super) fn free_loop(control: impl AsFd) -> io::Result<u32> {
    Ok(call_number(control.as_fd(), LOOP_CTL_GET_FREE, 0)? as u32)
}

/// Attaches `file` to loop device `device`; the kernel detaches it at the last close.
pub(super) fn configure_loop(device: impl AsFd, file: impl AsFd, direct: bool) -> io::Result<()> {
    let mut config = LoopConfig {
        fd: file.as_fd().as_raw_fd() as u32,
        block_size: 4096,
        info: LoopInfo {
            flags: LO_FLAGS_AUTOCLEAR | if direct { LO_FLAGS_DIRECT_IO } else { 0 },
            ..no_loop()
        },
        reserved: [0; 8],
    };
    call(device.as_fd(), LOOP_CONFIGURE, &mut config).map(drop)
}

/// What `device` is attached to; ENXIO when to nothing.
pub(super) fn loop_status(device: impl AsFd) -> io::Result<LoopInfo> {
    let mut info = no_loop();
    call(device.as_fd(), LOOP_GET_STATUS64, &mut info)?;
    Ok(info)
}

/// Takes over the backing file's new size.
pub(super) fn grow_loop(device: impl AsFd) -> io::Result<()> {
    call_number(device.as_fd(), LOOP_SET_CAPACITY, 0).map(drop)
}

const fn no_loop() -> LoopInfo {
    LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    }
}

/// `mount_setattr(2)` on the mount itself, not on mounts below it.
pub(super) fn mount_setattr(
    mount: impl AsFd,
    set: u64,
    clear: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set | if user_namespace.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 },
        attr_clr: clear,
        propagation: 0,
        userns_fd: user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the descriptor is open, the path is a valid empty C string, and the structure lives through the call
    // with its size passed along.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives this thread a mount namespace of its own.
pub(super) fn own_mount_namespace() -> io::Result<()> {
    // SAFETY: NEWNS changes no memory and no descriptor; callers hold no path whose meaning must survive.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks for `FS_NOCOW_FL` on an empty file, where the file system knows it: a disk image on a copy-on-write file
/// system fragments otherwise.
pub(super) fn no_copy_on_write(file: impl AsFd) -> io::Result<()> {
    const GETFLAGS: c_ulong = 0x8008_6601;
    const SETFLAGS: c_ulong = 0x4008_6602;
    const NOCOW: std::ffi::c_long = 0x0080_0000;
    let mut flags: std::ffi::c_long = 0;
    call(file.as_fd(), GETFLAGS, &mut flags)?;
    flags |= NOCOW;
    call(file.as_fd(), SETFLAGS, &mut flags).map(drop)
}
