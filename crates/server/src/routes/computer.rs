//! From a session in the tables to the host of its computer: restores a closed one, waits, holds the use open.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use wharf_chassis::host_client::{HostClient, HostError};
use wharf_domain::session::{Desired, State};
use wharf_domain::{Code, Error, Name};
use wharf_store::sessions::{SessionRow, Use};
use wharf_store::{Permit, Scope};

use crate::app::App;
use crate::ports::Busy;

/// How long a computer may take to come up before the caller is told to come back.
const COMES_UP: Duration = Duration::from_secs(60);
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
    app: App,
    permit: Permit<SessionRow>,
    row: SessionRow,
    host: HostClient,
    wants: Wants,
    use_: Arc<Use>,
    /// It was not up when this caller came.
    waited: bool,
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
    Error::new(Code::InvalidState, format!("session {} is {}{why}; {to}", row.name, row.state.as_str()))
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
    app: App,
    permit: Permit<SessionRow>,
    wants: Wants,
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
        let wait = match way(permit.row(), wants, scope.now())? {
            Way::Now => false,
            Way::Wait => true,
            Way::Ask if wants == Wants::Files => true,
            Way::Ask => {
                scope.sessions().desire(&permit, Desired::Running).await?;
                true
            }
        };
        Ok(Self { app: app.clone(), permit, wants, use_, wait })
    }

    /// Whether the computer is there already, so that committing need not come first.
    pub(crate) fn ready(&self) -> bool {
        !self.wait
    }

    pub(crate) fn permit(&self) -> &Permit<SessionRow> {
        &self.permit
    }

    /// The computer, once it is up.
    pub(crate) async fn arrive(self) -> Result<Computer, Error> {
        let row = if self.wait {
            usable(&self.app, &self.permit, self.wants, COMES_UP).await?
        } else {
            self.permit.row().clone()
        };
        let host = client(&self.app, &row)?;
        Ok(Computer {
            app: self.app,
            permit: self.permit,
            row,
            host,
            wants: self.wants,
            use_: self.use_,
            waited: self.wait,
        })
    }
}

fn usable_now(row: &SessionRow, wants: Wants, now: wharf_domain::Time) -> bool {
    row.endpoint(now).is_some() && (wants == Wants::Files || row.desired == Desired::Running)
}

async fn usable(
    app: &App,
    permit: &Permit<SessionRow>,
    wants: Wants,
    limit: Duration,
) -> Result<SessionRow, Error> {
    let clock = app.clock.clone();
    let enough = |row: &SessionRow| row.state == State::Error || usable_now(row, wants, clock.now());
    let row = app.store.wait_session(permit, limit, enough).await?;
    let row = row.ok_or_else(|| Error::not_found("session", &permit.row().name))?;
    if usable_now(&row, wants, app.clock.now()) {
        return Ok(row);
    }
    if row.state == State::Error {
        return Err(refused(&row, "restore it first"));
    }
    Err(Error::new(
        Code::Timeout,
        format!(
            "the computer of session {} did not come up within {} s; it is {}",
            row.name,
            limit.as_secs(),
            row.state.as_str()
        ),
    )
    .retry_after(Duration::from_secs(2)))
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
        Some(if self.waited { Duration::ZERO } else { self.app.clock.now().since(started) })
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
            Err(HostError::Unreachable { socket, source }) => {
                tracing::info!(session = %self.row.id, %source, "a session's host is gone; the reconciler looks");
                self.app.hosts.forget(&socket);
                self.app.store.suspect(&self.row).await?;
                let was = self.row.computer.as_ref().map(|c| c.incarnation);
                let fresh =
                    |row: &SessionRow| row.computer.as_ref().map(|c| c.incarnation) != was || !row.suspect;
                self.app.store.wait_session(&self.permit, COMES_UP, fresh).await?;
                self.row = usable(&self.app, &self.permit, self.wants, COMES_UP).await?;
                self.host = client(&self.app, &self.row)?;
                Ok(question(self.host.clone()).await?)
            }
            answer => Ok(answer?),
        }
    }
}
