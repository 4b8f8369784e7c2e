//! The operator role: wakes, times and looks around; the rest is in the reconciler and the driver.
//!
//! Nothing here is found by polling. Wake-ups and timers start a reconciler for one session; a slow look at the
//! runtime's inventory finds computers that ended by themselves and things nobody knows.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wharf_chassis::Stop;
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::{Error, Name, OperatorId, SessionId, Time};
use wharf_ports::{Runtimes, Topic, Wake};
use wharf_store::agents::work::BuildWork;
use wharf_store::sessions::work::{Owner, Work};
use wharf_store::{Actor, Store};

use crate::host::HostPort;
use crate::reconcile::Next;
use crate::slot::Slots;
use crate::timers::Timers;

/// What an operator is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Stable over restarts on one machine: leases of an earlier start here are taken over at once.
    pub machine: String,
    /// Computers of an image that stand ready.
    pub warm: Vec<(Name, u32)>,
    /// Sessions reconciled at the same time.
    pub parallel: usize,
    /// Between two looks at the runtime's inventory.
    pub look_around: Duration,
    /// How long rows of deleted sessions and snapshots are kept.
    pub keep_deleted: Duration,
    pub builds: Builds,
}

/// What builds are held to.
#[derive(Clone, Debug)]
pub struct Builds {
    /// At the same time.
    pub parallel: usize,
    /// Of one space at the same time.
    pub per_space: u32,
    /// What the commands of one may take.
    pub max_seconds: u32,
    /// The most a package may ask for.
    pub max_resources: Resources,
}

impl Default for Builds {
    fn default() -> Self {
        let most = u32::MAX;
        Self {
            parallel: 8,
            per_space: 2,
            max_seconds: 3600,
            max_resources: Resources { cpu_millis: most, memory_mib: most, disk_mib: most, pids: most },
        }
    }
}

impl Settings {
    pub fn of(machine: impl Into<String>) -> Self {
        Self {
            machine: machine.into(),
            warm: Vec::new(),
            parallel: 64,
            look_around: Duration::from_secs(10),
            keep_deleted: Duration::from_hours(24 * 7),
            builds: Builds::default(),
        }
    }
}

pub(crate) struct Inner {
    pub work: Work,
    pub builds: BuildWork,
    pub runtimes: Runtimes,
    pub host: Arc<dyn HostPort>,
    pub slots: Slots,
    pub settings: Settings,
    timers: Timers,
    turns: Semaphore,
    tasks: std::sync::Mutex<JoinSet<()>>,
    /// By runtime, the images for which computers stand ready where that was asked for; none when it has to be asked
    /// (again).
    pub known_images: std::sync::Mutex<HashMap<&'static str, Vec<ImageRef>>>,
    /// Nothing new is begun.
    ending: AtomicBool,
}

/// How long what is being done may take when the operator is told to stop; it is done anew by the next one otherwise.
const FINISH: Duration = Duration::from_secs(5);

/// Reconciles the sessions of all runtimes.
#[derive(Clone)]
pub struct Operator(Arc<Inner>);

impl Inner {
    pub fn now(&self) -> Time {
        self.work.store().now()
    }

    /// Looks at the session soon; many calls at once are one look.
    pub fn call(self: &Arc<Self>, id: SessionId) {
        if self.ending.load(Ordering::SeqCst) || !self.slots.call(id) {
            return;
        }
        let inner = self.clone();
        let mut tasks = self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move { inner.work_on(id).await });
    }

    async fn work_on(self: Arc<Self>, id: SessionId) {
        loop {
            let next = {
                let Ok(_turn) = self.turns.acquire().await else { return };
                let work = AssertUnwindSafe(self.reconcile(id)).catch_unwind();
                work.await.unwrap_or_else(|_| {
                    tracing::error!(session = %id, "a defect ended the work on a session; it is tried again");
                    self.slots.lose(id);
                    Next::After(Duration::from_secs(5))
                })
            };
            match next {
                Next::Rest => self.timers.clear(id),
                Next::At(at) => self.timers.set(id, at),
                Next::After(pause) => self.timers.set(id, self.now().plus(pause)),
            }
            if self.ending.load(Ordering::SeqCst) || self.slots.rest(id) {
                return;
            }
        }
    }
}

impl Operator {
    pub fn new(
        store: &Store,
        runtimes: impl Into<Runtimes>,
        host: Arc<dyn HostPort>,
        settings: Settings,
    ) -> Self {
        let owner = Owner { operator: OperatorId::new(), machine: settings.machine.clone() };
        Self(Arc::new(Inner {
            builds: store.system(Actor::Operator).builds(owner.operator),
            work: store.system(Actor::Operator).work(owner),
            runtimes: runtimes.into(),
            host,
            slots: Slots::default(),
            timers: Timers::default(),
            turns: Semaphore::new(settings.parallel),
            tasks: std::sync::Mutex::default(),
            known_images: std::sync::Mutex::default(),
            ending: AtomicBool::new(false),
            settings,
        }))
    }

    /// Runs until told to drain. Turns that run then run on in their hosts; the next operator reads on.
    pub async fn run(self, stop: Stop) -> Result<(), Error> {
        let inner = self.0.clone();
        let _ends = AbortOnDrop(inner.clone());
        let mut wakes = inner.work.store().bus().subscribe();
        self.begin(&stop).await;
        let mut around = tokio::spawn({
            let (inner, stop) = (inner.clone(), stop.clone());
            async move { inner.look_around_forever(stop).await }
        });
        let renew = tokio::spawn({
            let inner = inner.clone();
            async move { inner.renew_forever().await }
        });
        let builds = tokio::spawn(crate::builds::run(inner.clone(), stop.clone()));
        let _children = AbortAll(vec![around.abort_handle(), renew.abort_handle(), builds.abort_handle()]);
        loop {
            let (due, next) = inner.timers.due(inner.now());
            for id in due {
                inner.call(id);
            }
            let pause = next
                .map_or(Duration::from_hours(1), |at| at.since(inner.now()).max(Duration::from_millis(1)));
            tokio::select! {
                () = stop.draining() => break,
                wake = wakes.next() => match wake {
                    Some(Wake::Topic(Topic::Session(id))) => inner.call(id),
                    Some(Wake::Topic(_)) => {}
                    Some(Wake::Missed) => inner.call_all().await,
                    None => break,
                },
                () = tokio::time::sleep(pause) => {}
                () = inner.timers.nearer.notified() => {}
                _ = &mut around => return Err(Error::internal("the operator's look-around ended")),
            }
        }
        inner.finish().await;
        // They give back what they are at.
        let _ = tokio::time::timeout(FINISH, builds).await;
        inner.work.release_all().await
    }

    /// The first look, repeated until runtime and database are there.
    async fn begin(&self, stop: &Stop) {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.0.first_look().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "the operator cannot start yet; it tries again");
                    if stop.or_drain(tokio::time::sleep(pause)).await.is_none() {
                        return;
                    }
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        }
    }
}

impl Inner {
    /// Lets reconcilers end what they are at, and drivers stop where they are: turns run on in their hosts.
    async fn finish(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.slots.abort_all();
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH, all).await.is_err() {
            tasks.shutdown().await;
        }
    }

    /// Extends the leases of what is worked on. Asleep while there is nothing.
    async fn renew_forever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(wharf_store::sessions::work::LEASE / 3).await;
            let held = self.slots.held();
            if held.is_empty() {
                continue;
            }
            match self.work.renew(&held).await {
                Ok(kept) => {
                    for (id, _) in held.into_iter().filter(|(id, _)| !kept.contains(id)) {
                        self.call(id);
                    }
                }
                Err(error) => tracing::warn!(%error, "leases were not renewed"),
            }
        }
    }

    pub(crate) async fn call_all(self: &Arc<Self>) {
        match self.work.alive().await {
            Ok(alive) => alive.into_iter().for_each(|a| self.call(a.id)),
            Err(error) => {
                tracing::warn!(%error, "sessions could not be listed; the next look around lists them");
            }
        }
    }
}

/// Whatever the operator started ends with it: what is half done is done anew by the next one.
struct AbortOnDrop(Arc<Inner>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.ending.store(true, Ordering::SeqCst);
        self.0.slots.abort_all();
        self.0.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).abort_all();
    }
}

struct AbortAll(Vec<tokio::task::AbortHandle>);

impl Drop for AbortAll {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}
