//! The system calls a jail may make: an explicit allow list, compiled once per process.
//!
//! The list is what container runtimes allow by default (moby's profile) for a container without CAP_SYS_ADMIN, and
//! two allowances that let Chromium build its own sandbox: `clone` with new user, pid and network namespaces, and
//! `unshare` of exactly a user namespace. Nothing such a namespace would be good for (mount, setns, pivot_root, …) is
//! on the list. Left out against that profile: clock adjustment and address families other than unix, internet and
//! netlink (a vsock would reach the hypervisor past the network namespace).
//!
//! Refused calls answer EPERM, so that programs fail the way they do without the right. `clone3`, whose flags no
//! filter can read, and calls newer than this list answer ENOSYS, so that programs fall back. A program of another
//! architecture (32 bits on a machine of 64) is ended.

//!
//! The program is a binary search over ranges of numbers, a fifth of the usual chain of comparisons: the kernel runs
//! a new filter once per system call there is, which for the chain took a third of a jail's start.

use std::collections::BTreeSet;

use libc::sock_filter;

use crate::step::Step;

/// Above it a call did not exist when the list was written (`mseal`); the same number on all architectures.
const NEWEST_KNOWN: u32 = 462;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC: what a sandbox in the sandbox does without.
const FOREIGN_NAMESPACES: u32 = 0x0E02_0000;
const NEW_USER: u32 = 0x1000_0000;
/// Not in libc.
const IO_PGETEVENTS: libc::c_long = if cfg!(target_arch = "x86_64") { 333 } else { 292 };

// Offsets in `struct seccomp_data`; arguments are 64 bits, the lower half first on the machines we know.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT: u32 = 16;
const ARGUMENT_HIGH: u32 = 20;
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xC000_00B7;

const THIRD_ARGUMENT: u32 = 32;

const FAMILIES: [i32; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
/// Interfaces and routes, socket lists, audit (sudo asks), device events, generic. Not netfilter, nor what encrypts:
/// whoever makes a user namespace is root over its network, and these have been ways into the kernel.
const NETLINK: [i32; 5] = [
    libc::NETLINK_ROUTE,
    libc::NETLINK_SOCK_DIAG,
    libc::NETLINK_AUDIT,
    libc::NETLINK_KOBJECT_UEVENT,
    libc::NETLINK_GENERIC,
];

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const REFUSE: u32 = 0x0005_0000 | libc::EPERM as u32;
const UNKNOWN: u32 = 0x0005_0000 | libc::ENOSYS as u32;

macro_rules! calls {
    ($($name:ident)*) => { [$((stringify!($name), libc::$name)),*] };
}

/// A call by its name in libc, `SYS_…`, and its number.
type Call = (&'static str, libc::c_long);

/// Allowed whatever their arguments.
fn plain() -> Vec<Call> {
    let mut all = calls![
        SYS_accept SYS_accept4 SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_chroot SYS_clock_getres
        SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3
        SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit
        SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fanotify_mark SYS_fchdir SYS_fchmod
        SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock
        SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv
        SYS_get_mempolicy SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid
        SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom
        SYS_getresgid SYS_getresuid SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday
        SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_io_destroy
        SYS_io_getevents SYS_io_setup SYS_io_submit SYS_ioctl SYS_ioprio_get SYS_ioprio_set SYS_kill
        SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen
        SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier
        SYS_memfd_create SYS_memfd_secret SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap
        SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink
        SYS_mremap SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap
        SYS_name_to_handle_at SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal
        SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2
        SYS_prlimit64 SYS_process_mrelease SYS_process_vm_readv SYS_process_vm_writev SYS_pselect6 SYS_ptrace
        SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg
        SYS_recvmsg SYS_remap_file_pages SYS_removexattr SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq
        SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend
        SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min
        SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval
        SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_seccomp
        SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto
        SYS_set_robust_list SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer
        SYS_setpgid SYS_setpriority SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_getrlimit
        SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown
        SYS_sigaltstack SYS_signalfd4 SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range
        SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_timer_create SYS_timer_delete SYS_timer_getoverrun
        SYS_timer_gettime SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times
        SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid SYS_write
        SYS_writev
    ]
    .to_vec();
    all.push(("SYS_io_pgetevents", IO_PGETEVENTS));
    #[cfg(target_arch = "x86_64")]
    all.extend(calls![
        SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_ctl_old
        SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat SYS_get_thread_area SYS_getdents SYS_getpgrp
        SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod SYS_modify_ldt SYS_open SYS_pause SYS_pipe
        SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select SYS_set_thread_area SYS_signalfd SYS_stat SYS_symlink
        SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
    ]);
    all
}

/// What the first argument of a call must be for it to be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// One of these, all 64 bits of it or, for an `int`, the lower 32.
    OneOf { values: Vec<u32>, whole: bool },
    /// None of these bits.
    Without(u32),
    /// An address family, and for netlink a protocol of it, which is the third argument.
    Family,
}

fn conditional() -> Vec<(Call, Argument)> {
    let [clone, personality, socket, socketpair, unshare] =
        calls![SYS_clone SYS_personality SYS_socket SYS_socketpair SYS_unshare];
    vec![
        (clone, Argument::Without(FOREIGN_NAMESPACES)),
        (personality, Argument::OneOf { values: vec![0, 8, 0x20000, 0x20008, u32::MAX], whole: false }),
        (socket, Argument::Family),
        (socketpair, Argument::Family),
        (unshare, Argument::OneOf { values: vec![NEW_USER], whole: true }),
    ]
}

/// The same list for a runtime that compiles filters itself: names as the kernel has them, and what their first argument
/// must be where that matters.
pub struct List {
    pub plain: Vec<&'static str>,
    pub conditional: Vec<(&'static str, Argument)>,
    /// Address families a socket may have, besides netlink.
    pub families: Vec<u32>,
    /// Protocols a netlink socket may have.
    pub netlink: Vec<u32>,
}

pub fn list() -> List {
    let name = |call: Call| call.0.trim_start_matches("SYS_");
    List {
        plain: plain().into_iter().map(name).collect(),
        conditional: conditional().into_iter().map(|(call, argument)| (name(call), argument)).collect(),
        families: FAMILIES.iter().map(|family| *family as u32).collect(),
        netlink: NETLINK.iter().map(|protocol| *protocol as u32).collect(),
    }
}

fn step(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Instructions that end in a verdict.
fn check(argument: &Argument) -> Vec<sock_filter> {
    let mut program = Vec::new();
    match argument {
        Argument::Without(bits) => {
            program.push(step(LOAD, ARGUMENT, 0, 0));
            program.push(step(ANY_BIT, *bits, 0, 1));
            program.push(step(RETURN, REFUSE, 0, 0));
            program.push(step(RETURN, ALLOW, 0, 0));
        }
        Argument::Family => {
            program.push(step(LOAD, ARGUMENT, 0, 0));
            program.push(step(EQUAL, libc::AF_NETLINK as u32, FAMILIES.len() as u8 + 1, 0));
            // To the allowance at the very end.
            let end = |at: usize| (FAMILIES.len() - at + 1 + NETLINK.len() + 1) as u8;
            program.extend(FAMILIES.iter().enumerate().map(|(at, f)| step(EQUAL, *f as u32, end(at), 0)));
            program.push(step(RETURN, REFUSE, 0, 0));
            program.push(step(LOAD, THIRD_ARGUMENT, 0, 0));
            let end = |at: usize| (NETLINK.len() - at) as u8;
            program.extend(NETLINK.iter().enumerate().map(|(at, p)| step(EQUAL, *p as u32, end(at), 0)));
            program.push(step(RETURN, REFUSE, 0, 0));
            program.push(step(RETURN, ALLOW, 0, 0));
        }
        Argument::OneOf { values, whole } => {
            if *whole {
                program.push(step(LOAD, ARGUMENT_HIGH, 0, 0));
                program.push(step(EQUAL, 0, 1, 0));
                program.push(step(RETURN, REFUSE, 0, 0));
            }
            program.push(step(LOAD, ARGUMENT, 0, 0));
            for (at, value) in values.iter().enumerate() {
                // To the allowance, behind the comparisons left and the refusal.
                program.push(step(EQUAL, *value, (values.len() - at) as u8, 0));
            }
            program.push(step(RETURN, REFUSE, 0, 0));
            program.push(step(RETURN, ALLOW, 0, 0));
        }
    }
    program
}

/// Searches `ranges`, each a first number and the verdict up to the next one.
fn search(ranges: &[(u32, u32)]) -> Result<Vec<sock_filter>, Step> {
    if let [(_, verdict)] = ranges {
        return Ok(vec![step(RETURN, *verdict, 0, 0)]);
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let (left, right) = (search(below)?, search(above)?);
    let far = u8::try_from(left.len())
        .map_err(|_| Step::failed("compile the seccomp filter", "a jump is too far for the list as it is"))?;
    let mut program = vec![step(AT_LEAST, above[0].0, far, 0)];
    program.extend(left);
    program.extend(right);
    Ok(program)
}

/// A filter ready to be installed by a child that is about to become a jail.
pub struct Filter(Vec<sock_filter>);

impl Filter {
    pub fn compile() -> Result<Self, Step> {
        let allowed: BTreeSet<u32> = plain().into_iter().map(|(_, number)| number as u32).collect();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for number in 0..=NEWEST_KNOWN {
            let verdict = if allowed.contains(&number) { ALLOW } else { REFUSE };
            if ranges.last().is_none_or(|(_, last)| *last != verdict) {
                ranges.push((number, verdict));
            }
        }
        let mut program = vec![
            step(LOAD, ARCHITECTURE, 0, 0),
            step(EQUAL, NATIVE, 1, 0),
            step(RETURN, KILL, 0, 0),
            step(LOAD, NUMBER, 0, 0),
            step(EQUAL, libc::SYS_clone3 as u32, 1, 0),
            // x32 calls have bit 30 set and end here too.
            step(GREATER, NEWEST_KNOWN, 0, 1),
            step(RETURN, UNKNOWN, 0, 0),
        ];
        for ((_, number), argument) in conditional() {
            let block = check(&argument);
            program.push(step(EQUAL, number as u32, 0, block.len() as u8));
            program.extend(block);
        }
        program.extend(search(&ranges)?);
        Ok(Self(program))
    }

    pub fn program(&self) -> &[sock_filter] {
        &self.0
    }
}

#[cfg(test)]
mod tests;
