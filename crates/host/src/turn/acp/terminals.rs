//! Commands an agent runs through the host: started, looked at, waited for, killed, released.
//!
//! They may outlast a turn, as a development server does, and never the agent that started them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};
use wharf_wire::host::Env;
use wharf_wire::host::exec::Exit;

use super::rpc::Fault;
use crate::guardian::Guard;
use crate::host::Host;
use crate::limits;
use crate::pump::Pipe;
use crate::reaper::{ExitWatch, Reaper, ended};
use crate::spawn::{Streams, Wanted, prepare};
use crate::tree;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Create {
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    output_byte_limit: Option<usize>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

pub struct Terminals {
    state: Mutex<State>,
    /// That of the agent.
    mark: String,
}

#[derive(Default)]
struct State {
    made: u64,
    all: HashMap<String, Arc<Terminal>>,
}

struct Terminal {
    pid: i32,
    since: u64,
    reaper: Arc<Reaper>,
    exit: ExitWatch,
    output: Mutex<Output>,
}

#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    limit: usize,
    is_truncated: bool,
}

impl Output {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, is_truncated: false }
    }

    /// The newest bytes stay; a character is not cut.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let over = self.bytes.len().saturating_sub(self.limit);
        if over > 0 {
            let torn =
                self.bytes[over..].iter().take(3).take_while(|b| **b & 0b1100_0000 == 0b1000_0000).count();
            self.bytes.drain(..over + torn);
            self.is_truncated = true;
        }
    }

    pub(super) fn text(&self) -> (String, bool) {
        (String::from_utf8_lossy(&self.bytes).into_owned(), self.is_truncated)
    }
}

impl Terminals {
    pub fn of(mark: &str) -> Self {
        Self { state: Mutex::default(), mark: mark.to_owned() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Terminal>, Fault> {
        let found = self.state().all.get(id).cloned();
        found.ok_or_else(|| Fault::params(format!("there is no terminal {id}")))
    }

    pub fn create(&self, host: &Arc<Host>, wanted: &Create) -> Result<String, Fault> {
        if self.state().all.len() >= limits::ACP_TERMINALS {
            return Err(Fault::new(
                Fault::INTERNAL,
                format!("{} terminals are held, which is the limit: release some", limits::ACP_TERMINALS),
            ));
        }
        let mut env = Env(wanted.env.iter().map(|v| (v.name.clone(), v.value.clone())).collect());
        env.0.insert(tree::RUN.to_owned(), self.mark.clone());
        // Without arguments many agents send a whole line, for a shell to read.
        let argv: Option<Vec<String>> = (!wanted.args.is_empty())
            .then(|| std::iter::once(&wanted.command).chain(&wanted.args).cloned().collect());
        let what = Wanted {
            argv: argv.as_deref(),
            command: argv.is_none().then_some(wanted.command.as_str()),
            cwd: wanted.cwd.as_deref(),
            env: &env,
            user: None,
        };
        let since = tree::now();
        let spawned = prepare(host, &what)
            .and_then(|launch| launch.under(Guard::Leaves).start(&host.reaper, host.power, Streams::Merged))
            .map_err(|fault| Fault::new(Fault::INTERNAL, fault.0.detail))?;
        let Ok(Some(pipe)) = spawned.stdout.map(Pipe::new).transpose() else {
            host.reaper.kill(spawned.pid);
            return Err(Fault::new(Fault::INTERNAL, "no descriptor for the terminal's output"));
        };
        let limit = wanted.output_byte_limit.unwrap_or(usize::MAX).min(limits::ACP_TERMINAL_BYTES);
        let terminal = Arc::new(Terminal {
            pid: spawned.pid,
            since,
            reaper: Arc::clone(&host.reaper),
            exit: spawned.exit,
            output: Mutex::new(Output::new(limit)),
        });
        let mut state = self.state();
        state.made += 1;
        let id = format!("terminal-{}", state.made);
        state.all.insert(id.clone(), Arc::clone(&terminal));
        drop(state);
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Ok(1..) = pipe.read(&mut buffer, limits::PIECE_BYTES).await {
                terminal.output.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer);
                buffer.clear();
            }
        });
        Ok(id)
    }

    pub fn output(&self, id: &str) -> Result<Value, Fault> {
        let terminal = self.find(id)?;
        let (output, truncated) = terminal.output.lock().unwrap_or_else(PoisonError::into_inner).text();
        let mut answer = json!({"output": output, "truncated": truncated});
        if let (Some(exit), Value::Object(answer)) = (*terminal.exit.borrow(), &mut answer) {
            answer.insert("exitStatus".into(), status(exit));
        }
        Ok(answer)
    }

    pub async fn wait(&self, id: &str) -> Result<Value, Fault> {
        let terminal = self.find(id)?;
        let exit = ended(&terminal.exit).await;
        // Its last words are still on their way.
        tokio::time::sleep(limits::DRAIN / 10).await;
        Ok(status(exit))
    }

    pub fn kill(&self, host: &Host, id: &str) -> Result<Value, Fault> {
        host.reaper.kill(self.find(id)?.pid);
        Ok(Value::Null)
    }

    pub fn release(&self, host: &Host, id: &str) -> Result<Value, Fault> {
        host.reaper.kill(self.find(id)?.pid);
        self.state().all.remove(id);
        Ok(Value::Null)
    }

    pub fn kill_all(&self) {
        let all = std::mem::take(&mut self.state().all);
        for terminal in all.values() {
            terminal.reaper.kill(terminal.pid);
        }
    }

    /// Kills what was started since then; what they said can still be read.
    pub fn kill_since(&self, since: u64) {
        let all: Vec<_> = self.state().all.values().filter(|t| t.since >= since).cloned().collect();
        for terminal in all {
            terminal.reaper.kill(terminal.pid);
        }
    }
}

/// They never outlast the agent that started them, however it is lost.
impl Drop for Terminals {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn status(exit: Exit) -> Value {
    let signal = exit.signal.map(|s| s.to_string());
    json!({"exitCode": exit.exit_code, "signal": signal})
}
