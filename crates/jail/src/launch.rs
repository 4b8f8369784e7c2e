//! Starts one jail: the half that stays outside.
//!
//! The order is the design. The child is born in all its namespaces and in its version 2 cgroup, and then waits:
//! nothing of it runs before its ids are mapped, and it joins its limits before it touches the volume. Whatever
//! fails, on either side, is one [`Step`] and no process is left. What the child does is in `child` and `root`.

mod child;
mod etc;
pub mod network;
mod root;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

pub use self::etc::write_names;
use crate::cgroup::Group;
use crate::seccomp::Filter;
use crate::step::{At, Step};
use crate::sys::{self, Forked};

/// Ids of one jail: 0 to 65535 inside.
pub const IDS: u32 = 65536;
/// The user everything of the agent runs as; the image holds it.
pub const AGENT: u32 = 1000;
/// A set-up that takes longer is stuck in the kernel; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Made once per jailer process.
pub struct Launcher {
    filter: Filter,
    network: network::Network,
    host_binary: PathBuf,
}

/// The two detached trees a root is laid over; see `volume`.
pub struct Trees {
    pub lower: OwnedFd,
    pub upper: OwnedFd,
}

pub struct Order<'a> {
    pub hostname: &'a str,
    pub allow_root: bool,
    /// Outside id of root inside.
    pub first_id: u32,
    /// Becomes descriptor 3 of the host.
    pub listener: BorrowedFd<'a>,
    /// Where the gateway puts this jail's socket; appears inside, read-only.
    pub gateway: &'a Path,
    pub group: &'a Group,
}

pub struct Started {
    pub pid: i32,
    pub start_time: u64,
    pub pidfd: OwnedFd,
    /// What the host wrote to stderr: memory of the jail itself, so it cannot fill the machine.
    pub output: OwnedFd,
    /// Microseconds of each step, for the log.
    pub timings: Timings,
}

/// How long each step took, in order.
#[derive(Debug, Default)]
pub struct Timings(Vec<(&'static str, u128)>);

impl Timings {
    fn lap(&mut self, step: &'static str, since: &mut Instant) {
        let now = Instant::now();
        self.0.push((step, now.duration_since(*since).as_micros()));
        *since = now;
    }
}

impl std::fmt::Display for Timings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|(step, micros)| write!(f, "{step} {micros}µs "))
    }
}

impl Launcher {
    pub fn new(host_binary: PathBuf) -> Result<Self, Step> {
        Ok(Self { filter: Filter::compile()?, network: network::Network::new(), host_binary })
    }

    /// `trees` is called with the jail's user namespace once that maps ids. The working directory of this process
    /// must hold the mount points of [`crate::jailer`]'s run directory: the child finds them by it.
    pub fn start(
        &self,
        order: &Order<'_>,
        trees: impl FnOnce(BorrowedFd<'_>) -> Result<Trees, Step>,
    ) -> Result<Started, Step> {
        let mut timings = Timings::default();
        let mut since = Instant::now();
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .at("make the launch socket")?;
        let output = rustix::fs::memfd_create("host-output", rustix::fs::MemfdFlags::CLOEXEC)
            .at("make the host's output")?;
        rustix::fs::fcntl_setfl(&output, rustix::fs::OFlags::APPEND).at("make the host's output")?;
        // The child sees this one file and this one directory of the machine and no path to them.
        let host = tree_of(&self.host_binary, sys::Executables::Run)?;
        let gateway = tree_of(order.gateway, sys::Executables::No)?;
        let unified = order.group.unified_fd()?;
        let doors = order.group.doors()?;

        let namespaces = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        // SAFETY: the jailer is single-threaded, and `child::run` never returns.
        let forked = unsafe { sys::fork(namespaces as u64, unified.as_ref().map(AsFd::as_fd)) };
        let (pid, pidfd) = match forked.at("clone")? {
            Forked::Child => {
                drop(ours);
                child::run(&child::Birth { launcher: self, order, parent: theirs, output, doors })
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop((theirs, doors));
        let unborn = Unborn { pidfd: Some(pidfd) };
        timings.lap("clone", &mut since);

        let map = format!("0 {} {IDS}\n", order.first_id);
        for file in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{pid}/{file}"), &map).at_with(|| format!("write {file}"))?;
        }
        let userns = std::fs::File::open(format!("/proc/{pid}/ns/user")).at("open the user namespace")?;
        timings.lap("map ids", &mut since);
        let trees = trees(userns.as_fd())?;
        timings.lap("volume", &mut since);
        send(&ours, b"trees", &[trees.lower.as_fd(), trees.upper.as_fd(), host.as_fd(), gateway.as_fd()])?;
        drop((trees, host, gateway));
        let start_time =
            sys::start_time(pid).ok_or_else(|| Step::failed("read the start time", "the child is gone"))?;
        wait_for_exec(&ours)?;
        timings.lap("root and exec", &mut since);
        Ok(Started { pid, start_time, pidfd: unborn.born(), output, timings })
    }
}

/// A detached read-only mount of what is at a path.
fn tree_of(path: &Path, executables: sys::Executables) -> Result<OwnedFd, Step> {
    use rustix::mount::OpenTreeFlags as F;
    let step = || format!("open {}", path.display());
    let tree = rustix::mount::open_tree(rustix::fs::CWD, path, F::OPEN_TREE_CLONE | F::OPEN_TREE_CLOEXEC)
        .map_err(|e| Step::refused(step(), e))?;
    sys::make_read_only(tree.as_fd(), executables)
        .at_with(|| format!("make {} read-only", path.display()))?;
    Ok(tree)
}

/// A child that is not a jail yet: killed and reaped when its launch fails.
struct Unborn {
    pidfd: Option<OwnedFd>,
}

impl Unborn {
    fn born(mut self) -> OwnedFd {
        self.pidfd.take().unwrap_or_else(|| unreachable!("taken once"))
    }
}

impl Drop for Unborn {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
            sys::reap(pidfd.as_fd());
        }
    }
}

fn send(to: &OwnedFd, word: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Step> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(to, &[IoSlice::new(word)], &mut control, SendFlags::NOSIGNAL)
        .map(drop)
        // Better than that nobody listens is why not.
        .map_err(|e| said(to).unwrap_or_else(|| Step::failed("tell the child", e)))
}

/// The failure the child reported, if it is there to be read.
fn said(from: &OwnedFd) -> Option<Step> {
    let mut buffer = [0u8; 4096];
    let (n, _) = rustix::net::recv(from, &mut buffer, rustix::net::RecvFlags::DONTWAIT).ok()?;
    child::failure(&buffer[..n])
}

/// The child's end closes with a successful exec: after its last word, and without a failure behind it.
fn wait_for_exec(from: &OwnedFd) -> Result<(), Step> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let begun = Instant::now();
    let mut ready = false;
    loop {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let left = Timespec::try_from(left).at("wait for the child")?;
        match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(Step::failed("set up the jail", "the child did not finish in 10 s")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(Step::failed("wait for the child", e)),
        }
        let mut buffer = [0u8; 4096];
        let (n, _) =
            rustix::net::recv(from, &mut buffer, rustix::net::RecvFlags::empty()).at("wait for the child")?;
        match &buffer[..n] {
            [] if ready => return Ok(()),
            [] => return Err(Step::failed("set up the jail", "the child died")),
            word if word == child::READY => ready = true,
            word => {
                let other = || Step::failed("set up the jail", "the child said something else");
                return Err(child::failure(word).unwrap_or_else(other));
            }
        }
    }
}
