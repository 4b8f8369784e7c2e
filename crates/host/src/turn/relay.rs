//! A turn from its first agent to its last: an agent may hand over to another of the session, a bounded number of times.
//!
//! All of it is one turn with one journal, one limit of time and one end, so nothing about crashes or cancels changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wharf_wire::host::turn::{AgentKind, Block, Done, PastMessage, Reason, Said, TurnRequest, Usage};

use super::shell::{self, Script, script_of};
use super::{Turn, acp, command, failed};
use crate::host::Host;
use crate::limits;

/// What became of one agent's part.
pub struct Ran {
    pub done: Done,
    pub handover: Option<Handover>,
}

impl Ran {
    pub fn ended(done: Done) -> Self {
        Self { done, handover: None }
    }
}

/// Who goes on, and with what when it is not the user's message.
pub struct Handover {
    pub to: String,
    pub content: Option<Vec<Block>>,
}

pub async fn run(host: &Arc<Host>, turn: &Arc<Turn>, mut request: TurnRequest, limit: Duration) -> Done {
    let deadline = Instant::now() + limit;
    let asked = request.message.content.clone();
    let mut used: Option<Usage> = None;
    for _ in 0..=limits::HANDOVERS {
        if !request.agents.is_empty() {
            turn.speaks(&request.agent.name);
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut ran = part(host, turn, &request, if used.is_none() { limit } else { left }).await;
        used = match (used, ran.done.usage.take()) {
            (Some(a), Some(b)) => Some(a.plus(b)),
            (a, b) => a.or(b),
        };
        ran.done.usage.clone_from(&used);
        let Some(handover) = ran.handover else { return ran.done };
        let from = request.agent.name.clone();
        let Some(next) = request.agents.iter().find(|a| a.name == handover.to && a.name != from) else {
            let others: Vec<&str> =
                request.agents.iter().map(|a| a.name.as_str()).filter(|n| *n != from).collect();
            let known = if others.is_empty() {
                "the session has no other".to_owned()
            } else {
                format!("the others are {}", others.join(", "))
            };
            return used_up(
                failed(Reason::AgentError, format!("{from} hands over to {:?}; {known}", handover.to)),
                used,
            );
        };
        let next = next.clone();
        if turn.say(Said::Handover { from: from.clone(), to: next.name.clone() }).is_err() {
            return used_up(failed(Reason::AgentProtocol, "the agents said more than a turn may"), used);
        }
        if request.history.last().is_none_or(|last| last.seq != request.message.seq) {
            request.history.push(PastMessage {
                seq: request.message.seq,
                role: "user".into(),
                agent: None,
                content: asked.clone(),
            });
        }
        for content in turn.take_replies() {
            request.history.push(PastMessage {
                seq: request.message.seq,
                role: "agent".into(),
                agent: Some(from.clone()),
                content,
            });
        }
        request.message.content = handover.content.unwrap_or_else(|| asked.clone());
        request.agent = next;
    }
    used_up(
        failed(
            Reason::AgentError,
            format!(
                "the turn was handed over more than {} times (limit HANDOVERS) and still has no end",
                limits::HANDOVERS
            ),
        ),
        used,
    )
}

fn used_up(mut done: Done, usage: Option<Usage>) -> Done {
    done.usage = usage;
    done
}

async fn part(host: &Arc<Host>, turn: &Arc<Turn>, request: &TurnRequest, limit: Duration) -> Ran {
    match request.agent.kind {
        AgentKind::Command | AgentKind::Python | AgentKind::Node | AgentKind::ComputerUse => {
            command::run(host, turn, request, limit).await
        }
        AgentKind::Acp => acp::run(host, turn, request, limit).await,
        AgentKind::Shell => Ran::ended(match script_of(&request.message.content) {
            Err(why) => failed(Reason::AgentError, why),
            Ok(text) => {
                let script = Script {
                    text,
                    cwd: request.agent.cwd.clone(),
                    env: request.agent.env.clone(),
                    user: None,
                };
                shell::run(host, turn, script, limit).await
            }
        }),
    }
}
