//! From a session in the tables to the host of its computer: restores a closed one, waits, holds the use open.
//!
//! A session that is closing has no computer to give: its end is waited for, and what was asked for is done by the computer
//! that comes after it.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use wharf_chassis::host_client::{HostClient, HostError};
use wharf_domain::plan::held_until;
use wharf_domain::session::{Desired, State};
use wharf_domain::{Code, Error, Name, NameOrId};
use wharf_store::sessions::{SessionRow, Use};
use wharf_store::{Caller, Permit, Scope};

use crate::app::App;
use crate::ports::Busy;

/// How long a computer may take to come up before the caller is told to come back.
const COMES_UP: Duration = Duration::from_secs(60);
/// Idle time left within which a use is written down before it begins: uses are written once a second otherwise, and a
/// session must not close for idleness under a use that has begun.
const NEAR: Duration = Duration::from_secs(5);
/// Sockets remembered; beyond this all are forgotten, which costs each one connection.
const REMEMBERED: usize = 4096;
/// Published copies made at a time.
const COPIES: usize = 4;

/// Clients of hosts by socket, so that connections are used again; and who uses ports of sessions.
#[derive(Clone, Default)]
pub struct Hosts {
    clients: Arc<Mutex<HashMap<PathBuf, HostClient>>>,
    pub(crate) ports: Busy,
    pub(crate) copies: Copies,
}

/// Copies that are being made; more wait.
#[derive(Clone)]
pub(crate) struct Copies(pub Arc<Semaphore>);

impl Default for Copies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(COPIES)))
    }
}

impl Hosts {
    fn get(&self, socket: &Path) -> HostClient {
        let mut known = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(socket) {
            return client.clone();
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let client = HostClient::new(socket);
        known.insert(socket.to_owned(), client.clone());
        client
    }

    fn forget(&self, socket: &Path) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(socket);
    }
}

/// A session's computer in use; the session is not closed under it.
pub(crate) struct Computer {
    asked: Asked,
    row: SessionRow,
    host: HostClient,
    use_: Arc<Use>,
    /// It was not up when this caller came.
    waited: bool,
}

/// What is asked for, and by whom: enough to ask for it once more.
struct Asked {
    app: App,
    caller: Caller,
    permit: Permit<SessionRow>,
    wants: Wants,
}

/// What of the computer is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// All of it: a closed session is restored.
    Running,
    /// Its files: a closed session stays closed.
    Files,
    /// What runs already: a closed session has nothing to offer.
    AsIs,
}

fn refused(row: &SessionRow, to: &str) -> Error {
    let why = row.state_reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default();
    let state = if row.closing { "closing" } else { row.state.as_str() };
    Error::new(Code::InvalidState, format!("session {} is {state}{why}; {to}", row.name))
}

/// Its time of idleness is nearly over.
fn nearly_idle(row: &SessionRow, now: wharf_domain::Time) -> bool {
    let used = row.in_use_until.map_or(row.last_used_at, |until| until.max(row.last_used_at));
    let idle = Duration::from_secs(row.idle_timeout_seconds.into());
    !idle.is_zero() && row.state == State::Idle && used.plus(idle) <= now.plus(NEAR)
}

/// What is missing before the computer can be used.
enum Way {
    Now,
    /// It comes up by itself.
    Wait,
    /// The wish must be recorded first.
    Ask,
}

fn way(row: &SessionRow, wants: Wants, now: wharf_domain::Time) -> Result<Way, Error> {
    if row.state == State::Error {
        return Err(refused(row, "restore it first"));
    }
    let runs = row.desired == Desired::Running;
    let there = row.endpoint(now).is_some();
    match wants {
        _ if there && runs => Ok(Way::Now),
        Wants::Files if there => Ok(Way::Now),
        _ if runs => Ok(Way::Wait),
        Wants::AsIs => Err(refused(row, "nothing runs in it; restore it, or run something in it")),
        Wants::Running | Wants::Files => Ok(Way::Ask),
    }
}

/// A computer on the way: what must still be committed, and what to wait for.
pub(crate) struct Approach {
    asked: Asked,
    use_: Arc<Use>,
    wait: bool,
}

impl Approach {
    /// Records what is needed in the scope, which the caller commits. Holds the use from here on.
    pub(crate) async fn begin(
        app: &App,
        scope: &mut Scope,
        permit: Permit<SessionRow>,
        wants: Wants,
    ) -> Result<Self, Error> {
        let use_ = Arc::new(app.store.begin_use(permit.row().id));
        if wants == Wants::Files {
            // Also when it is held already: the end of that may be near.
            scope.sessions().hold(&permit).await?;
        }
        let mut wait = match way(permit.row(), wants, scope.now())? {
            Way::Now => false,
            Way::Wait => true,
            Way::Ask if wants == Wants::Files => true,
            Way::Ask => {
                scope.sessions().desire(&permit, Desired::Running).await?;
                true
            }
        };
        if !wait && nearly_idle(permit.row(), scope.now()) {
            // Where the close was quicker, the wait finds it and asks again.
            wait = !scope.sessions().stay_open(&permit).await?;
        }
        let asked = Asked { app: app.clone(), caller: scope.caller().clone(), permit, wants };
        Ok(Self { asked, use_, wait })
    }

    /// Whether the computer is there already, so that committing need not come first.
    pub(crate) fn ready(&self) -> bool {
        !self.wait
    }

    pub(crate) fn permit(&self) -> &Permit<SessionRow> {
        &self.asked.permit
    }

    /// The computer, once it is up.
    pub(crate) async fn arrive(self) -> Result<Computer, Error> {
        let row =
            if self.wait { self.asked.usable(COMES_UP).await? } else { self.asked.permit.row().clone() };
        let host = client(&self.asked.app, &row)?;
        Ok(Computer { asked: self.asked, row, host, use_: self.use_, waited: self.wait })
    }
}

fn usable_now(row: &SessionRow, wants: Wants, now: wharf_domain::Time) -> bool {
    row.endpoint(now).is_some() && (wants == Wants::Files || row.desired == Desired::Running)
}

/// It was closed while somebody waited for it, and nothing brings it up any more.
fn given_up(row: &SessionRow, wants: Wants, now: wharf_domain::Time) -> bool {
    row.desired == Desired::Closed
        && (wants != Wants::Files || held_until(row.hold_until, row.in_use_until).is_none_or(|t| t <= now))
}

impl Asked {
    /// The session as soon as its computer can be used. A close that came between the question and this is as one that came
    /// before it: the question is put again.
    async fn usable(&self, limit: Duration) -> Result<SessionRow, Error> {
        let end = Instant::now() + limit;
        let clock = &self.app.clock;
        loop {
            let enough = |row: &SessionRow| {
                let now = clock.now();
                row.state == State::Error
                    || usable_now(row, self.wants, now)
                    || given_up(row, self.wants, now)
            };
            let left = end.saturating_duration_since(Instant::now());
            let row = self.app.store.wait_session(&self.permit, left, enough).await?;
            let row = row.ok_or_else(|| Error::not_found("session", &self.permit.row().name))?;
            if usable_now(&row, self.wants, clock.now()) {
                return Ok(row);
            }
            if row.state == State::Error {
                return Err(refused(&row, "restore it first"));
            }
            if Instant::now() >= end {
                return Err(overdue(&row, limit));
            }
            if self.wants == Wants::AsIs {
                return Err(refused(&row, "nothing runs in it; restore it, or run something in it"));
            }
            self.again(&row).await?;
        }
    }

    async fn again(&self, row: &SessionRow) -> Result<(), Error> {
        let mut scope = self.app.store.scope(&self.caller, &NameOrId::Id(row.space)).await?;
        match self.wants {
            Wants::Files => scope.sessions().hold_as(&self.permit, row).await?,
            _ => drop(scope.sessions().desire(&self.permit, Desired::Running).await?),
        }
        scope.commit().await
    }
}

fn overdue(row: &SessionRow, limit: Duration) -> Error {
    let detail = format!(
        "the computer of session {} did not come up within {} s; it is {}",
        row.name,
        limit.as_secs(),
        row.state.as_str()
    );
    Error::new(Code::Timeout, detail).retry_after(Duration::from_secs(2))
}

fn client(app: &App, row: &SessionRow) -> Result<HostClient, Error> {
    let computer =
        row.computer.as_ref().ok_or_else(|| Error::internal("a usable session has no computer"))?;
    Ok(app.hosts.get(&computer.host_socket))
}

impl Computer {
    pub(crate) fn host(&self) -> &HostClient {
        &self.host
    }

    /// The session's name.
    pub(crate) fn name(&self) -> &Name {
        &self.row.name
    }

    /// How long it has been up since it was started again; `None` where it is the session's first.
    pub(crate) fn restored_for(&self) -> Option<Duration> {
        let started = self.row.started_at.filter(|_| self.row.incarnation > 1)?;
        // One that was up for the files of a closed session is older than what woke the session.
        Some(if self.waited { Duration::ZERO } else { self.asked.app.clock.now().since(started) })
    }

    /// The image it was made from.
    pub(crate) fn image(&self) -> String {
        self.row.image.name.to_string()
    }

    /// Keeps the session in use for as long as it is held.
    pub(crate) fn in_use(&self) -> Arc<Use> {
        self.use_.clone()
    }

    /// Asks the host. Where nobody listens nothing was asked: the reconciler is told to look, and the question is put
    /// once more to the computer that takes its place.
    pub(crate) async fn ask<T, F>(&mut self, question: impl Fn(HostClient) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, HostError>>,
    {
        match question(self.host.clone()).await {
            Err(HostError::Unreachable { source, .. }) => {
                tracing::info!(session = %self.row.id, %source, "a session's host is gone; the reconciler looks");
                self.next().await?;
                Ok(question(self.host.clone()).await?)
            }
            Err(error @ HostError::Broken(_)) => Err(self.broken(error).await),
            answer => Ok(answer?),
        }
    }

    /// As [`Self::ask`], of what only reads: it is asked again too when the host goes away over it.
    pub(crate) async fn read<T, F>(&mut self, question: impl Fn(HostClient) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, HostError>>,
    {
        match question(self.host.clone()).await {
            Err(error @ (HostError::Unreachable { .. } | HostError::Broken(_))) => {
                tracing::info!(session = %self.row.id, %error, "a session's host went away; the reconciler looks");
                self.next().await?;
                Ok(question(self.host.clone()).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// The computer that takes the place of one that is gone.
    async fn next(&mut self) -> Result<(), Error> {
        let asked = &self.asked;
        asked.app.hosts.forget(self.host.socket());
        asked.app.store.suspect(&self.row).await?;
        let was = self.row.computer.as_ref().map(|c| c.incarnation);
        let fresh = |row: &SessionRow| row.computer.as_ref().map(|c| c.incarnation) != was || !row.suspect;
        asked.app.store.wait_session(&asked.permit, COMES_UP, fresh).await?;
        self.row = asked.usable(COMES_UP).await?;
        self.host = client(&asked.app, &self.row)?;
        Ok(())
    }

    /// What to say of a question that was broken off: a session that was closed under it is no fault of anything.
    pub(crate) async fn broken(&self, error: HostError) -> Error {
        let now = self.asked.app.store.wait_session(&self.asked.permit, Duration::ZERO, |_| true).await;
        match now {
            Ok(Some(row)) if row.closing || row.desired != Desired::Running => {
                let detail = format!(
                    "session {} was closed under this; whether it was done is not known. Look, or ask again",
                    row.name
                );
                Error::new(Code::InvalidState, detail).because(error)
            }
            _ => error.into(),
        }
    }
}
