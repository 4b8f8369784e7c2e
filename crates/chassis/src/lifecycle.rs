//! Start and stop of a process that runs roles.
//!
//! A role is `async fn run(ctx, stop) -> Result<()>`. The first signal drains: a role takes nothing new and returns
//! when what it holds is done. The second signal, or the end of the drain's time, ends whatever is left; nothing
//! is lost then either, only later.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Run,
    Drain,
    End,
}

/// Tells a role when to drain and when to end. Cheap to clone; every task holds one.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Phase>);

/// The other end of [`Stop`].
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<Phase>);

impl Stopper {
    pub fn new() -> (Self, Stop) {
        let (tx, rx) = watch::channel(Phase::Run);
        (Self(tx), Stop(rx))
    }

    pub fn drain(&self) {
        self.move_to(Phase::Drain);
    }

    pub fn end(&self) {
        self.move_to(Phase::End);
    }

    /// Phases only move forward.
    fn move_to(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = *now < phase;
            *now = phase.max(*now);
            forward
        });
    }
}

impl Stop {
    /// Resolves once draining has begun. A stopper that is gone means the same.
    pub async fn draining(&self) {
        self.reached(Phase::Drain).await;
    }

    /// Resolves once everything must end.
    pub async fn ending(&self) {
        self.reached(Phase::End).await;
    }

    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= Phase::Drain
    }

    async fn reached(&self, phase: Phase) {
        let mut rx = self.0.clone();
        let _ = rx.wait_for(|now| *now >= phase).await;
    }

    /// `work`'s result, or `None` when draining begins first. The work is dropped then.
    pub async fn or_drain<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.draining() => None,
            done = work => Some(done),
        }
    }
}

/// Why a group of roles ended.
#[derive(Debug, thiserror::Error)]
pub enum RoleFailed {
    #[error("{role}: {cause}")]
    Failed { role: &'static str, cause: Box<dyn std::error::Error + Send + Sync> },
    #[error("{role} returned although nobody asked it to stop")]
    Early { role: &'static str },
    #[error("{role} panicked: {cause}")]
    Panicked { role: &'static str, cause: String },
    #[error("{} did not drain in {}s and were ended", .roles.join(", "), .after.as_secs())]
    Undrained { roles: Vec<&'static str>, after: Duration },
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The roles of one process, run together: when one fails, all are drained and the failure is the result.
#[derive(Debug)]
pub struct Roles {
    tasks: JoinSet<(&'static str, Result<(), BoxError>)>,
    names: std::collections::HashMap<tokio::task::Id, &'static str>,
    stopper: Stopper,
    stop: Stop,
}

impl Default for Roles {
    fn default() -> Self {
        let (stopper, stop) = Stopper::new();
        Self { tasks: JoinSet::new(), names: std::collections::HashMap::new(), stopper, stop }
    }
}

impl Roles {
    /// To hand to roles, and to listen for the end oneself.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    pub fn add<E: Into<BoxError>>(
        &mut self,
        name: &'static str,
        role: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(async move { (name, role.await.map_err(Into::into)) });
        self.names.insert(handle.id(), name);
    }

    /// Runs until all roles have returned. `drain_limit` bounds the time between the first signal and the end.
    pub async fn run(mut self, drain_limit: Duration) -> Result<(), RoleFailed> {
        let mut first: Option<RoleFailed> = None;
        let mut limit: Option<tokio::time::Instant> = None;
        loop {
            if self.stop.is_draining() && limit.is_none() {
                limit = Some(tokio::time::Instant::now() + drain_limit);
            }
            let deadline = limit.unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(86_400));
            tokio::select! {
                joined = self.tasks.join_next_with_id() => {
                    let Some(joined) = joined else { break };
                    let failure = match joined {
                        Ok((_, (role, Err(cause)))) => Some(RoleFailed::Failed { role, cause }),
                        Ok((_, (role, Ok(())))) if !self.stop.is_draining() => Some(RoleFailed::Early { role }),
                        Ok((id, _)) => { self.names.remove(&id); None }
                        Err(e) => {
                            let role = self.names.get(&e.id()).copied().unwrap_or("a role");
                            (!e.is_cancelled()).then(|| RoleFailed::Panicked { role, cause: e.to_string() })
                        }
                    };
                    if let Some(failure) = failure {
                        first.get_or_insert(failure);
                        self.stopper.drain();
                    }
                }
                () = self.stop.draining(), if limit.is_none() => {}
                () = self.stop.ending() => {
                    self.tasks.shutdown().await;
                    break;
                }
                () = tokio::time::sleep_until(deadline), if limit.is_some() => {
                    self.stopper.end();
                    let mut roles: Vec<_> = self.names.values().copied().collect();
                    roles.sort_unstable();
                    first.get_or_insert(RoleFailed::Undrained { roles, after: drain_limit });
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// Drains at the first SIGTERM, SIGINT or SIGHUP and ends at the second.
///
/// # Errors
/// When the kernel refuses a signal handler.
pub fn on_signals(stopper: Stopper) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        for round in 0.. {
            let name = tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
                _ = hup.recv() => "SIGHUP",
            };
            if round == 0 {
                tracing::info!(signal = name, "draining; a second signal ends at once");
                stopper.drain();
            } else {
                tracing::info!(signal = name, "ending");
                stopper.end();
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests;
