//! Drives one turn: sends the message to the host, appends what it says to the log, ends the turn once.
//!
//! What arrives while a commit is in flight goes into the next one, so a talkative agent costs one commit a round trip,
//! not one an event. The driver ends the turn or reports that it could not; it starts and stops no computer.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use wharf_domain::plan::Ending;
use wharf_domain::session::TurnState;
use wharf_domain::{Code, Error};
use wharf_store::sessions::SessionRow;
use wharf_store::sessions::work::{Append, Entry, TurnResult, TurnWork, Work};
use wharf_wire::host::Env;
use wharf_wire::host::turn::{AgentKind, AgentSpec, Block, Done, Outcome, PastMessage, Reason, Said};
use wharf_wire::host::turn::{TurnEvent, TurnMessage, TurnRequest};

use crate::host::{Events, HostFault, HostPort};

/// Events read ahead of the commit in flight. Beyond this the host waits.
const AHEAD: usize = 512;
/// How long a host may take to end a turn it was told to end.
const CANCEL_GRACE: Duration = Duration::from_secs(5);
/// Attempts to start a turn at a host that is busy with one that was cancelled, and the pause between them.
const CANCEL_ATTEMPTS: u32 = 50;
const CANCEL_PAUSE: Duration = Duration::from_millis(100);
/// History given to agents that may ask for it.
const HISTORY_BYTES: u64 = 4 * 1024 * 1024;

/// How driving ended.
#[derive(Debug)]
pub enum Driven {
    /// The turn is ended in the tables.
    Ended,
    /// The turn is ended in the tables, but its host did not obey: the computer cannot be trusted with another.
    Stuck,
    /// The host is gone; the turn still runs as far as the tables know.
    HostLost(String),
    /// The tables refused: another operator has it, or the database is away.
    Store(Error),
}

/// What a driver works with.
pub struct Drive<'a> {
    pub work: &'a Work,
    pub host: &'a dyn HostPort,
    pub socket: PathBuf,
    pub session: &'a SessionRow,
    pub turn: TurnWork,
    /// Of the computer at the socket.
    pub incarnation: u64,
    /// Set by the reconciler when the turn shall end.
    pub ending: watch::Receiver<Option<Ending>>,
    /// Called before a turn is ended whose host does not obey: the next one must not be sent to that host.
    pub stuck: &'a (dyn Fn() + Send + Sync),
}

impl Drive<'_> {
    pub async fn run(mut self) -> Driven {
        match self.try_run().await {
            Ok(driven) => driven,
            Err(Trouble::Host(HostFault::Away(why))) => Driven::HostLost(why),
            Err(Trouble::Host(HostFault::Refused { code, detail })) => {
                let result = TurnResult::failed("refused", Some(format!("{code}: {detail}")));
                self.end(&result).await.map_or_else(Driven::Store, |()| Driven::Ended)
            }
            Err(Trouble::Store(error)) => Driven::Store(error),
        }
    }

    async fn try_run(&mut self) -> Result<Driven, Trouble> {
        // A turn that was sent to another computer is not sent again, whatever this one remembers: the volume's journal
        // survives the death of a host, but not always that of the machine. Nor is one that shall end anyway. An agent that
        // keeps a journal of its own goes on where it was: there the same turn is handed to the new computer.
        if self.turn.sent.is_none() && self.turn.cancel.is_none() {
            self.work.send_turn(&mut self.turn, self.incarnation).await?;
        }
        let moved = self.turn.sent != Some(self.incarnation);
        let (agent, agents) = self.agents().await?;
        let resumes = agent.kind.resumes();
        let events = if (moved && !resumes) || self.turn.cancel.is_some() {
            match self.host.attach(&self.socket, self.turn.turn, self.turn.host_events).await? {
                Some(events) => events,
                None => {
                    let result = match self.turn.cancel.take() {
                        Some(reason) => TurnResult::cancelled(&reason),
                        None => TurnResult::failed("interrupted", None),
                    };
                    self.end(&result).await?;
                    return Ok(Driven::Ended);
                }
            }
        } else {
            let request = self.request(agent, agents).await?;
            self.start(&request).await?
        };
        let (tx, mut rx) = mpsc::channel(AHEAD);
        let reader = tokio::spawn(read(events, tx));
        let result = self.follow(&mut rx).await;
        reader.abort();
        result
    }

    async fn start(&self, request: &TurnRequest) -> Result<Events, HostFault> {
        let after = self.turn.host_events;
        // Another turn may still run there: its cancel got lost with an operator. Ending it takes the host a moment.
        for _ in 0..CANCEL_ATTEMPTS {
            match self.host.turn(&self.socket, request, after).await {
                Err(HostFault::Refused {
                    code: Code::InProgress | Code::InvalidState | Code::InUse, ..
                }) => {
                    self.host.cancel_others(&self.socket, self.turn.turn).await?;
                    tokio::time::sleep(CANCEL_PAUSE).await;
                }
                other => return other,
            }
        }
        self.host.turn(&self.socket, request, after).await
    }

    async fn follow(
        &mut self,
        rx: &mut mpsc::Receiver<Result<TurnEvent, HostFault>>,
    ) -> Result<Driven, Trouble> {
        let mut batch = Vec::new();
        let mut give_up: Option<(Instant, Ending)> = None;
        let mut watching = true;
        loop {
            let patience = give_up.as_ref().map(|(at, _)| *at);
            tokio::select! {
                n = rx.recv_many(&mut batch, AHEAD) => {
                    if n == 0 {
                        return Err(Trouble::Host(HostFault::Away("the stream of events ended early".into())));
                    }
                    if self.take(&mut batch, give_up.as_ref().map(|(_, e)| e)).await? {
                        return Ok(Driven::Ended);
                    }
                }
                changed = self.ending.changed(), if watching => {
                    watching = changed.is_ok();
                    let ending = self.ending.borrow_and_update().clone();
                    if let (Some(ending), None) = (ending, &give_up) {
                        give_up = Some((Instant::now() + CANCEL_GRACE, ending));
                        // A host that cannot be told is as deaf as one that does not obey.
                        let told = tokio::time::timeout(CANCEL_GRACE, self.host.cancel(&self.socket, self.turn.turn));
                        if let Ok(Err(HostFault::Away(why))) = told.await {
                            tracing::debug!(turn = %self.turn.turn, why, "the host could not be told to end the turn");
                        }
                    }
                }
                () = until(patience) => {
                    (self.stuck)();
                    let ending = give_up.take().map(|(_, e)| e);
                    self.end(&ended_by(ending.as_ref())).await?;
                    return Ok(Driven::Stuck);
                }
            }
        }
    }

    /// Appends a batch. True when the turn ended with it.
    async fn take(
        &mut self,
        batch: &mut Vec<Result<TurnEvent, HostFault>>,
        ending: Option<&Ending>,
    ) -> Result<bool, Trouble> {
        let mut said = Vec::with_capacity(batch.len());
        let (after, mut last, mut done, mut fault) =
            (self.turn.host_events, self.turn.host_events, None, None);
        for event in batch.drain(..) {
            match event {
                // Repeats of what is in the log already.
                Ok(event) if event.n <= last => {}
                Ok(event) => {
                    last = event.n;
                    match event.said {
                        Said::Done(d) => done = Some(d),
                        other => said.extend(entry(other, event.by)),
                    }
                }
                Err(e) => fault = Some(e),
            }
        }
        if let Some(done) = done {
            let result = ended(done, ending);
            self.work.finish_turn(&self.turn, after, last, &said, &result).await?;
            return Ok(true);
        }
        if last > after {
            self.work.append(&self.turn, after, last, &said).await?;
            self.turn.host_events = last;
        }
        fault.map_or(Ok(false), |e| Err(Trouble::Host(e)))
    }

    async fn end(&self, result: &TurnResult) -> Result<(), Error> {
        let t = &self.turn;
        self.work.end_turn(t.session, t.space, t.token, t.turn, result).await
    }

    async fn request(&self, agent: AgentSpec, agents: Vec<AgentSpec>) -> Result<TurnRequest, Trouble> {
        let asks = |a: &AgentSpec| a.kind != AgentKind::Shell;
        let history =
            if asks(&agent) || agents.iter().any(asks) { self.history().await? } else { Vec::new() };
        Ok(TurnRequest {
            turn: self.turn.turn,
            agent,
            agents,
            message: TurnMessage { seq: self.turn.seq, content: blocks(&self.turn.content)? },
            history,
            // The reconciler ends a turn at its deadline; the host's own limit is the net below that.
            timeout_seconds: Some(self.session.turn_timeout_seconds.saturating_add(60)),
        })
    }

    /// Who answers, and to whom the turn may be handed over.
    async fn agents(&self) -> Result<(AgentSpec, Vec<AgentSpec>), Trouble> {
        let default = agent_spec(&self.session.agent)?;
        if self.session.agents.is_empty() {
            return Ok((default, Vec::new()));
        }
        let all = self.session.agents.iter().map(agent_spec).collect::<Result<Vec<_>, _>>()?;
        let to = self.work.turn_agent(self.turn.turn).await?;
        let addressed = to.and_then(|to| all.iter().find(|a| a.name == to).cloned());
        Ok((addressed.unwrap_or(default), all))
    }

    async fn history(&self) -> Result<Vec<PastMessage>, Trouble> {
        let rows = self.work.history(self.turn.session, self.turn.seq, HISTORY_BYTES).await?;
        rows.into_iter()
            .map(|m| {
                Ok(PastMessage {
                    seq: m.seq,
                    role: m.role.as_str().to_owned(),
                    agent: m.agent,
                    content: blocks(&m.content)?,
                })
            })
            .collect()
    }
}

#[derive(Debug)]
enum Trouble {
    Host(HostFault),
    Store(Error),
}

impl From<HostFault> for Trouble {
    fn from(e: HostFault) -> Self {
        Self::Host(e)
    }
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Self::Store(e)
    }
}

async fn read(mut events: Events, tx: mpsc::Sender<Result<TurnEvent, HostFault>>) {
    while let Some(event) = events.next().await {
        let last = !matches!(&event, Ok(e) if !matches!(e.said, Said::Done(_)));
        if tx.send(event).await.is_err() || last {
            return;
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// An agent a session row speaks of.
pub fn agent_spec(agent: &Value) -> Result<AgentSpec, Error> {
    let word = |key: &str| agent.get(key).and_then(Value::as_str);
    let argv = || {
        let argv = agent.get("argv").and_then(Value::as_array);
        argv.map_or_else(Vec::new, |all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    };
    let called = || word("entry").map(str::to_owned).into_iter().collect::<Vec<_>>();
    let (kind, entry) = match word("kind") {
        Some("shell") => (AgentKind::Shell, Vec::new()),
        Some("command") => (AgentKind::Command, argv()),
        Some("python") => (AgentKind::Python, called()),
        Some("node") => (AgentKind::Node, called()),
        Some("acp") => (AgentKind::Acp, argv()),
        Some("computer-use") => (AgentKind::ComputerUse, Vec::new()),
        other => return Err(Error::internal(format!("an agent of kind {other:?} in the database"))),
    };
    let computer_use = match kind {
        AgentKind::ComputerUse => Some(serde_json::from_value(agent.clone()).map_err(Error::internal)?),
        _ => None,
    };
    // Of an agent of the space: where its package lies, and the environment its manifest gives it.
    let built = |key: &str| agent.get("built").and_then(|b| b.get(key));
    let env = built("env").cloned().map_or_else(|| Ok(Env::default()), serde_json::from_value);
    Ok(AgentSpec {
        name: agent_name(agent),
        kind,
        entry,
        cwd: word("cwd").map(str::to_owned),
        package: built("at").and_then(Value::as_str).map(str::to_owned),
        env: env.map_err(Error::internal)?,
        computer_use,
    })
}

/// How an agent of a session row is addressed.
pub fn agent_name(agent: &Value) -> String {
    let word = |key: &str| agent.get(key).and_then(Value::as_str);
    word("name").or_else(|| word("kind")).unwrap_or_default().to_owned()
}

fn blocks(content: &Value) -> Result<Vec<Block>, Error> {
    serde_json::from_value(content.clone()).map_err(Error::internal)
}

/// What the host said, as the log keeps it. `by` is who spoke, in a session with several agents.
fn entry(said: Said, by: Option<String>) -> Option<Append> {
    let named = by.clone();
    let plain = |kind, mut data: Value| {
        if let (Some(by), Value::Object(data)) = (named, &mut data) {
            data.insert("agent".to_owned(), Value::String(by));
        }
        Some(Append { kind, data, message: None })
    };
    match said {
        // The claim has written it.
        Said::Started { .. } | Said::Done(_) => None,
        Said::Output { stream, offset, piece } => {
            let mut data = json!({"stream": stream, "offset": offset});
            if let (Value::Object(to), Ok(Value::Object(from))) = (&mut data, serde_json::to_value(piece)) {
                to.extend(from);
            }
            plain("turn.output", data)
        }
        Said::OutputCut { stream, offset } => {
            plain("turn.output", json!({"stream": stream, "offset": offset, "cut": true}))
        }
        Said::Text { text } => plain("turn.delta", json!({"text": text})),
        Said::Message { content } => Some(Append {
            kind: "message.created",
            data: json!({"role": "agent"}),
            message: Some(Entry { agent: by, content: json!(content) }),
        }),
        Said::Handover { from, to } => {
            Some(Append { kind: "turn.handover", data: json!({"from": from, "to": to}), message: None })
        }
        Said::Event { name, data } => match name.as_str() {
            "tool_use" => plain("turn.tool_use", data),
            "tool_result" => plain("turn.tool_result", data),
            "thinking" => plain("turn.thinking", data),
            _ => plain("turn.log", json!({"name": name, "data": data})),
        },
    }
}

fn ended_by(ending: Option<&Ending>) -> TurnResult {
    match ending {
        Some(Ending::Failed(reason)) => TurnResult::failed(reason, None),
        Some(Ending::Cancelled(reason)) => TurnResult::cancelled(reason),
        None => TurnResult::cancelled("cancelled"),
    }
}

/// A turn that ended by itself keeps its result, even when somebody had asked for its end meanwhile.
fn ended(done: Done, ending: Option<&Ending>) -> TurnResult {
    let usage = done.usage.and_then(|u| serde_json::to_value(u).ok());
    let (state, reason) = match (done.outcome, ending) {
        (Outcome::Done, _) => (TurnState::Done, None),
        (Outcome::Cancelled, asked) => {
            let by = ended_by(asked);
            (by.state, by.reason)
        }
        (Outcome::Failed, _) => (TurnState::Failed, done.reason.map(reason)),
    };
    TurnResult {
        state,
        reason,
        detail: done.detail,
        exit_code: done.exit_code,
        is_error: done.is_error,
        usage,
    }
}

fn reason(r: Reason) -> String {
    match r {
        Reason::Timeout => "turn_timeout",
        Reason::Cancelled => "cancelled",
        Reason::Interrupted => "interrupted",
        Reason::AgentStart => "agent_start",
        Reason::AgentExited => "agent_exited",
        Reason::AgentProtocol => "agent_protocol",
        Reason::AgentError => "agent_error",
        Reason::Budget => "budget",
        Reason::Model => "model",
        Reason::Internal => "host_error",
    }
    .to_owned()
}
