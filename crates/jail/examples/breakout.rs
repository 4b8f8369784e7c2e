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
        Some("network") => network(),
        Some("unix") => unix_socket(&std::env::args().nth(2).unwrap_or_default()),
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

/// Says what a unix socket says.
fn unix_socket(path: &str) {
    use std::io::Read;
    let said = std::os::unix::net::UnixStream::connect(path).and_then(|mut stream| {
        let mut said = String::new();
        stream.read_to_string(&mut said).map(|_| said)
    });
    match said {
        Ok(said) => println!("{said}"),
        Err(error) => println!("connect={}", error.raw_os_error().unwrap_or(0)),
    }
}

/// Packets to elsewhere, and changes to the network.
fn network() {
    use std::net::UdpSocket;
    let send = |name: &str, from: &str, to: &str| {
        let sent = UdpSocket::bind(from).and_then(|socket| {
            let _ = socket.set_broadcast(true);
            socket.send_to(b"x", to)
        });
        match sent {
            Ok(_) => println!("{name}=done"),
            Err(error) => println!("{name}={}", error.raw_os_error().unwrap_or(0)),
        }
    };
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = here.local_addr().unwrap().port();
    // Somebody who would hear it if it were let through to the session itself.
    let everywhere = UdpSocket::bind("0.0.0.0:9999").unwrap();
    everywhere.set_nonblocking(true).unwrap();
    send("udp_here", "127.0.0.1:0", &format!("127.0.0.1:{port}"));
    send("udp_own", "0.0.0.0:0", "198.18.0.1:9999");
    println!("own_heard={}", everywhere.recv(&mut [0; 8]).is_ok());
    send("udp_out", "0.0.0.0:0", "8.8.8.8:9999");
    send("udp_metadata", "0.0.0.0:0", "169.254.169.254:9999");
    send("udp_range", "0.0.0.0:0", "198.18.0.7:9999");
    send("udp_multicast", "0.0.0.0:0", "224.0.0.251:9999");
    send("udp_broadcast", "0.0.0.0:0", "255.255.255.255:9999");
    send("udp6_out", "[::]:0", "[2001:db8::1]:9999");
    println!("out_heard={}", everywhere.recv(&mut [0; 8]).is_ok());
    // What a program finds that asks for its own address the usual way.
    let asking = UdpSocket::bind("0.0.0.0:0").unwrap();
    asking.connect("8.8.8.8:80").unwrap();
    println!("own_address={}", asking.local_addr().unwrap().ip());
    // SAFETY: sockets of our own, structures that live through the calls.
    unsafe {
        let raw = libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
        if raw < 0 {
            say("raw", -1);
        } else {
            let mut to: libc::sockaddr_in = std::mem::zeroed();
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_addr.s_addr = u32::from_be_bytes([8, 8, 8, 8]).to_be();
            let echo = [8u8, 0, 0xf7, 0xff, 0, 0, 0, 0];
            let to = std::ptr::from_ref(&to).cast();
            say(
                "raw",
                libc::sendto(raw, echo.as_ptr().cast(), 8, 0, to, size_of::<libc::sockaddr_in>() as u32)
                    as i64,
            );
        }
        say("netfilter", i64::from(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)));
        say("packet", i64::from(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)));
    }
    for (name, kind, body) in [
        // lo down; the address away; a route away; another route
        ("link_down", 16u16, vec![0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
        ("address_away", 21, vec![2, 32, 0, 0, 1, 0, 0, 0, 8, 0, 2, 0, 198, 18, 0, 1]),
        ("route_away", 25, vec![2, 0, 0, 0, 255, 3, 254, 2, 0, 0, 0, 0]),
        ("route_new", 24, vec![2, 0, 0, 0, 254, 3, 253, 1, 0, 0, 0, 0, 8, 0, 4, 0, 1, 0, 0, 0]),
    ] {
        println!("{name}={}", routing(kind, &body));
    }
}

/// What the kernel answers to one rtnetlink request: an errno, or `done`.
fn routing(kind: u16, body: &[u8]) -> String {
    let mut message = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((0x1u16 | 0x4 | 0x400).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    let mut answer = [0u8; 1024];
    // SAFETY: buffers that live through the calls.
    let n = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
        libc::send(socket, message.as_ptr().cast(), message.len(), 0);
        libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    assert!(n >= 20, "no answer");
    match -i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => "done".to_owned(),
        errno => errno.to_string(),
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
