//! The half of a launch that becomes the jail: from the first instruction after clone to exec.
//!
//! Runs in a forked copy of the jailer. Allocates freely (the jailer has one thread, so no lock is held), logs
//! nothing, and ends in exec or `_exit` with its failure on the socket.

use std::convert::Infallible;
use std::ffi::CStr;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Resource, Rlimit};

use super::{AGENT, Launcher, Order, etc, network, root};
use crate::step::{At, Step};
use crate::sys;

/// What a container may have: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service,
/// net_raw, sys_chroot, audit_write, setfcap. All of it counts inside the jail's user namespace only.
const CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 13
    | 1 << 18
    | 1 << 29
    | 1 << 31;
/// Chromium and language servers open thousands; a machine may allow fewer.
const OPEN_FILES: u64 = 1 << 20;
/// The last word before exec: the end of the socket means success only after it.
pub(super) const READY: &[u8] = b"exec";
const LISTENER: i32 = 3;
const PARENT: i32 = 4;

pub(super) struct Birth<'a> {
    pub launcher: &'a Launcher,
    pub order: &'a Order<'a>,
    pub parent: OwnedFd,
    pub output: OwnedFd,
    pub doors: Vec<std::fs::File>,
}

pub(super) fn run(birth: &Birth<'_>) -> ! {
    let parent = birth.parent.as_raw_fd();
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| become_jail(birth)));
    let failure = match failed {
        Ok(Err(step)) => step,
        Ok(Ok(never)) => match never {},
        Err(_) => Step::failed("set up the jail", "a bug: the child panicked"),
    };
    report(parent, &failure);
    sys::exit(1)
}

/// `kind`, step and cause, one byte and two NUL-separated strings.
fn report(parent: i32, failure: &Step) {
    let refused = failure.kind == crate::step::Kind::Refused;
    let mut text = vec![if refused { b'R' } else { b'F' }];
    text.extend(failure.step.as_bytes());
    text.push(0);
    text.extend(failure.cause.as_bytes());
    text.truncate(4000);
    // The socket may be where it was born or already at its last place.
    for fd in [PARENT, parent] {
        // SAFETY: both numbers stay open until exec or exit.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        if rustix::net::send(socket, &text, rustix::net::SendFlags::NOSIGNAL).is_ok() {
            return;
        }
    }
}

pub(super) fn failure(bytes: &[u8]) -> Option<Step> {
    let (kind, text) = bytes.split_first()?;
    let text = String::from_utf8_lossy(text);
    let (step, cause) = text.split_once('\0').unwrap_or((&text, "unknown"));
    match kind {
        b'R' => Some(Step::refused(step.to_owned(), cause)),
        b'F' => Some(Step::failed(step.to_owned(), cause)),
        _ => None,
    }
}

fn become_jail(birth: &Birth<'_>) -> Result<Infallible, Step> {
    let order = birth.order;
    let trees = receive_trees(&birth.parent)?;
    crate::cgroup::enter(&birth.doors)?;
    // All trees are joined, so that the jail sees itself at the top of each.
    sys::unshare(libc::CLONE_NEWCGROUP).at("make the cgroup namespace")?;
    sys::become_user(0, 0).at("become root of the jail")?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).at("forbid tracing")?;
    sys::setsid().at("start a session")?;
    rustix::system::sethostname(order.hostname.as_bytes()).at("set the host name")?;
    birth.launcher.network.lay()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));

    root::lay_out(&trees, (!order.allow_root).then_some(AGENT))?;
    drop(trees);
    network::open_low_ports()?;
    root::hide()?;
    etc::write_names(rustix::fs::CWD, order.hostname)?;
    etc::write_resolver(rustix::fs::CWD)?;

    limit_files()?;
    arrange(birth)?;
    sys::default_signals();
    let home = drop_rights(birth)?;
    // SAFETY: arranged above; it ends with exec.
    let parent = unsafe { BorrowedFd::borrow_raw(PARENT) };
    rustix::net::send(parent, READY, rustix::net::SendFlags::NOSIGNAL).at("report")?;
    let environment = [
        c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        home,
        c"LANG=C.UTF-8",
        c"container=wharf",
    ];
    let error = sys::exec(root::HOST, &[c"wharf-host"], &environment);
    Err(Step::failed("exec wharf-host", error))
}

fn receive_trees(parent: &OwnedFd) -> Result<[OwnedFd; 4], Step> {
    let step = "receive the volume";
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0u8; 16];
    let got = rustix::net::recvmsg(
        parent,
        &mut [IoSliceMut::new(&mut word)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .at(step)?;
    if got.bytes == 0 {
        // The jailer is gone or gave up: there is nobody to tell.
        sys::exit(1);
    }
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|m| if let RecvAncillaryMessage::ScmRights(fds) = m { Some(fds) } else { None })
        .flatten()
        .collect();
    fds.try_into().map_err(|_| Step::failed(step, "four trees were promised"))
}

/// Never above the hard limit at hand: raising it needs a right the jailer may lack.
fn limit_files() -> Result<(), Step> {
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES);
    let files = Some(hard.min(OPEN_FILES));
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })
        .at("limit open files")?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .at("forbid core dumps")
}

/// 0 and 1 nowhere, 2 the bounded output, 3 the listener, 4 the way back (closed by exec), nothing else.
fn arrange(birth: &Birth<'_>) -> Result<(), Step> {
    let step = "arrange descriptors";
    let devnull = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())
        .at("open /dev/null")?;
    let aside = |fd: BorrowedFd<'_>| sys::out_of_the_way(fd).at(step);
    let (null, output, listener, parent) = (
        aside(devnull.as_fd())?,
        aside(birth.output.as_fd())?,
        aside(birth.order.listener)?,
        aside(birth.parent.as_fd())?,
    );
    std::mem::forget(devnull); // closed below with all the rest
    for (from, to, closing) in [
        (null, 0, false),
        (null, 1, false),
        (output, 2, false),
        (listener, LISTENER, false),
        (parent, PARENT, true),
    ] {
        sys::dup_to(from, to, closing).at(step)?;
    }
    sys::close_from(PARENT + 1).at(step)
}

/// Gives up everything a jail does not have. Answers the home of who is left.
fn drop_rights(birth: &Birth<'_>) -> Result<&'static CStr, Step> {
    let keep = if birth.order.allow_root { CAPABILITIES } else { 0 };
    for capability in 0..64 {
        if keep >> capability & 1 == 0 && sys::prctl(libc::PR_CAPBSET_DROP, capability, 0).is_err() {
            break; // above the newest this kernel knows
        }
    }
    if birth.order.allow_root {
        // Installed while the right to do so is still there: without no_new_privs, so that sudo works inside.
        sys::install_filter(birth.launcher.filter.program()).at("install the seccomp filter")?;
        sys::set_capabilities(CAPABILITIES).at("drop capabilities")?;
        return Ok(c"HOME=/root");
    }
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at("set no_new_privs")?;
    sys::become_user(AGENT, AGENT).at("become the agent")?;
    sys::set_capabilities(0).at("drop capabilities")?;
    sys::install_filter(birth.launcher.filter.program()).at("install the seccomp filter")?;
    Ok(c"HOME=/home/agent")
}
