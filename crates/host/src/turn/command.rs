//! `command` agents: programs kept alive between turns that speak `wire::host::agent` on their standard streams.
//!
//! What an agent says outside of a turn is dropped: there is nothing it could belong to. An agent that breaks the
//! protocol, is cancelled or runs out of time is killed, and started anew for the next turn.
//!
//! `computer-use` is such a program too, this one with another first argument: what it does to itself cannot touch the first
//! process. It is asked to end a turn before it is killed, and one that dies is started again and goes on with the turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use wharf_wire::host::agent::{FromAgent, LINE_BYTES, PROTOCOL, Resumed, ToAgent, parse_line};
use wharf_wire::host::exec::{Exit, Stream};
use wharf_wire::host::turn::{AgentKind, AgentSpec, Block, Done, Outcome, Reason, Said, TurnRequest, Usage};

use super::{Turn, cancelled, failed, timed_out};
use crate::host::Host;
use crate::limits;
use crate::pump::Pipe;
use crate::reaper::{ExitWatch, ended};
use crate::spawn::{Streams, Wanted, prepare};

/// Lines to an agent that it has not read yet.
const UNREAD_LINES: usize = 8;
/// How long an agent that was asked to end a turn may take; less than whoever asks the host waits.
const ENDING: Duration = Duration::from_secs(3);
/// How often an agent that dies in a turn is started again for it.
const RESTARTS: u32 = 3;
/// The host's own program, by the name it has for every process that runs it.
const OWN_PROGRAM: &str = "/proc/self/exe";

#[derive(Default)]
pub struct Agents {
    idle: Mutex<HashMap<String, Agent>>,
}

impl Agents {
    fn idle(&self) -> MutexGuard<'_, HashMap<String, Agent>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Active = Arc<Mutex<Option<Arc<Turn>>>>;

struct Agent {
    spec: AgentSpec,
    pid: i32,
    exit: ExitWatch,
    to: mpsc::Sender<Vec<u8>>,
    /// Lines with the turn they were said in: one said too late must not be taken for the next turn's.
    from: mpsc::Receiver<(Arc<Turn>, Line)>,
    active: Active,
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
}

impl Agent {
    fn start(host: &Host, spec: &AgentSpec) -> Result<Self, String> {
        let identity = host.identity();
        let built_in = [OWN_PROGRAM.to_owned(), "agent".to_owned()];
        let wanted = Wanted {
            argv: Some(if spec.kind == AgentKind::ComputerUse { &built_in } else { &spec.entry }),
            command: None,
            cwd: spec.cwd.as_deref(),
            env: &spec.env,
            user: None,
        };
        let spawned = prepare(host, &wanted)
            .and_then(|launch| launch.start(&host.reaper, host.power, Streams::Pipes { stdin: true }))
            .map_err(|fault| fault.0.detail)?;
        let pipes = || {
            let (i, o, e) = (spawned.stdin?, spawned.stdout?, spawned.stderr?);
            Some((Pipe::new(i).ok()?, Pipe::new(o).ok()?, Pipe::new(e).ok()?))
        };
        let Some((stdin, stdout, stderr)) = pipes() else {
            host.reaper.kill(spawned.pid);
            return Err("no descriptors for the agent's streams".into());
        };
        let active = Active::default();
        let (to, lines_in) = mpsc::channel(UNREAD_LINES);
        let (lines_out, from) = mpsc::channel(16);
        tokio::spawn(write_lines(stdin, lines_in));
        tokio::spawn(read_lines(stdout, lines_out, Arc::clone(&active)));
        tokio::spawn(read_log(stderr, Arc::clone(&active)));
        let agent = Self { spec: spec.clone(), pid: spawned.pid, exit: spawned.exit, to, from, active };
        let hello = ToAgent::Hello {
            protocol: PROTOCOL,
            agent: spec.name.clone(),
            session: identity.as_ref().map(|i| i.session),
            instructions: identity.as_ref().and_then(|i| i.instructions.clone()),
            agents: identity.as_ref().map(|i| i.agents.clone()).unwrap_or_default(),
            computer_use: spec.computer_use.clone(),
        };
        agent.tell(&hello)?;
        Ok(agent)
    }

    fn tell(&self, message: &ToAgent) -> Result<(), String> {
        let mut line = serde_json::to_vec(message).map_err(|e| e.to_string())?;
        line.push(b'\n');
        self.to.try_send(line).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => "the agent does not read what it asks for".to_owned(),
            mpsc::error::TrySendError::Closed(_) => "the agent closed its standard input".to_owned(),
        })
    }

    fn listen_for(&self, turn: Option<Arc<Turn>>) {
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }
}

async fn write_lines(stdin: Pipe, mut lines: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = lines.recv().await {
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

fn current(active: &Active) -> Option<Arc<Turn>> {
    active.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn read_lines(stdout: Pipe, lines: mpsc::Sender<(Arc<Turn>, Line)>, active: Active) {
    let mut buffer = Vec::new();
    let mut searched = 0;
    let mut is_skipping = false;
    while let Ok(1..) = stdout.read(&mut buffer, limits::PIECE_BYTES).await {
        while let Some(at) = buffer[searched..].iter().position(|b| *b == b'\n') {
            let rest = buffer.split_off(searched + at + 1);
            let mut line = std::mem::replace(&mut buffer, rest);
            line.pop();
            searched = 0;
            let was_skipped = std::mem::take(&mut is_skipping);
            if !was_skipped
                && let Some(turn) = current(&active)
                && lines.send((turn, Line::Whole(line))).await.is_err()
            {
                return;
            }
        }
        searched = buffer.len();
        if buffer.len() > LINE_BYTES {
            if !is_skipping
                && let Some(turn) = current(&active)
                && lines.send((turn, Line::TooLong)).await.is_err()
            {
                return;
            }
            is_skipping = true;
            buffer = Vec::new();
            searched = 0;
        }
    }
}

async fn read_log(stderr: Pipe, active: Active) {
    let mut buffer = Vec::new();
    while let Ok(1..) = stderr.read(&mut buffer, limits::PIECE_BYTES).await {
        if let Some(turn) = current(&active) {
            turn.output(Stream::Stderr, &buffer);
        }
        buffer.clear();
    }
}

pub async fn run(host: &Host, turn: &Arc<Turn>, request: TurnRequest, limit: Duration) -> Done {
    let deadline = Instant::now() + limit;
    let resumes = request.agent.kind.resumes();
    let mut restarts = 0;
    loop {
        let mut agent = match take(host, &request.agent) {
            Ok(agent) => agent,
            Err(why) => return failed(Reason::AgentStart, why),
        };
        agent.listen_for(Some(Arc::clone(turn)));
        let mut reply = Reply::default();
        let (mut done, is_healthy) =
            converse(&mut agent, turn, &request, (limit, deadline), &mut reply).await;
        let text = std::mem::take(&mut reply.text);
        if !reply.said_message
            && !text.is_empty()
            && turn.say(Said::Message { content: vec![Block::text(text)] }).is_err()
        {
            done = failed(Reason::AgentProtocol, "the agent said more than a turn may");
        }
        agent.listen_for(None);
        if is_healthy {
            keep(host, agent);
        } else {
            host.reaper.kill(agent.pid);
        }
        if resumes && done.reason == Some(Reason::AgentExited) && restarts < RESTARTS {
            restarts += 1;
            let again =
                Said::Event { name: "resumed".into(), data: serde_json::json!({ "because": done.detail }) };
            if turn.say(again).is_ok() {
                continue;
            }
        }
        turn.output_end(Stream::Stderr);
        return done;
    }
}

/// The agent that waits for its next turn, or a new one.
fn take(host: &Host, spec: &AgentSpec) -> Result<Agent, String> {
    let known = host.agents.idle().remove(&spec.name);
    match known {
        Some(agent) if agent.spec == *spec && agent.exit.borrow().is_none() => Ok(agent),
        other => {
            if let Some(old) = other {
                host.reaper.kill(old.pid);
            }
            Agent::start(host, spec)
        }
    }
}

fn keep(host: &Host, agent: Agent) {
    let mut idle = host.agents.idle();
    if idle.len() >= limits::AGENTS
        && let Some(name) = idle.keys().next().cloned()
        && let Some(old) = idle.remove(&name)
    {
        host.reaper.kill(old.pid);
    }
    idle.insert(agent.spec.name.clone(), agent);
}

#[derive(Default)]
struct Reply {
    text: String,
    said_message: bool,
}

/// How the turn ended, and whether the agent may be used again.
async fn converse(
    agent: &mut Agent,
    turn: &Arc<Turn>,
    request: &TurnRequest,
    (limit, deadline): (Duration, Instant),
    reply: &mut Reply,
) -> (Done, bool) {
    let said = turn.milestones();
    let message = ToAgent::Message {
        turn: request.turn,
        seq: request.message.seq,
        content: request.message.content.clone(),
        resumed: (request.agent.kind.resumes() && (said > 0 || turn.is_resumed()))
            .then_some(Resumed { said }),
    };
    if let Err(why) = agent.tell(&message) {
        return (failed(Reason::AgentExited, why), false);
    }
    let mut exit: Option<Exit> = None;
    let mut drained_at = deadline;
    // How the turn shall end, once the agent was asked to end it, and until when it may take for that.
    let mut ending: Option<(Done, Instant)> = None;
    loop {
        let end_by = ending.as_ref().map_or(deadline, |(_, at)| *at);
        let line = tokio::select! {
            biased;
            line = agent.from.recv() => match line {
                Some((of, _)) if !Arc::ptr_eq(&of, turn) => continue,
                line => line.map(|(_, line)| line),
            },
            end = ended(&agent.exit), if exit.is_none() => {
                exit = Some(end);
                drained_at = Instant::now() + limits::DRAIN;
                continue;
            }
            () = turn.cancelled(), if ending.is_none() => {
                match ask_to_end(agent, request, cancelled()) {
                    Ok(asked) => ending = Some(asked),
                    Err(done) => return (done, false),
                }
                continue;
            }
            () = tokio::time::sleep_until(end_by) => match ending {
                Some((done, _)) => return (done, false),
                None => {
                    match ask_to_end(agent, request, timed_out(limit)) {
                        Ok(asked) => ending = Some(asked),
                        Err(done) => return (done, false),
                    }
                    continue;
                }
            },
            () = tokio::time::sleep_until(drained_at), if exit.is_some() => None,
        };
        let line = match line {
            Some(Line::Whole(line)) => line,
            Some(Line::TooLong) => {
                let why = format!("the agent wrote a line of more than {LINE_BYTES} bytes");
                return (failed(Reason::AgentProtocol, why), false);
            }
            None => {
                let end = match exit {
                    Some(exit) => exit,
                    // Its output is closed but it may live on; it cannot answer any more.
                    None => tokio::time::timeout(limits::DRAIN, ended(&agent.exit)).await.unwrap_or_default(),
                };
                return (ending.map_or_else(|| exited(end), |(done, _)| done), false);
            }
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let said = match parse_line(&line) {
            Ok(said) => said,
            Err(why) => {
                return (failed(Reason::AgentProtocol, format!("not a line of the protocol: {why}")), false);
            }
        };
        match (step(agent, turn, request, reply, said), ending.take()) {
            (Ok(None), asked) => ending = asked,
            // It ended because it was asked to; what it says of the reason is known already.
            (Ok(Some(done)), Some((mut asked, _))) => {
                asked.usage = done.usage;
                return (asked, true);
            }
            (Ok(Some(done)), None) => return (done, true),
            (Err(done), _) => return (done, false),
        }
    }
}

/// Asks an agent that knows how to end the turn. Err: it does not, and is not to be used again.
fn ask_to_end(agent: &Agent, request: &TurnRequest, done: Done) -> Result<(Done, Instant), Done> {
    if request.agent.kind != AgentKind::ComputerUse
        || agent.tell(&ToAgent::Cancel { turn: request.turn }).is_err()
    {
        return Err(done);
    }
    Ok((done, Instant::now() + ENDING))
}

fn exited(exit: Exit) -> Done {
    let how = match (exit.exit_code, exit.signal) {
        (Some(code), _) => format!("with code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "its output".into(),
    };
    let mut done = failed(Reason::AgentExited, format!("the agent ended {how} before the turn was done"));
    done.exit_code = exit.exit_code;
    done
}

/// One thing the agent said. Ok(Some): the turn is done. Err: it is, and the agent cannot be trusted further.
fn step(
    agent: &Agent,
    turn: &Turn,
    request: &TurnRequest,
    reply: &mut Reply,
    said: FromAgent,
) -> Result<Option<Done>, Done> {
    let too_much = |_| failed(Reason::AgentProtocol, "the agent said more than a turn may");
    match said {
        FromAgent::Text { text } => {
            // What `computer-use` says it says again as messages.
            if request.agent.kind == AgentKind::Command {
                reply.text.push_str(&text);
            }
            turn.say(Said::Text { text }).map_err(too_much)?;
        }
        FromAgent::Message { content } => {
            reply.said_message = true;
            turn.say(Said::Message { content }).map_err(too_much)?;
        }
        FromAgent::Event { name, data } => turn.say(Said::Event { name, data }).map_err(too_much)?,
        FromAgent::History {} => agent
            .tell(&ToAgent::History { messages: request.history.clone() })
            .map_err(|why| failed(Reason::AgentProtocol, why))?,
        FromAgent::Done { usage, is_error } => return Ok(Some(done(usage, is_error))),
        FromAgent::Error { detail, usage, reason } => {
            let mut done = failed(reason.unwrap_or(Reason::AgentError), detail);
            done.usage = usage;
            return Ok(Some(done));
        }
    }
    Ok(None)
}

fn done(usage: Option<Usage>, is_error: bool) -> Done {
    Done { outcome: Outcome::Done, reason: None, detail: None, exit_code: None, is_error, usage }
}
