//! Questions on their way to the guardrails: bounded by session, and judged beside the runtime where they are large.
//!
//! One session can neither fill this process with what it asks nor keep it from answering the others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use wharf_domain::guard::{Phase, Rate};
use wharf_domain::{Error, Name, SessionId, Time, limits};
use wharf_guard::shell::Place;
use wharf_guard::{Ask, Guard, Judged};

use crate::problem::Refusal;
use crate::sessions::Session;

/// What takes longer to judge than to hand over to another thread.
pub(crate) const LARGE: usize = 16 * 1024;
/// Rates that are counted at a time: beyond it they begin anew.
const COUNTED: usize = 10_000;

/// What one session has open.
#[derive(Default)]
struct Used {
    open: usize,
    bytes: usize,
}

/// What sessions have open. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Questions(Arc<Mutex<HashMap<SessionId, Used>>>);

/// One of those that a session may have open; given back when it is dropped.
pub(crate) struct Held {
    session: SessionId,
    bytes: usize,
    all: Questions,
}

impl Questions {
    pub fn enter(&self, session: SessionId) -> Result<Held, Refusal> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = all.entry(session).or_default();
        if used.open >= limits::GUARD_OPEN {
            let most = limits::GUARD_OPEN;
            return Err(crowded(&format!("{most} questions to the guardrails open (GUARD_OPEN)")));
        }
        used.open += 1;
        Ok(Held { session, bytes: 0, all: self.clone() })
    }
}

fn crowded(what: &str) -> Refusal {
    Refusal::limit(format!("the session has {what}; let some be answered first"))
}

impl Held {
    /// Makes room for more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = all.entry(self.session).or_default();
        if used.bytes + bytes > limits::GUARD_OPEN_BYTES {
            let most = limits::GUARD_OPEN_BYTES;
            return Err(crowded(&format!(
                "questions to the guardrails of {most} bytes open (GUARD_OPEN_BYTES)"
            )));
        }
        used.bytes += bytes;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = all.get_mut(&self.session) {
            used.open -= 1;
            used.bytes -= self.bytes;
            if used.open == 0 {
                all.remove(&self.session);
            }
        }
    }
}

/// When what a rule of a policy is about has come, in one session.
type Seen = HashMap<(SessionId, Name, usize), VecDeque<Time>>;

/// How often what rules with a rate are about has come. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Rates(Arc<Mutex<Seen>>);

impl Rates {
    /// Whether the rate is passed; `counts` makes this one more.
    pub fn over(
        &self,
        session: SessionId,
        (policy, rule): (&Name, usize),
        rate: Rate,
        now: Time,
        counts: bool,
    ) -> bool {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= COUNTED {
            rates.clear();
        }
        let seen = rates.entry((session, policy.clone(), rule)).or_default();
        let window = Duration::from_secs(rate.per_seconds.into());
        while seen.front().is_some_and(|at| now.since(*at) >= window) {
            seen.pop_front();
        }
        if counts {
            seen.push_back(now);
        }
        // More than these need not be remembered.
        while seen.len() > rate.count as usize + 1 {
            seen.pop_front();
        }
        seen.len() > rate.count as usize
    }
}

/// A question that owns what it asks, and so may be asked on another thread.
pub(crate) struct Asking {
    phase: Phase,
    agents: Vec<String>,
    texts: Vec<String>,
    bytes: Option<u64>,
    call: Option<(String, Value)>,
    cwd: Option<String>,
    unseen: bool,
}

impl Asking {
    /// Texts on their way to a model or from one; `bytes` where that is not how long they are together.
    pub fn texts(phase: Phase, session: &Session, texts: Vec<String>, bytes: Option<u64>) -> Self {
        Self { phase, agents: session.agents.clone(), texts, bytes, call: None, cwd: None, unseen: false }
    }

    /// A call of a tool by one of the session's agents.
    pub fn tool(
        session: &Session,
        agent: &str,
        tool: String,
        input: Value,
        cwd: Option<String>,
        unseen: bool,
    ) -> Self {
        let mut agents = session.agents.clone();
        agents.push(agent.to_owned());
        let texts = wharf_guard::strings(&input);
        Self { phase: Phase::Tool, agents, texts, bytes: None, call: Some((tool, input)), cwd, unseen }
    }

    /// The tool's input; nothing where it is no call.
    pub fn into_input(self) -> Value {
        self.call.map_or(Value::Null, |(_, input)| input)
    }

    pub fn call(&self) -> Option<(&str, &Value)> {
        self.call.as_ref().map(|(tool, input)| (tool.as_str(), input))
    }

    pub fn is_unseen(&self) -> bool {
        self.unseen
    }

    pub fn into_texts(self) -> Vec<String> {
        self.texts
    }

    fn ask(&self) -> Ask<'_> {
        let mut ask = match &self.call {
            Some((tool, input)) => Ask::tool(tool, input),
            None => Ask::new(self.phase, self.texts.clone()),
        };
        ask.agents = self.agents.iter().map(String::as_str).collect();
        ask.bytes = self.bytes;
        ask.unseen = self.unseen;
        if let Some(cwd) = &self.cwd {
            ask.place = Place { cwd, ..Place::default() };
        }
        ask
    }

    fn size(&self) -> usize {
        self.texts.iter().map(String::len).sum()
    }
}

/// Asks the rules, and says in a line what was asked: on another thread where it is much, so many at a time as there are
/// processors.
pub(crate) async fn judge(
    guard: Arc<Result<Guard, String>>,
    large: &Arc<Semaphore>,
    asking: Asking,
    mut over: impl FnMut(&Name, usize, Rate) -> bool + Send + 'static,
    line: impl FnOnce(&Asking, &Judged) -> String + Send + 'static,
) -> Result<(Judged, Asking, String), Error> {
    let much = asking.size() > LARGE;
    let judge = move || {
        let judged = match guard.as_ref() {
            Ok(guard) => guard.judge(asking.ask(), &mut over),
            Err(_) => Judged::default(),
        };
        let line = line(&asking, &judged);
        (judged, asking, line)
    };
    if !much {
        return Ok(judge());
    }
    let _turn = large.acquire().await.map_err(Error::internal)?;
    tokio::task::spawn_blocking(judge).await.map_err(Error::internal)
}
