//! Agents kept alive between turns, by name.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wharf_wire::host::turn::{AgentKind, AgentSpec, Done, Reason};

use super::acp::Conversation;
use super::process::Process;
use crate::host::Host;
use crate::limits;
use crate::tree;

#[derive(Default)]
pub struct Agents {
    idle: Mutex<HashMap<String, Kept>>,
}

pub struct Kept {
    pub spec: AgentSpec,
    pub process: Process,
    /// Of an `acp` agent, once it has one.
    pub conversation: Option<Conversation>,
    /// When it was given what it is at now.
    pub busy_since: u64,
}

impl Kept {
    /// Ends the agent and all it had started, through the host too.
    pub fn kill(self) {
        if let Some(conversation) = &self.conversation {
            conversation.terminals.kill_all();
        }
        drop(self.process);
    }

    /// The agent has stopped as it was told to and will be asked again: what it had started for that ends. `computer-use` has
    /// ended its tool itself, as far as it may: not what became another user.
    pub fn tidy(&self, host: &Host, done: &Done) {
        if !matches!(done.reason, Some(Reason::Cancelled | Reason::Timeout)) {
            return;
        }
        let ends_its_own = self.spec.kind == AgentKind::ComputerUse;
        host.reaper.kill_since(self.process.pid, self.busy_since, ends_its_own);
        if let Some(conversation) = &self.conversation {
            conversation.terminals.kill_since(self.busy_since);
            tree::kill_marked(&self.process.mark, self.busy_since, Some(self.process.pid));
        }
    }
}

impl Agents {
    fn idle(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent that answered before, when it still lives and is the one that is meant. Another of its name ends.
    pub fn take(&self, spec: &AgentSpec) -> Option<Kept> {
        let kept = self.idle().remove(&spec.name)?;
        if kept.spec == *spec && kept.process.is_alive() {
            return Some(kept);
        }
        kept.kill();
        None
    }

    pub fn keep(&self, kept: Kept) {
        let mut idle = self.idle();
        let over = if idle.len() >= limits::AGENTS { idle.keys().next().cloned() } else { None };
        let over = over.and_then(|name| idle.remove(&name));
        idle.insert(kept.spec.name.clone(), kept);
        drop(idle);
        if let Some(over) = over {
            over.kill();
        }
    }
}
