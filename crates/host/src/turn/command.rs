//! Agents that speak `wire::host::agent`: `command` programs, and `python` and `node` functions by way of their runners.
//!
//! An agent that breaks the protocol, does not end when it is told to or runs out of time is killed, and started anew for
//! the next turn.
//!
//! `computer-use` is such a program too, this one with another first argument: what it does to itself cannot touch the first
//! process. One that dies is started again and goes on with the turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wharf_wire::host::agent::{FromAgent, LINE_BYTES, PROTOCOL, Resumed, ToAgent, parse_line};
use wharf_wire::host::exec::{Exit, Stream};
use wharf_wire::host::turn::{AgentKind, Block, Done, Outcome, Reason, Said, TurnRequest, Usage};

use super::agents::Kept;
use super::process::{Next, Patience, Process};
use super::relay::{Handover, Ran};
use super::{Turn, cancelled, failed, runner, timed_out};
use crate::host::Host;
use crate::tree;

/// How often an agent that dies in a turn is started again for it.
const RESTARTS: u32 = 3;

fn start(host: &Host, request: &TurnRequest) -> Result<Kept, String> {
    let spec = &request.agent;
    let process = Process::start(host, spec, &runner::program(host, spec)?)?;
    let identity = host.identity();
    let hello = ToAgent::Hello {
        protocol: PROTOCOL,
        agent: spec.name.clone(),
        session: identity.as_ref().map(|i| i.session),
        instructions: identity.as_ref().and_then(|i| i.instructions.clone()),
        agents: identity.as_ref().map(|i| i.agents.clone()).unwrap_or_default(),
        computer_use: spec.computer_use.clone(),
    };
    let kept = Kept { spec: spec.clone(), process, conversation: None, busy_since: tree::now() };
    match kept.process.tell(&hello) {
        Ok(()) => Ok(kept),
        Err(why) => {
            kept.kill();
            Err(why)
        }
    }
}

pub async fn run(host: &Host, turn: &Arc<Turn>, request: &TurnRequest, limit: Duration) -> Ran {
    let deadline = Instant::now() + limit;
    let resumes = request.agent.kind.resumes();
    // Of a turn that goes on, all that was said was said by this agent: none that resumes hands over.
    let before = if turn.is_resumed() { 0 } else { turn.milestones() };
    let mut restarts = 0;
    loop {
        let mut kept = match host.agents.take(&request.agent) {
            Some(kept) => kept,
            None => match start(host, request) {
                Ok(kept) => kept,
                Err(why) => return Ran::ended(failed(Reason::AgentStart, why)),
            },
        };
        kept.process.listen_for(Some(Arc::clone(turn)));
        let said = turn.milestones().saturating_sub(before);
        let resumed = (resumes && (said > 0 || turn.is_resumed())).then_some(Resumed { said });
        let mut reply = Reply::default();
        kept.busy_since = tree::now();
        let (mut ran, is_healthy) =
            converse(&mut kept, turn, request, resumed, (limit, deadline), &mut reply).await;
        if !reply.said_message && !reply.text.is_empty() {
            let text = std::mem::take(&mut reply.text);
            if turn.say(Said::Message { content: vec![Block::text(text)] }).is_err() {
                ran = Ran::ended(failed(Reason::AgentProtocol, "the agent said more than a turn may"));
            }
        }
        kept.process.listen_for(None);
        if is_healthy {
            kept.tidy(host, &ran.done);
            host.agents.keep(kept);
        } else {
            kept.kill();
        }
        if resumes && ran.done.reason == Some(Reason::AgentExited) && restarts < RESTARTS {
            restarts += 1;
            let because = serde_json::json!({ "because": ran.done.detail });
            if turn.say(Said::Event { name: "resumed".into(), data: because }).is_ok() {
                continue;
            }
        }
        turn.output_end(Stream::Stderr);
        return ran;
    }
}

#[derive(Default)]
struct Reply {
    text: String,
    said_message: bool,
}

/// How the turn ended, and whether the agent may be used again.
async fn converse(
    kept: &mut Kept,
    turn: &Arc<Turn>,
    request: &TurnRequest,
    resumed: Option<Resumed>,
    (limit, deadline): (Duration, Instant),
    reply: &mut Reply,
) -> (Ran, bool) {
    let broken = |reason, why: String| (Ran::ended(failed(reason, why)), false);
    let message = ToAgent::Message {
        turn: request.turn,
        seq: request.message.seq,
        content: request.message.content.clone(),
        resumed,
    };
    if let Err(why) = kept.process.tell(&message) {
        return broken(Reason::AgentExited, why);
    }
    let is_polite = matches!(kept.spec.kind, AgentKind::Python | AgentKind::Node | AgentKind::ComputerUse);
    let mut patience = Patience::until(deadline);
    // What the turn ends with, whatever the agent still says.
    let mut stopping: Option<Done> = None;
    loop {
        let next = kept.process.next(turn, &mut patience).await;
        let line = match next {
            Next::Line(line) => line,
            Next::TooLong => {
                return broken(
                    Reason::AgentProtocol,
                    format!("the agent wrote a line of more than {LINE_BYTES} bytes"),
                );
            }
            Next::Ended(exit) => return (Ran::ended(stopping.unwrap_or_else(|| exited(exit))), false),
            Next::Cancelled | Next::TimedOut => {
                let why = if matches!(next, Next::Cancelled) { cancelled() } else { timed_out(limit) };
                let cancel = ToAgent::Cancel { turn: request.turn };
                if stopping.is_some() || !is_polite || kept.process.tell(&cancel).is_err() {
                    return (Ran::ended(stopping.unwrap_or(why)), false);
                }
                stopping = Some(why);
                patience.last_words();
                continue;
            }
        };
        let said = match parse_line(&line) {
            Ok(said) => said,
            Err(why) => return broken(Reason::AgentProtocol, format!("not a line of the protocol: {why}")),
        };
        match step(kept, turn, request, reply, said) {
            Ok(None) => {}
            Ok(Some(ran)) => match stopping {
                // It ended because it was asked to; what it says of the reason is known already.
                Some(mut done) => {
                    done.usage = ran.done.usage;
                    return (Ran::ended(done), true);
                }
                None => return (ran, true),
            },
            Err(done) => return (Ran::ended(done), false),
        }
    }
}

pub fn exited(exit: Exit) -> Done {
    let how = match (exit.exit_code, exit.signal) {
        (Some(code), _) => format!("with code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "its output".into(),
    };
    let mut done = failed(Reason::AgentExited, format!("the agent ended {how} before the turn was done"));
    done.exit_code = exit.exit_code;
    done
}

/// One thing the agent said. Ok(Some): its part is done. Err: it is, and the agent cannot be trusted further.
fn step(
    kept: &Kept,
    turn: &Turn,
    request: &TurnRequest,
    reply: &mut Reply,
    said: FromAgent,
) -> Result<Option<Ran>, Done> {
    let too_much = |_| failed(Reason::AgentProtocol, "the agent said more than a turn may");
    match said {
        FromAgent::Text { text } => {
            // What `computer-use` says it says again as messages.
            if request.agent.kind != AgentKind::ComputerUse {
                reply.text.push_str(&text);
            }
            turn.say(Said::Text { text }).map_err(too_much)?;
        }
        FromAgent::Message { content } => {
            reply.said_message = true;
            turn.say(Said::Message { content }).map_err(too_much)?;
        }
        FromAgent::Event { name, data } => turn.say(Said::Event { name, data }).map_err(too_much)?,
        FromAgent::History {} => kept
            .process
            .tell(&ToAgent::History { messages: request.history.clone() })
            .map_err(|why| failed(Reason::AgentProtocol, why))?,
        FromAgent::Done { usage, is_error } => return Ok(Some(Ran::ended(done(usage, is_error)))),
        FromAgent::Handover { to, content, usage } => {
            return Ok(Some(Ran { done: done(usage, false), handover: Some(Handover { to, content }) }));
        }
        FromAgent::Error { detail, usage, reason } => {
            let mut done = failed(reason.unwrap_or(Reason::AgentError), detail);
            done.usage = usage;
            return Ok(Some(Ran::ended(done)));
        }
    }
    Ok(None)
}

pub fn done(usage: Option<Usage>, is_error: bool) -> Done {
    Done { outcome: Outcome::Done, reason: None, detail: None, exit_code: None, is_error, usage }
}
