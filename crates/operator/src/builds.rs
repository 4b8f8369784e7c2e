//! Builds: an agent's source becomes an immutable version, in a computer of its own.
//!
//! A build is leased like a session. Each step may be repeated: whoever takes over begins with an empty directory. What the
//! package's own commands do wrong fails the build with their log; what breaks around it is tried again a few times. The computer is an
//! ordinary session with the image, the limits and the egress the manifest asks for, as far as it was granted, and is deleted with the
//! end of its build.
//!
//! No space holds up the others: each has a few at a time, and the one with the fewest at work is next.

mod cache;
mod entry;
mod place;
mod site;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;
use wharf_chassis::Stop;
use wharf_chassis::host_client::{HostClient, HostError};
use wharf_domain::manifest::Manifest;
use wharf_domain::session::{Desired, State};
use wharf_domain::{Code, Error, limits};
use wharf_ports::{Topic, Wake};
use wharf_store::Store;
use wharf_store::agents::work::{BUILD_LEASE, BuildTask, BuildWork};
use wharf_store::sessions::SessionRow;

use crate::operator::Inner;
use site::{Site, network};

const ATTEMPTS: i32 = limits::BUILD_ATTEMPTS;
const COMPUTER: Duration = Duration::from_secs(limits::BUILD_COMPUTER_SECONDS);
/// Computers of one attempt: the first, the one its package asks for, and no more than that.
const COMPUTERS: usize = 2;
/// The gateway knows a session as it was a second ago at the most; what a build may reach holds after that.
const KNOWN: Duration = Duration::from_millis(1100);
/// Where packages lie in a session, each in a directory of its agent's name.
pub const PACKAGES: &str = "/opt/wharf/agents";

enum Trouble {
    /// The build itself is wrong: it ends.
    Failed(String),
    /// Something around it broke: it is tried again.
    Broken(String),
    /// The tables refused.
    Store(Error),
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Self::Store(e)
    }
}

impl From<HostError> for Trouble {
    fn from(e: HostError) -> Self {
        match e {
            HostError::Refused(fault) => Self::Failed(fault.detail),
            other => Self::Broken(format!("the build's computer is away: {other}")),
        }
    }
}

/// Takes builds until told to drain; those in hand are given back then.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    let work = &inner.builds;
    let settings = &inner.settings.builds;
    let mut wakes = work.store().bus().subscribe();
    let mut tasks = JoinSet::new();
    while !stop.is_draining() {
        while tasks.len() < settings.parallel {
            match work.claim(settings.per_space).await {
                Ok(Some(task)) => {
                    let (inner, stop) = (inner.clone(), stop.clone());
                    tasks.spawn(async move { carry_out(&inner, task, &stop).await });
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "builds could not be looked at; it is repeated");
                    break;
                }
            }
        }
        // Others' builds are free when their leases are; without any there is nothing to look for.
        let pause = match work.open().await {
            Ok(false) => Duration::from_hours(1),
            _ => BUILD_LEASE / 3,
        };
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = stop.draining() => break,
                wake = wakes.next() => match wake {
                    Some(Wake::Topic(Topic::Build(_)) | Wake::Missed) => break,
                    Some(_) => {}
                    None => return,
                },
                Some(_) = tasks.join_next() => break,
                () = tokio::time::sleep_until(until) => break,
            }
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn carry_out(inner: &Inner, mut task: BuildTask, stop: &Stop) {
    let work = &inner.builds;
    let id = task.build.id;
    let held = task.clone();
    let renewing = async {
        loop {
            tokio::time::sleep(BUILD_LEASE / 3).await;
            if work.renew(&held).await.is_err_and(|e| e.code == Code::LeaseLost) {
                return;
            }
        }
    };
    let result = tokio::select! {
        result = build(inner, &mut task) => result,
        () = renewing => return,
        () = stop.draining() => {
            let _ = work.release(&held, false).await;
            return;
        }
    };
    let ended = match result {
        Ok(()) => return,
        Err(Trouble::Failed(why)) => fail(work, &mut task, &why).await,
        Err(Trouble::Broken(why)) if task.build.attempts >= ATTEMPTS => {
            fail(work, &mut task, &format!("given up after {ATTEMPTS} attempts: {why}")).await
        }
        Err(Trouble::Broken(why)) => {
            tracing::info!(build = %id, why, "a build is begun anew");
            let _ = work.say(&mut task, "wharf", &format!("{why}; the build begins anew\n")).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            work.release(&task, true).await
        }
        Err(Trouble::Store(error)) => Err(error),
    };
    match ended {
        // Cancelled, or taken over.
        Err(error) if error.code == Code::LeaseLost => {
            tracing::debug!(build = %id, %error, "a build is left alone");
        }
        Err(error) => {
            tracing::warn!(build = %id, %error, "a build could not be brought to its end; it is taken up again");
        }
        Ok(()) => {}
    }
}

async fn fail(work: &BuildWork, task: &mut BuildTask, why: &str) -> Result<(), Error> {
    work.say(task, "wharf", &format!("failed: {why}\n")).await?;
    work.fail(task, why).await
}

async fn build(inner: &Inner, task: &mut BuildTask) -> Result<(), Trouble> {
    if task.build.attempts > ATTEMPTS {
        return Err(Trouble::Failed(format!("it was cut short {ATTEMPTS} times")));
    }
    let dir = format!("{PACKAGES}/{}", task.build.agent);
    for _ in 0..COMPUTERS {
        let (row, client) = computer(&inner.builds, task).await?;
        let mut site = Site::new(&inner.builds, task, client, dir.clone());
        site.source().await?;
        let manifest = site.manifest().await?;
        if !place::fits(inner, &mut site, &row, &manifest).await? {
            // The source is brought again, to where the build goes on.
            continue;
        }
        granted(site.task, &manifest)?;
        // In place of what the source's way in needed.
        let reached = network(&manifest.build.egress).unwrap_or_else(|| json!({"egress": "none"}));
        let known = Instant::now() + KNOWN;
        let changed = inner.builds.reach(site.task, &reached).await?;
        let cache = site.restore(&row.image.digest).await?;
        if changed {
            tokio::time::sleep_until(known).await;
        }
        site.commands(&manifest, inner.settings.builds.max_seconds).await?;
        site.entry(&manifest).await?;
        site.keep(cache).await?;
        return site.pack(&manifest).await;
    }
    Err(Trouble::Broken("the package asked for another place while it was built".to_owned()))
}

/// Whether all the package wants to reach while it is built was granted.
fn granted(task: &BuildTask, manifest: &Manifest) -> Result<(), Trouble> {
    let Some(granted) = &task.build.egress else { return Ok(()) };
    let beyond = manifest.build.egress.beyond(granted);
    if beyond.is_empty() {
        return Ok(());
    }
    Err(Trouble::Failed(format!(
        "while it is built the package wants to reach {}, which nobody has granted: builds of this space reach what its default \
         build_egress names (wharf space update SPACE --build-egress HOST), or the public package registries; whoever may update the \
         space's policies can begin the build and grants all of it",
        beyond.join(", ")
    )))
}

/// The computer the build has to itself, once it is up.
async fn computer(work: &BuildWork, task: &BuildTask) -> Result<(SessionRow, HostClient), Trouble> {
    let gone = |e: Error| match e.code {
        Code::NotFound => Trouble::Failed("its session was deleted".to_owned()),
        _ => Trouble::Store(e),
    };
    let permit = work.session(task.build.space, task.build.session).await.map_err(gone)?;
    let settled =
        |row: &SessionRow| row.ready() || row.state == State::Error || row.desired != Desired::Running;
    let row = work.store().wait_session(&permit, COMPUTER, settled).await?;
    let Some(row) = row else { return Err(Trouble::Failed("its session was deleted".to_owned())) };
    if row.state == State::Error || row.desired != Desired::Running {
        let why = row.state_reason.unwrap_or_else(|| format!("it shall be {}", row.desired.as_str()));
        return Err(Trouble::Failed(format!("its computer is not to be had: {why}")));
    }
    let Some(computer) = row.computer.as_ref().filter(|_| row.ready()) else {
        return Err(Trouble::Broken(format!("its computer was not up within {} s", COMPUTER.as_secs())));
    };
    let client = HostClient::new(&computer.host_socket);
    Ok((row, client))
}

/// The chunks of a blob, read as they are asked for.
pub(crate) fn chunks(store: Store, blob: Uuid) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold((store, 0), move |(store, n)| async move {
        match store.blob_chunk(blob, n).await {
            Ok(Some(chunk)) => Some((Ok(Bytes::from(chunk)), (store, n + 1))),
            Ok(None) => None,
            Err(e) => Some((Err(io::Error::other(e.to_string())), (store, n))),
        }
    })
}
