//! What `/readyz` answers from: each part of a process registers a check, and readiness is all of them at once.
//!
//! A check asks the real thing (a query, a ping of the jailer), bounded in time; nothing here remembers an answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// A part that takes longer than this to answer is not ready.
const LIMIT: Duration = Duration::from_secs(2);

type Ask = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

#[derive(Clone)]
struct Part {
    name: &'static str,
    /// Without it the process still serves; it shows, and readiness stays.
    optional: bool,
    ask: Ask,
}

/// The checks of one process.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<Vec<Part>>>);

/// One part's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    pub optional: bool,
    /// What is wrong, without a secret in it: anybody may read this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    pub millis: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub ready: bool,
    pub checks: Vec<Check>,
}

impl Health {
    pub fn require<F>(&self, name: &'static str, ask: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.add(name, false, ask);
    }

    /// A part whose absence is shown but does not make the process unready.
    pub fn want<F>(&self, name: &'static str, ask: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.add(name, true, ask);
    }

    fn add<F>(&self, name: &'static str, optional: bool, ask: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let ask: Ask = Arc::new(move || Box::pin(ask()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Part { name, optional, ask });
    }

    /// Asks all parts at the same time. A process without a part is ready.
    pub async fn report(&self) -> Report {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut asked = tokio::task::JoinSet::new();
        for (at, part) in parts.into_iter().enumerate() {
            asked.spawn(async move {
                let begun = Instant::now();
                let answer = match tokio::time::timeout(LIMIT, (part.ask)()).await {
                    Ok(answer) => answer,
                    Err(_) => Err(format!("no answer in {}s", LIMIT.as_secs())),
                };
                let millis = begun.elapsed().as_millis() as u64;
                let Part { name, optional, .. } = part;
                (at, Check { name, ok: answer.is_ok(), optional, problem: answer.err(), millis })
            });
        }
        let mut checks = asked.join_all().await;
        checks.sort_by_key(|(at, _)| *at);
        let checks: Vec<_> = checks.into_iter().map(|(_, check)| check).collect();
        Report { ready: checks.iter().all(|c| c.ok || c.optional), checks }
    }
}

#[cfg(test)]
mod tests;
