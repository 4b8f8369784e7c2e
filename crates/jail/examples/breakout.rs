//! Tries, from inside a jail, what a jail must refuse; the integration tests put it into their image.
//!
//! Every attempt is one line, `name=errno` or `name=done`. Nothing here is clever: it asks the kernel, as an attacker
//! who is root of the jail would, and says what the kernel said.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::ffi::CStr;
use std::os::fd::AsRawFd;

fn say(name: &str, result: i64) {
    let error = std::io::Error::last_os_error();
    match result {
        -1 => println!("{name}={}", error.raw_os_error().unwrap_or(0)),
        _ => println!("{name}=done"),
    }
}

/// A raw call with up to six arguments.
fn call(name: &str, number: libc::c_long, args: [u64; 6]) -> i64 {
    // SAFETY: as safe as the attempt; all pointers passed below are to live constants, null, or buffers of the caller.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
    say(name, result);
    result
}

fn at(text: &'static CStr) -> u64 {
    text.as_ptr() as u64
}

/// Runs attempts in a child, so that what succeeds does not colour the next one.
fn apart(work: impl FnOnce()) {
    // SAFETY: single-threaded; the child ends in _exit.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            work();
            libc::_exit(0);
        }
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => calls(),
        Some("abstract") => abstract_socket(&std::env::args().nth(2).unwrap_or_default()),
        Some("chroot") => chroot_escape(),
        Some("idle-clone") => clones(),
        // SAFETY: no preconditions.
        Some("euid") => println!("{}", unsafe { libc::geteuid() }),
        Some(other) => println!("no attempt {other}"),
    }
}

fn calls() {
    const BIND: u64 = 4096;
    call("mount", libc::SYS_mount, [at(c"tmpfs"), at(c"/tmp"), at(c"tmpfs"), 0, 0, 0]);
    call("mount_bind", libc::SYS_mount, [at(c"/"), at(c"/tmp"), 0, BIND, 0, 0]);
    call("umount", libc::SYS_umount2, [at(c"/proc/sys"), 2, 0, 0, 0, 0]);
    call("pivot_root", libc::SYS_pivot_root, [at(c"/tmp"), at(c"/tmp"), 0, 0, 0, 0]);
    call("open_tree", libc::SYS_open_tree, [u64::MAX, at(c"/"), 1, 0, 0, 0]);
    call("fsopen", libc::SYS_fsopen, [at(c"proc"), 0, 0, 0, 0, 0]);
    call("mount_setattr", libc::SYS_mount_setattr, [u64::MAX, at(c"/"), 0, 0, 0, 0]);
    call("mknod", libc::SYS_mknodat, [libc::AT_FDCWD as u64, at(c"/tmp/mem"), 0o20666, 0x101, 0, 0]);
    call("sethostname", libc::SYS_sethostname, [at(c"x"), 1, 0, 0, 0, 0]);
    call("unshare_mount", libc::SYS_unshare, [libc::CLONE_NEWNS as u64, 0, 0, 0, 0, 0]);
    call(
        "unshare_both",
        libc::SYS_unshare,
        [(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64, 0, 0, 0, 0, 0],
    );
    call("unshare_cgroup", libc::SYS_unshare, [libc::CLONE_NEWCGROUP as u64, 0, 0, 0, 0, 0]);
    call("clone3", libc::SYS_clone3, [0, 0, 0, 0, 0, 0]);
    if let Ok(namespace) = std::fs::File::open("/proc/1/ns/mnt") {
        call("setns", libc::SYS_setns, [namespace.as_raw_fd() as u64, 0, 0, 0, 0, 0]);
    }
    call("keyctl", libc::SYS_keyctl, [0, 0, 0, 0, 0, 0]);
    call("add_key", libc::SYS_add_key, [at(c"user"), at(c"x"), at(c"y"), 1, (-3_i64) as u64, 0]);
    call("request_key", libc::SYS_request_key, [at(c"user"), at(c"x"), 0, 0, 0, 0]);
    call("bpf", libc::SYS_bpf, [0, 0, 0, 0, 0, 0]);
    call("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0, 0, 0, 0]);
    call("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0]);
    call("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]);
    call("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0, 0, 0]);
    call("init_module", libc::SYS_init_module, [0, 0, 0, 0, 0, 0]);
    call("finit_module", libc::SYS_finit_module, [0, 0, 0, 0, 0, 0]);
    call("delete_module", libc::SYS_delete_module, [at(c"x"), 0, 0, 0, 0, 0]);
    call("reboot", libc::SYS_reboot, [0xfee1_dead, 672_274_793, 0, 0, 0, 0]);
    call("swapon", libc::SYS_swapon, [at(c"/tmp"), 0, 0, 0, 0, 0]);
    call("acct", libc::SYS_acct, [0, 0, 0, 0, 0, 0]);
    call("quotactl", libc::SYS_quotactl, [0, 0, 0, 0, 0, 0]);
    call("syslog", libc::SYS_syslog, [3, 0, 0, 0, 0, 0]);
    call("settimeofday", libc::SYS_settimeofday, [0, 0, 0, 0, 0, 0]);
    call("clock_settime", libc::SYS_clock_settime, [0, 0, 0, 0, 0, 0]);
    call("adjtimex", libc::SYS_adjtimex, [0, 0, 0, 0, 0, 0]);
    call("open_by_handle_at", libc::SYS_open_by_handle_at, [0, 0, 0, 0, 0, 0]);
    call("lookup_dcookie", libc::SYS_lookup_dcookie, [0, 0, 0, 0, 0, 0]);
    call("nfsservctl", libc::SYS_nfsservctl, [0, 0, 0, 0, 0, 0]);
    call("vhangup", libc::SYS_vhangup, [0, 0, 0, 0, 0, 0]);
    call("kcmp", libc::SYS_kcmp, [1, 1, 0, 0, 0, 0]);
    call("pidfd_getfd", libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0, 0]);
    call("fanotify_init", libc::SYS_fanotify_init, [0, 0, 0, 0, 0, 0]);
    call("move_pages", libc::SYS_move_pages, [0, 0, 0, 0, 0, 0]);
    #[cfg(target_arch = "x86_64")]
    {
        call("iopl", libc::SYS_iopl, [3, 0, 0, 0, 0, 0]);
        call("ioperm", libc::SYS_ioperm, [0, 1, 1, 0, 0, 0]);
    }
    call("personality", libc::SYS_personality, [0x0040_0000, 0, 0, 0, 0, 0]);
    for (name, family) in
        [("vsock", 40), ("alg", 38), ("packet", 17), ("bluetooth", 31), ("key", 15), ("xdp", 44)]
    {
        call(name, libc::SYS_socket, [family, 3, 0, 0, 0, 0]);
    }
    for (name, protocol) in [("netlink_route", 0), ("netlink_netfilter", 12), ("netlink_xfrm", 6)] {
        call(name, libc::SYS_socket, [16, 3, protocol, 0, 0, 0]);
    }
    call("future_call", 1000, [0, 0, 0, 0, 0, 0]);
    let more = [1_u64 << 30, 1 << 30];
    call("raise_nofile", libc::SYS_prlimit64, [0, 7, more.as_ptr() as u64, 0, 0, 0]);
    // A process of the machine: the test's own parent, say. Whatever the number, it is not one in here.
    call("ptrace_outside", libc::SYS_ptrace, [16, 99_999, 0, 0, 0, 0]);
    apart(|| {
        call("unshare_user", libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]);
        call("nested_mount", libc::SYS_mount, [at(c"tmpfs"), at(c"/tmp"), at(c"tmpfs"), 0, 0, 0]);
        call("nested_unshare_mount", libc::SYS_unshare, [libc::CLONE_NEWNS as u64, 0, 0, 0, 0, 0]);
        call("nested_unshare_net", libc::SYS_unshare, [libc::CLONE_NEWNET as u64, 0, 0, 0, 0, 0]);
        call("nested_mknod", libc::SYS_mknodat, [libc::AT_FDCWD as u64, at(c"/tmp/m"), 0o20666, 0x101, 0, 0]);
    });
}

/// What Chromium needs, and what comes with it.
fn clones() {
    for (name, flags) in [
        ("clone_user_pid_net", libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET),
        ("clone_mount", libc::CLONE_NEWUSER | libc::CLONE_NEWNS),
        ("clone_cgroup", libc::CLONE_NEWUSER | libc::CLONE_NEWCGROUP),
        ("clone_uts", libc::CLONE_NEWUSER | libc::CLONE_NEWUTS),
        ("clone_ipc", libc::CLONE_NEWUSER | libc::CLONE_NEWIPC),
    ] {
        // SAFETY: without CLONE_VM and with no stack this is fork; the child ends at once.
        unsafe {
            let pid = libc::syscall(libc::SYS_clone, (flags | libc::SIGCHLD) as u64, 0, 0, 0, 0);
            if pid == 0 {
                libc::_exit(0);
            }
            say(name, pid);
            libc::waitpid(pid as i32, std::ptr::null_mut(), 0);
        }
    }
}

fn abstract_socket(name: &str) {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    match std::os::unix::net::UnixStream::connect_addr(&address) {
        Ok(_) => println!("connect=done"),
        Err(error) => println!("connect={}", error.raw_os_error().unwrap_or(0)),
    }
}

/// The old way out of a chroot: keep a directory open, move the root below it, climb. In a jail it ends at its own root.
fn chroot_escape() {
    let root = std::fs::File::open("/").unwrap();
    std::fs::create_dir_all("/tmp/cell").unwrap();
    std::os::unix::fs::chroot("/tmp/cell").unwrap();
    // SAFETY: a live descriptor.
    assert_eq!(unsafe { libc::fchdir(root.as_raw_fd()) }, 0);
    for _ in 0..64 {
        std::env::set_current_dir("..").unwrap();
    }
    std::os::unix::fs::chroot(".").unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir("/").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    println!("{}", names.join(" "));
}
