//! Agents kept alive between turns, by name.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wharf_wire::host::turn::AgentSpec;

use super::acp::Conversation;
use super::process::Process;
use crate::host::Host;
use crate::limits;

#[derive(Default)]
pub struct Agents {
    idle: Mutex<HashMap<String, Kept>>,
}

pub struct Kept {
    pub spec: AgentSpec,
    pub process: Process,
    /// Of an `acp` agent, once it has one.
    pub conversation: Option<Conversation>,
}

impl Kept {
    /// Ends the agent and all it had started through the host.
    pub fn kill(self, host: &Host) {
        host.reaper.kill(self.process.pid);
        if let Some(conversation) = self.conversation {
            conversation.terminals.kill_all(host);
        }
    }
}

impl Agents {
    fn idle(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent that answered before, when it still lives and is the one that is meant. Another of its name ends.
    pub fn take(&self, host: &Host, spec: &AgentSpec) -> Option<Kept> {
        let kept = self.idle().remove(&spec.name)?;
        if kept.spec == *spec && kept.process.is_alive() {
            return Some(kept);
        }
        kept.kill(host);
        None
    }

    pub fn keep(&self, host: &Host, kept: Kept) {
        let mut idle = self.idle();
        let over = if idle.len() >= limits::AGENTS { idle.keys().next().cloned() } else { None };
        let over = over.and_then(|name| idle.remove(&name));
        idle.insert(kept.spec.name.clone(), kept);
        drop(idle);
        if let Some(over) = over {
            over.kill(host);
        }
    }
}
