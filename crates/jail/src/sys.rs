//! System calls that no crate wraps the way a launcher needs them: raw `clone3`, namespaces, capabilities, filters.
//!
//! Only calls; what they are for is in `launch`. Everything here is safe to call in a forked child of a
//! single-threaded process.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::step::{At, Step};

/// `struct clone_args`, the part of kernel 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

pub fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Forks with new namespaces, straight into a v2 cgroup where one is given.
///
/// # Safety
///
/// The process must be single-threaded, and the child must end in exec or `_exit`, never return into the caller's
/// frames that own resources of the parent.
pub unsafe fn fork(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: args is a valid clone_args of the size given; without CLONE_VM and with no stack this is fork().
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel stored a fresh descriptor that nobody else owns.
    Ok(Forked::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Ends the process without running the parent's destructors or exit handlers.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

pub fn prctl(option: libc::c_int, a: u64, b: u64) -> io::Result<i64> {
    // SAFETY: the options used take integers only.
    check(libc::c_long::from(unsafe { libc::prctl(option, a, b, 0u64, 0u64) }))
}

/// All ids of the calling thread at once, supplementary groups dropped.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: plain integers; no pointer is read with a count of zero.
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

pub fn setsid() -> io::Result<()> {
    // SAFETY: no arguments.
    check(libc::c_long::from(unsafe { libc::setsid() })).map(drop)
}

pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: an integer.
    check(libc::c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

pub fn setns(fd: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: a live descriptor and an integer.
    check(libc::c_long::from(unsafe { libc::setns(fd.as_raw_fd(), kind) })).map(drop)
}

/// Effective and permitted become `caps`, inheritable empty.
pub fn set_capabilities(caps: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let part = |bits: u64| Data { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let data = [part(caps & 0xffff_ffff), part(caps >> 32)];
    // SAFETY: version 3 reads one header and two data blocks.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Installs a compiled filter on this process.
pub fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const libc::sock_filter,
    }
    let program = Program { len: program.len() as u16, filter: program.as_ptr() };
    const SET_MODE_FILTER: libc::c_long = 1;
    // SAFETY: the program outlives the call, which copies it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// Every signal unblocked and back to its default: what a program expects to be started with.
pub fn default_signals() {
    // SAFETY: valid sets and signal numbers; SIGKILL and SIGSTOP answer EINVAL, which is fine.
    unsafe {
        for signal in 1..65 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// SIGTERM and SIGINT as a descriptor instead of an interruption.
pub fn signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: valid sets; the descriptor returned is fresh.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd =
            check(i64::from(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// At least 10, so that it survives the arranging of descriptors 0 to 4.
pub fn out_of_the_way(fd: BorrowedFd<'_>) -> io::Result<RawFd> {
    // SAFETY: a live descriptor; the result is deliberately raw, it ends with exec.
    check(i64::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) })).map(|fd| fd as RawFd)
}

pub fn dup_to(from: RawFd, to: RawFd, close_on_exec: bool) -> io::Result<()> {
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: integers; the caller arranges its own descriptor table before exec.
    check(i64::from(unsafe { libc::dup3(from, to, flags) })).map(drop)
}

pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: integers; only called right before exec.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Replaces the process. Returns only the reason it did not.
pub fn exec(path: &CStr, argv: &[&CStr], environment: &[&CStr]) -> io::Error {
    let pointers = |list: &[&CStr]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, environment) = (pointers(argv), pointers(environment));
    // SAFETY: null-terminated arrays of C strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Does work whose files belong to `uid` and `gid`. Root keeps reaching everything else.
///
/// The kernel forgets the signal asked for with `PR_SET_PDEATHSIG` when these ids change (prctl(2)), and a jailer would
/// outlive its keeper: it is asked for again, and a parent that went meanwhile is noticed.
pub fn with_file_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> T {
    let mut signal: libc::c_int = 0;
    let parent = rustix::process::getppid();
    // SAFETY: writes one integer that lives here.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
    set_file_ids(uid, gid);
    let done = work();
    set_file_ids(0, 0);
    if signal != 0 {
        // SAFETY: integers; a signal to this very process.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal);
            if rustix::process::getppid() != parent {
                libc::kill(libc::getpid(), signal);
            }
        }
    }
    done
}

fn set_file_ids(uid: u32, gid: u32) {
    // SAFETY: integers; both calls cannot fail for root and report the old value only.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
}

/// When a process started, in ticks since boot: with the pid it names one process for ever.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from the last one; field 22 overall is 20th after it.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Changes when the machine restarts, so that pids of an earlier life are not mistaken.
pub fn boot_id() -> Result<String, Step> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|s| s.trim().to_owned())
        .at("read the boot id")
}

/// Runs `work` with the host name namespace of `uts` and comes back.
pub fn in_uts_of(uts: &File, own: &File, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    use std::os::fd::AsFd;
    setns(uts.as_fd(), libc::CLONE_NEWUTS)?;
    let result = work();
    // Staying in a jail's namespace would hand its name to the next one: no way on from there.
    if setns(own.as_fd(), libc::CLONE_NEWUTS).is_err() {
        std::process::abort();
    }
    result
}

/// Whether programs may be run from a mount.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Executables {
    Run,
    No,
}

/// Makes a detached mount read-only, without setuid programs and devices.
pub fn make_read_only(tree: BorrowedFd<'_>, executables: Executables) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    const RDONLY_NOSUID_NODEV: u64 = 1 | 2 | 4;
    const NOEXEC: u64 = 8;
    let set = RDONLY_NOSUID_NODEV | if executables == Executables::No { NOEXEC } else { 0 };
    let attr = MountAttr { set, clear: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor; attr is of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Takes the exit status of a child of ours, if it is one and has ended.
pub fn reap(pidfd: BorrowedFd<'_>) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let _ = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED);
}

/// Writes a file that is either the old or the new one, whenever the process dies.
pub fn replace(path: &std::path::Path, bytes: &[u8]) -> Result<(), Step> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let fresh = path.with_extension("new");
    let write = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        std::fs::rename(&fresh, path)
    };
    write().at_with(|| format!("write {}", path.display()))
}
