//! The turn endpoints. One turn at a time; a turn outlives whoever asked for it, and asking again for the same one
//! never runs it twice.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use wharf_domain::limits::{TEXT_BYTES, TURN_TIMEOUT_SECONDS};
use wharf_domain::manifest::Kind;
use wharf_domain::{Code, TurnId};
use wharf_wire::host::turn::{
    AgentKind, AgentSpec, Cancelled, Done, Reason, Said, SetupRequest, TurnInfo, TurnRequest, Turns as List,
};

use crate::exec::check_timeout;
use crate::fault::{Fault, Result};
use crate::host::Host;
use crate::limits;
use crate::reply::{self, Gone, Reply, Sender};
use crate::request::{self, Incomes, Query};
use crate::turn::journal::{Head, Journal, Past, SETUP};
use crate::turn::shell::{self, Script};
use crate::turn::{Turn, failed, relay};

/// Turns kept in memory because the volume had no room for them.
const UNSAVED: usize = 8;

#[derive(Default)]
pub struct Turns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Turn>>,
    unsaved: VecDeque<Arc<Turn>>,
}

enum Found {
    /// Running, or over and only in memory.
    Here(Arc<Turn>),
    Past(Past),
    Nowhere,
}

enum Work {
    Script(Script),
    Agent(Box<TurnRequest>),
}

impl Work {
    /// Whether what a host did of it before it died can be gone on with.
    fn resumes(&self) -> bool {
        matches!(self, Self::Agent(request) if request.agent.kind.resumes())
    }
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn running(&self) -> Option<String> {
        self.state().current.as_ref().map(|t| t.head.turn.clone())
    }
}

impl State {
    fn find(&self, key: &str, journal: &Journal) -> Result<Found> {
        if let Some(turn) = self.current.iter().chain(&self.unsaved).find(|t| t.head.turn == key) {
            return Ok(Found::Here(Arc::clone(turn)));
        }
        let past = journal.read(key).map_err(|e| no_journal(&e))?;
        Ok(past.map_or(Found::Nowhere, Found::Past))
    }
}

fn no_journal(error: &std::io::Error) -> Fault {
    Fault::new(Code::Unavailable, format!("the session's volume cannot keep turns: {error}"))
}

pub async fn start(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    let after = after(&request)?;
    let wanted: TurnRequest = request::json(&mut request, limits::TURN_BODY_BYTES).await?;
    check_timeout(wanted.timeout_seconds)?;
    check_agent(&wanted.agent, "agent")?;
    for (at, agent) in wanted.agents.iter().enumerate() {
        check_agent(agent, &format!("agents.{at}"))?;
    }
    let limit = turn_limit(&host, wanted.timeout_seconds);
    let head =
        Head { turn: wanted.turn.to_string(), seq: wanted.message.seq, agent: wanted.agent.name.clone() };
    begin(&host, head, Work::Agent(Box::new(wanted)), limit, after)
}

pub async fn setup(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    let after = after(&request)?;
    let wanted: SetupRequest = request::json(&mut request, limits::BODY_BYTES).await?;
    check_timeout(wanted.timeout_seconds)?;
    if wanted.script.len() > TEXT_BYTES {
        return Err(Fault::new(Code::TooLarge, format!("a setup script takes at most {TEXT_BYTES} bytes"))
            .field("script"));
    }
    let limit = turn_limit(&host, wanted.timeout_seconds);
    let head = Head { turn: SETUP.to_owned(), seq: 0, agent: "setup".to_owned() };
    let script = Script { text: wanted.script, cwd: None, env: wanted.env, user: wanted.user };
    begin(&host, head, Work::Script(script), limit, after)
}

fn turn_limit(host: &Host, seconds: Option<u32>) -> Duration {
    let seconds = seconds
        .or_else(|| host.identity().and_then(|i| i.limits.turn_timeout_seconds))
        .unwrap_or(TURN_TIMEOUT_SECONDS);
    Duration::from_secs(u64::from(seconds))
}

fn after(request: &Incomes) -> Result<u64> {
    let mut query = Query::of(request)?;
    let after = query.number("after")?.unwrap_or(0);
    query.finish()?;
    Ok(after)
}

fn check_agent(agent: &AgentSpec, field: &str) -> Result<()> {
    if agent.name.is_empty() || agent.name.len() > 255 {
        return Err(Fault::invalid(&format!("{field}.name"), "an agent's name has 1 to 255 bytes"));
    }
    agent.env.check().map_err(|e| Fault::invalid(&format!("{field}.env"), e))?;
    let kind = match agent.kind {
        AgentKind::Shell => Kind::Shell,
        AgentKind::Command => Kind::Command,
        AgentKind::Python => Kind::Python,
        AgentKind::Node => Kind::Node,
        AgentKind::Acp => Kind::Acp,
        AgentKind::ComputerUse => Kind::ComputerUse,
    };
    if agent.kind == AgentKind::ComputerUse && agent.computer_use.is_none() {
        let field = format!("{field}.computer_use");
        return Err(Fault::invalid(&field, "the built-in agent needs its configuration"));
    }
    kind.check_entry(&agent.entry).map_err(|why| Fault::invalid(&format!("{field}.entry"), why))
}

/// Attaches to the turn of this key, or starts it.
fn begin(host: &Arc<Host>, head: Head, work: Work, limit: Duration, after: u64) -> Result<Reply> {
    let journal = Journal::open(&host.root).map_err(|e| no_journal(&e))?;
    let mut state = host.turns.state();
    let mut unfinished = None;
    match state.find(&head.turn, &journal)? {
        Found::Here(turn) => {
            same(&turn.head, &head)?;
            drop(state);
            return Ok(follow(turn, after));
        }
        Found::Past(past) if past.interrupted && head.turn == SETUP => journal.forget(SETUP),
        Found::Past(past) => {
            same(&past.head, &head)?;
            if !past.interrupted || !work.resumes() {
                return Ok(replay(past, after));
            }
            unfinished = Some(past);
        }
        Found::Nowhere => {}
    }
    if let Some(current) = &state.current {
        return Err(Fault::new(
            Code::InvalidState,
            format!("turn {} runs; a session answers one message at a time", current.head.turn),
        ));
    }
    let (turn, first) = match unfinished {
        Some(past) => {
            let file = journal.reopen(&past).map_err(|e| no_journal(&e))?;
            let because = json!({ "because": "the session's host died while the turn ran" });
            (Turn::resume(past, file, after), Said::Event { name: "resumed".into(), data: because })
        }
        None => {
            let file = journal.begin(&head).map_err(|e| no_journal(&e))?;
            let agent = head.agent.clone();
            (Turn::new(head, file), Said::Started { agent })
        }
    };
    state.current = Some(Arc::clone(&turn));
    drop(state);
    // A turn that has no room even for this will say so with the next thing that is said.
    let _ = turn.say(first);
    tokio::spawn(carry_out(Arc::clone(host), Arc::clone(&turn), work, limit, journal));
    Ok(follow(turn, after))
}

/// The same id must mean the same question.
fn same(known: &Head, asked: &Head) -> Result<()> {
    if known == asked {
        return Ok(());
    }
    Err(Fault::new(
        Code::IdempotencyMismatch,
        format!(
            "turn {} is the answer of {} to message {}, not of {} to message {}",
            known.turn, known.agent, known.seq, asked.agent, asked.seq
        ),
    ))
}

async fn carry_out(host: Arc<Host>, turn: Arc<Turn>, work: Work, limit: Duration, journal: Journal) {
    let running = tokio::spawn({
        let (host, turn) = (Arc::clone(&host), Arc::clone(&turn));
        async move {
            match work {
                Work::Script(script) => shell::run(&host, &turn, script, limit).await,
                Work::Agent(request) => relay::run(&host, &turn, *request, limit).await,
            }
        }
    });
    let done: Done =
        running.await.unwrap_or_else(|e| failed(Reason::Internal, format!("the turn's task broke: {e}")));
    let key = &turn.head.turn;
    let mut state = host.turns.state();
    let saved = turn.end(done) && journal.finish(key).is_ok();
    state.current = None;
    if !saved {
        state.unsaved.push_back(Arc::clone(&turn));
        if state.unsaved.len() > UNSAVED {
            state.unsaved.pop_front();
        }
    }
    drop(state);
    let _ = journal.prune(key);
    host.memory.used();
}

fn follow(turn: Arc<Turn>, after: u64) -> Reply {
    let (sender, reply) = reply::ndjson();
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            _ = send_live(&turn, after, &sender) => {}
        }
    });
    reply
}

async fn send_live(turn: &Turn, mut after: u64, sender: &Sender) -> Result<(), Gone> {
    let mut changed = turn.watch();
    loop {
        changed.mark_unchanged();
        let (lines, is_last) = turn.events(after);
        after = after.saturating_add(lines.len() as u64);
        for batch in lines.chunks(64) {
            sender.bytes(batch.concat()).await?;
        }
        if is_last {
            return Ok(());
        }
        if changed.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn replay(past: Past, after: u64) -> Reply {
    let (sender, reply) = reply::ndjson();
    tokio::spawn(async move {
        for batch in past.events(after).chunks(64) {
            if sender.bytes(batch.concat()).await.is_err() {
                return;
            }
        }
    });
    reply
}

fn key_of(text: &str) -> Result<String> {
    if text == SETUP {
        return Ok(SETUP.to_owned());
    }
    text.parse::<TurnId>()
        .map(|id| id.to_string())
        .map_err(|_| Fault::not_found(format!("there is no turn {text}")))
}

fn find(host: &Host, key: &str) -> Result<Found> {
    let journal = Journal::open(&host.root).map_err(|e| no_journal(&e))?;
    match host.turns.state().find(&key_of(key)?, &journal)? {
        Found::Nowhere => Err(Fault::not_found(format!("there is no turn {key}"))),
        found => Ok(found),
    }
}

pub fn events(host: &Host, key: &str, request: &Incomes) -> Result<Reply> {
    let after = after(request)?;
    match find(host, key)? {
        Found::Here(turn) => Ok(follow(turn, after)),
        Found::Past(past) => Ok(replay(past, after)),
        Found::Nowhere => Err(Fault::not_found(format!("there is no turn {key}"))),
    }
}

pub fn get(host: &Host, key: &str) -> Result<Reply> {
    match find(host, key)? {
        Found::Here(turn) => reply::json(&turn.info()),
        Found::Past(past) => reply::json(&TurnInfo {
            turn: past.head.turn.clone(),
            seq: past.head.seq,
            agent: past.head.agent.clone(),
            running: false,
            events: past.events(0).len() as u64,
            done: past.done(),
        }),
        Found::Nowhere => Err(Fault::not_found(format!("there is no turn {key}"))),
    }
}

pub fn list(host: &Host) -> Result<Reply> {
    let journal = Journal::open(&host.root).map_err(|e| no_journal(&e))?;
    let turns = journal.keys().map_err(|e| no_journal(&e))?;
    reply::json(&List { turns, running: host.turns.running() })
}

pub fn cancel(host: &Host, key: &str) -> Result<Reply> {
    let was_running = match find(host, key)? {
        Found::Here(turn) => turn.cancel(),
        _ => false,
    };
    reply::json(&Cancelled { was_running })
}
