//! The jailer: the one privileged process, which starts, watches and ends jails on request.
//!
//! One thread and one loop, because it forks. A request is a few milliseconds of system calls done in place; what
//! takes longer (imports, deletions, syncs) goes to a forked [`helper`], and what waits (a jail that is ending) waits
//! in the loop. Nothing here speaks a network protocol, and nothing in a request names a path.
//!
//! Jails outlive it: what it knows of each is on disk before it acts, and the next jailer takes over from there.

mod conn;
mod helper;
mod lifecycle;
mod reconcile;
mod record;
mod requests;
mod warm;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::fs::{FlockOperation, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use wharf_domain::image::ImageRef;
use wharf_domain::{JailId, SessionId, SnapshotId, VolumeId};
use wharf_wire::jailer::{Fault, Reply, Request};

use self::conn::Conn;
use self::helper::Helper;
pub use self::reconcile::FOREIGN;
use self::record::Record;
use crate::cgroup::{Cgroups, Group};
use crate::fences::Fences;
use crate::launch::Launcher;
pub use crate::settings::JailerSettings;
use crate::step::{At, Step};
use crate::sys;
use crate::volume::Pool;

/// More callers than a control plane keeps connections; one over it is turned away at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a new jailer waits for the one before it to be gone: a helper of it may be in the kernel, at a busy disk.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// What a jail gets between SIGTERM and SIGKILL when the jailer goes and takes its jails along.
const FAREWELL: Duration = Duration::from_secs(3);

type ConnId = u64;

/// What a descriptor the loop watches belongs to.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Conn(ConnId),
    Jail(JailId),
    Helper(u64),
}

/// How far a jail's end has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It runs.
    Up,
    /// SIGTERM was sent.
    Asked { kill_at: Instant },
    /// SIGKILL was sent, or its init is gone; what is left of its groups is removed.
    Killed { since: Instant },
}

/// What happens once a jail is gone.
enum Waiting {
    Answer(ConnId),
    /// Said again, as if it came only now.
    Again(ConnId, Box<Request>),
}

struct Jail {
    record: Record,
    pidfd: OwnedFd,
    group: Group,
    output: Option<OwnedFd>,
    end: End,
    waiting: Vec<Waiting>,
}

/// What a helper's answer is for.
enum Task {
    /// Hand the answer on; the volume is free again for others.
    Plain,
    DeleteVolume(VolumeId),
    DeleteImage(ImageRef),
    Snapshot {
        volume: VolumeId,
        snapshot: SnapshotId,
    },
}

struct Jailer {
    settings: JailerSettings,
    pool: Pool,
    cgroups: Cgroups,
    launcher: Launcher,
    fences: Fences,
    boot: String,
    own_uts: std::fs::File,
    epoll: OwnedFd,
    listener: OwnedFd,
    signals: OwnedFd,
    sources: HashMap<u64, Source>,
    next_token: u64,
    conns: HashMap<ConnId, Conn>,
    jails: HashMap<JailId, Jail>,
    by_session: HashMap<SessionId, JailId>,
    by_volume: HashMap<VolumeId, JailId>,
    slots: BTreeSet<u32>,
    helpers: HashMap<u64, (Helper, Task, ConnId)>,
    /// Volumes a helper works on.
    held: HashSet<VolumeId>,
    /// Images a helper removes: nothing may begin to stand on them.
    doomed: HashSet<ImageRef>,
    warm: warm::Warm,
    leaving: bool,
}

/// Runs until SIGTERM or SIGINT. Takes the whole process: its working directory, signals and mount namespace. `ready`
/// is called once requests are answered.
pub fn run(settings: JailerSettings, ready: impl FnOnce()) -> Result<(), Step> {
    settings.validate()?;
    let _lock = take_run_dir(&settings)?;
    let mut jailer = Jailer::open(settings)?;
    jailer.reconcile()?;
    tracing::info!(
        cgroups = jailer.cgroups.kind(),
        volumes = jailer.pool.driver().as_str(),
        adopted = jailer.jails.len(),
        socket = %jailer.settings.socket().display(),
        "jailer ready"
    );
    ready();
    let result = jailer.serve();
    if jailer.jails.is_empty() {
        jailer.cgroups.close();
    }
    let _ = std::fs::remove_file(jailer.settings.socket());
    result
}

/// Makes the run directory and holds it against another jailer.
fn take_run_dir(settings: &JailerSettings) -> Result<OwnedFd, Step> {
    use std::os::unix::fs::PermissionsExt;
    let run = &settings.run_dir;
    for (directory, mode) in [
        ("", 0o711),
        // The control plane looks in for jails that come and go; nobody else passes.
        ("jails", 0o750),
        ("mnt", 0o711),
        ("mnt/lower", 0o755),
        ("mnt/upper", 0o755),
        ("mnt/root", 0o755),
    ] {
        let path = run.join(directory);
        std::fs::create_dir_all(&path).at_with(|| format!("make {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .at("chmod the run directory")?;
    }
    // The gateway looks there for jails, and hears of new ones; nobody else of the machine may.
    std::os::unix::fs::chown(run.join("jails"), None, Some(settings.control_gid))
        .at("give the jails' directory to the control plane's group")?;
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let lock =
        rustix::fs::open(run.join("jailer.lock"), flags, Mode::from_raw_mode(0o600)).at("open the lock")?;
    let begun = Instant::now();
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if begun.elapsed() > LOCK_PATIENCE {
            return Err(Step::refused(
                "lock the run directory",
                format!("another jailer runs on {}", run.display()),
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(lock)
}

impl Jailer {
    fn open(settings: JailerSettings) -> Result<Self, Step> {
        let pool = Pool::open(&settings.pool)?;
        // After the pool moved us to a mount namespace of its own. Children find their mount points by it.
        rustix::process::chdir(settings.run_dir.join("mnt")).at("enter the run directory")?;
        let cgroups = Cgroups::open(&settings.cgroup_parent)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).at("make the event loop")?;
        let signals = sys::signal_fd().at("take signals")?;
        let listener = listen(&settings.socket(), settings.control_uid, settings.control_gid)?;
        let launcher = Launcher::new(settings.host_binary.clone())?;
        let fences = Fences::open(settings.pool.data_dir.join("fences"))?;
        let own_uts = std::fs::File::open("/proc/self/ns/uts").at("open the host name namespace")?;
        let warm = warm::Warm::open(&settings.run_dir)?;
        let mut jailer = Self {
            pool,
            cgroups,
            launcher,
            fences,
            boot: sys::boot_id()?,
            own_uts,
            epoll,
            listener,
            signals,
            sources: HashMap::new(),
            next_token: 0,
            conns: HashMap::new(),
            jails: HashMap::new(),
            by_session: HashMap::new(),
            by_volume: HashMap::new(),
            slots: BTreeSet::new(),
            helpers: HashMap::new(),
            held: HashSet::new(),
            doomed: HashSet::new(),
            warm,
            leaving: false,
            settings,
        };
        jailer.watch_own(Source::Listener)?;
        jailer.watch_own(Source::Signals)?;
        Ok(jailer)
    }

    fn token(&mut self, source: Source) -> u64 {
        self.next_token += 1;
        self.sources.insert(self.next_token, source);
        self.next_token
    }

    fn watch_own(&mut self, source: Source) -> Result<(), Step> {
        let token = self.token(source);
        let fd = if matches!(source, Source::Listener) { &self.listener } else { &self.signals };
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN).at("watch")
    }

    fn serve(&mut self) -> Result<(), Step> {
        let mut events = Vec::with_capacity(64);
        loop {
            let wait = self.tick();
            if self.leaving && (!self.settings.stop_jails_on_exit || self.jails.is_empty()) {
                return Ok(());
            }
            let wait = wait.map(|d| rustix::event::Timespec::try_from(d).unwrap_or_default());
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Step::failed("wait for events", error)),
            }
            for event in &events {
                let (token, flags) = (event.data.u64(), event.flags);
                // A source may have gone with an event before this one.
                let Some(source) = self.sources.get(&token).copied() else { continue };
                match source {
                    Source::Listener => self.accept(),
                    Source::Signals => self.signalled(),
                    Source::Conn(id) => self.conn_event(id, flags),
                    Source::Jail(id) => self.init_ended(id, token),
                    Source::Helper(id) => self.helper_event(id, token),
                }
            }
        }
    }

    /// What time itself brings. Answers how long nothing will happen by itself; `None` is for ever.
    fn tick(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let mut next = self.advance_ends(now);
        if !self.leaving {
            next = [next, self.refill(now)].into_iter().flatten().min();
        }
        next
    }

    fn signalled(&mut self) {
        let mut info = [0u8; 128];
        let _ = rustix::io::read(&self.signals, &mut info);
        if self.leaving {
            return;
        }
        self.leaving = true;
        let stop = self.settings.stop_jails_on_exit;
        tracing::info!(jails = self.jails.len(), stop, "jailer leaves");
        if stop {
            let all: Vec<JailId> = self.jails.keys().copied().collect();
            for jail in all {
                self.ask_to_end(jail, FAREWELL);
            }
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return };
        let caller = rustix::net::sockopt::socket_peercred(&socket).ok().map(|c| c.uid.as_raw());
        let refusal = match caller {
            Some(uid) if uid == 0 || uid == self.settings.control_uid => None,
            _ => Some("this user may not talk to the jailer".to_owned()),
        };
        let refusal = refusal.or_else(|| {
            (self.conns.len() >= MAX_CONNECTIONS).then(|| format!("more than {MAX_CONNECTIONS} connections"))
        });
        let mut conn = Conn::new(socket);
        if let Some(why) = refusal {
            tracing::warn!(uid = ?caller, why, "turned a caller away");
            conn.reply(&Reply::Fault(Fault::Refused(why)));
            conn.flush();
            return;
        }
        self.next_token += 1;
        let id = self.next_token;
        self.sources.insert(id, Source::Conn(id));
        if epoll::add(&self.epoll, &conn.socket, epoll::EventData::new_u64(id), epoll::EventFlags::IN).is_ok()
        {
            self.conns.insert(id, conn);
        }
    }

    fn conn_event(&mut self, id: ConnId, flags: epoll::EventFlags) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.busy && flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            return self.hang_up(id);
        }
        let mut read = if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP) {
            conn.fill()
        } else {
            conn.next()
        };
        loop {
            match read {
                conn::Read::Closed => return self.hang_up(id),
                conn::Read::Nothing => break,
                conn::Read::Request(request) => self.handle(id, *request),
            }
            let Some(conn) = self.conns.get_mut(&id) else { return };
            read = conn.next();
        }
        self.settle(id);
    }

    /// Sends what is to be sent and watches for what can come next.
    fn settle(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !conn.flush() {
            return self.hang_up(id);
        }
        let mut interest = epoll::EventFlags::empty();
        if !conn.busy {
            interest |= epoll::EventFlags::IN;
        }
        if conn.wants_to_write() {
            interest |= epoll::EventFlags::OUT;
        }
        let _ = epoll::modify(&self.epoll, &conn.socket, epoll::EventData::new_u64(id), interest);
    }

    fn hang_up(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.remove(&id) {
            self.sources.remove(&id);
            let _ = epoll::delete(&self.epoll, &conn.socket);
            // A helper at work holds a copy of the descriptor; the caller is to see the end now.
            let _ = rustix::net::shutdown(&conn.socket, rustix::net::Shutdown::Both);
        }
    }

    /// Answers a request that was left open; a caller who is gone is no matter.
    fn answer(&mut self, id: ConnId, reply: &Reply) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.reply(reply);
            self.settle_and_go_on(id);
        }
    }

    /// As [`Self::settle`], then the request that already waits behind, if one does.
    fn settle_and_go_on(&mut self, id: ConnId) {
        self.settle(id);
        while let Some(conn::Read::Request(request)) = self.conns.get_mut(&id).map(Conn::next) {
            self.handle(id, *request);
            self.settle(id);
        }
    }
}

/// A unix socket only its owner may use. What lies at the path is of an earlier life and goes.
fn listen(path: &std::path::Path, uid: u32, gid: u32) -> Result<OwnedFd, Step> {
    let step = || format!("listen on {}", path.display());
    let _ = std::fs::remove_file(path);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).at_with(step)?;
    // The mode is right from the first moment: an umask, since a later chmod would leave a gap.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = SocketAddrUnix::new(path).and_then(|address| rustix::net::bind(&socket, &address));
    rustix::process::umask(before);
    bound.at_with(step)?;
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).at_with(step)?;
    rustix::net::listen(&socket, 128).at_with(step)?;
    Ok(socket)
}
