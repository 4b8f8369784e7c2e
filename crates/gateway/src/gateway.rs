//! The role itself: what it is told, what its parts share, and its life.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_chassis::{Stop, settings};
use wharf_domain::{Error, Time};
use wharf_ports::Wake;
use wharf_ports::bus::Subscription;
use wharf_store::{Actor, Store, System};

use crate::connections::Connections;
use crate::dial::{Dialer, Resolve, Tls};
use crate::guards::Guards;
use crate::intercept::Faces;
use crate::jails;
use crate::line::{Log, Writer};
use crate::machine::{Interfaces, Machine};
use crate::models::Models;
use crate::sessions::Sessions;

/// How long tunnels and requests may take to end when the role is told to stop. Clients of the rest try again.
const FINISH: Duration = Duration::from_secs(5);
/// Lines removed in one statement, and the time between two looks.
const SWEEP: i64 = 5000;
const BETWEEN: Duration = Duration::from_secs(3600);

/// What a gateway is told at its start.
pub struct Parts {
    pub store: Store,
    /// One directory a jail, each with the directory `gateway` its socket goes to.
    pub jails: PathBuf,
    pub settings: settings::Gateway,
    pub resolver: Arc<dyn Resolve>,
    pub interfaces: Interfaces,
    /// How long lines of the egress log are kept.
    pub keep: Duration,
}

/// The way out of every session on this machine. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

pub struct Inner {
    pub(crate) system: System,
    pub(crate) sessions: Sessions,
    pub(crate) settings: settings::Gateway,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) tls: Tls,
    pub(crate) models: Models,
    pub(crate) connections: Connections,
    pub(crate) guards: Guards,
    pub(crate) faces: Faces,
    pub(crate) log: Log,
    /// What goes on after a request was answered: tunnels.
    pub(crate) tasks: TaskTracker,
    jails: PathBuf,
    /// How long lines of the egress log are kept.
    keep: Duration,
    writer: Mutex<Option<Writer>>,
    /// Wake-ups that requests must know of.
    unheard: Mutex<Subscription>,
}

impl std::ops::Deref for Gateway {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Gateway {
    /// Refuses a file of certificates it cannot read, and a machine whose addresses it cannot learn.
    pub fn new(parts: Parts) -> Result<Self, Error> {
        let system = parts.store.system(Actor::Gateway);
        let tls = Tls::load(parts.settings.ca_file.as_deref())?;
        let timeout = Duration::from_secs(parts.settings.connect_timeout_seconds.into());
        let machine = Machine::new(parts.interfaces)?;
        let dialer = Arc::new(Dialer::new(parts.resolver, machine, parts.settings.exceptions(), timeout));
        let unheard = Mutex::new(parts.store.bus().subscribe());
        let (log, writer) = Log::new(system.clone());
        Ok(Self(Arc::new(Inner {
            sessions: Sessions::new(system.clone()),
            connections: Connections::new(system.clone()),
            guards: Guards::new(system.clone()),
            faces: Faces::new(system.clone()),
            log,
            writer: Mutex::new(Some(writer)),
            unheard,
            keep: parts.keep,
            system,
            models: Models::new(&dialer, &tls),
            dialer,
            tls,
            tasks: TaskTracker::new(),
            jails: parts.jails,
            settings: parts.settings,
        })))
    }

    /// Serves every jail of the machine until told to drain; then nothing new is taken, and what runs gets a moment.
    /// Once.
    pub async fn run(self, stop: Stop) -> Result<(), Error> {
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Err(Error::internal("a gateway runs once"));
        };
        let last = CancellationToken::new();
        let written = tokio::spawn(writer.run(last.clone()));
        let hears = tokio::spawn(self.clone().hear());
        let sweeps = tokio::spawn(self.clone().sweep());
        let judges = tokio::spawn({
            let gateway = self.clone();
            async move { gateway.log.open().run(&gateway).await }
        });
        let _ends = [AbortOnDrop(hears.abort_handle()), AbortOnDrop(sweeps.abort_handle())];
        let served = jails::serve(&self, &self.0.jails, &stop).await;
        self.0.tasks.close();
        let _ = tokio::time::timeout(FINISH, self.0.tasks.wait()).await;
        // It holds lines while it counts them; the log is complete without it.
        judges.abort();
        let _ = judges.await;
        last.cancel();
        let _ = written.await;
        served
    }

    /// Removes old lines of the egress log.
    async fn sweep(self) {
        loop {
            let before =
                Time::from_millis(self.system.store().now().millis() - self.0.keep.as_millis() as i64);
            match self.system.forget_egress(before, SWEEP).await {
                Ok(gone) if gone as i64 == SWEEP => continue,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "old lines of the egress log could not be removed"),
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// Drops what is kept of what changes, and has what is open judged again.
    async fn hear(self) {
        let mut wakes = self.0.system.store().bus().subscribe();
        while let Some(wake) = wakes.next().await {
            self.0.take(wake);
            self.0.log.open().hear(wake);
        }
    }

    /// Takes note of everything this process changed until now, and of what has arrived from others: whoever was told that a
    /// change is made finds it made. Answers the number of changes, for what is judged from here on.
    pub(crate) fn catch_up(&self) -> u64 {
        let mut unheard = self.0.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(wake) = unheard.try_next() {
            self.0.take(wake);
        }
        self.0.log.open().heard()
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.0.settings.idle_timeout_seconds.into())
    }
}

impl Inner {
    fn take(&self, wake: Wake) {
        self.sessions.hear(wake);
        self.connections.hear(wake);
        self.guards.hear(wake);
    }
}

pub(crate) struct AbortOnDrop(pub tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
