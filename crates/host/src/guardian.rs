//! A process above an agent, so that everything the agent starts ends with it, wherever in the tree it went.
//!
//! It is a copy of the host that never runs another program: between the host and the agent, the subreaper of all below. What
//! leaves its group and its session and loses its parent becomes its child and not the host's, so it stays known whose it is.
//! When the agent has ended, in whatever way, it ends all that is left and then itself, in the way the agent did. It listens to
//! nobody and refuses signals that can be refused.
//!
//! Of a command that an agent runs through the host it only keeps account while the command runs: what the command leaves
//! behind when it ends by itself may go on.

use std::io;

/// Descriptors closed one by one where the kernel cannot close them all.
const DESCRIPTORS: i32 = 65_536;

/// What becomes of the rest when the first has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// It ends too.
    Ends,
    /// It goes on, as the host's.
    Leaves,
}

/// Called between fork and exec. Returns in the process that is to become the agent; the caller stays above it for good.
///
/// # Safety
/// Only in a process that was just forked and has one thread: nothing may be relied on but system calls.
pub(crate) unsafe fn stay_above(guard: Guard, in_jail: bool) -> io::Result<()> {
    // SAFETY: system calls with numbers alone. A raw clone without a stack is a fork: the one thread goes on in both, and the
    // handlers a C library would run around it are for threads and locks that a forked process does not have.
    let child = unsafe {
        if libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        if !in_jail && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::syscall(libc::SYS_clone, libc::c_long::from(libc::SIGCHLD), 0, 0, 0, 0)
    };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(()),
        // SAFETY: as the caller promises.
        agent => unsafe { watch(agent as i32, guard) },
    }
}

/// # Safety
/// As [`stay_above`].
unsafe fn watch(agent: i32, guard: Guard) -> ! {
    // SAFETY: system calls on numbers and on memory of this frame; nothing here allocates or takes a lock.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE, libc::SIGTSTP]
        {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::setsid();
        // Streams of the agent end with it, and whoever started it waits for the end of a pipe that this has too.
        if libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) != 0 {
            for fd in 0..DESCRIPTORS {
                libc::close(fd);
            }
        }
        libc::prctl(libc::PR_SET_NAME, c"wharf-guardian".as_ptr());
        let mut end = 0;
        loop {
            let mut status = 0;
            let pid = libc::waitpid(-1, &raw mut status, 0);
            if pid == agent {
                end = status;
                break;
            }
            if pid < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                break;
            }
        }
        // Children of what is ended become children of this one before it is collected, so each round goes a layer deeper
        // until there is none.
        while guard == Guard::Ends && end_children() {
            let mut status = 0;
            if libc::waitpid(-1, &raw mut status, 0) < 0
                && io::Error::last_os_error().raw_os_error() != Some(libc::EINTR)
            {
                break;
            }
        }
        leave(end)
    }
}

/// False where the kernel does not tell who they are.
///
/// # Safety
/// As [`stay_above`].
unsafe fn end_children() -> bool {
    // SAFETY: a path that lives as long as the program, a buffer of this frame, and numbers.
    unsafe {
        let fd = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return false;
        }
        let mut buffer = [0_u8; 1024];
        let mut pid = 0_i32;
        loop {
            let n = libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len());
            let Some(read) = usize::try_from(n).ok().and_then(|n| buffer.get(..n)) else { break };
            for byte in read {
                if byte.is_ascii_digit() {
                    pid = pid.wrapping_mul(10).wrapping_add(i32::from(byte - b'0'));
                } else if pid > 0 {
                    libc::kill(pid, libc::SIGKILL);
                    pid = 0;
                }
            }
            if read.is_empty() {
                break;
            }
        }
        if pid > 0 {
            libc::kill(pid, libc::SIGKILL);
        }
        libc::close(fd);
    }
    true
}

/// Ends as the agent did.
///
/// # Safety
/// As [`stay_above`].
unsafe fn leave(status: i32) -> ! {
    // SAFETY: system calls on numbers and a structure of this frame.
    unsafe {
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::signal(signal, libc::SIG_DFL);
            libc::kill(libc::getpid(), signal);
        }
        libc::_exit(libc::WEXITSTATUS(status))
    }
}
