//! A program that answers turns, line by line, and is kept alive between them.
//!
//! What it says outside of a turn is dropped: there is nothing it could belong to. It knows nothing of what lines mean.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use wharf_wire::host::agent::LINE_BYTES;
use wharf_wire::host::exec::{Exit, Stream};
use wharf_wire::host::turn::AgentSpec;

use super::Turn;
use crate::guardian::Guard;
use crate::host::Host;
use crate::limits;
use crate::pump::Pipe;
use crate::reaper::{ExitWatch, Reaper, ended};
use crate::spawn::{Streams, Wanted, memory_file, prepare};
use crate::tree;

/// Lines to an agent that it has not read yet.
const UNREAD_LINES: usize = 64;

type Active = Arc<Mutex<Option<Arc<Turn>>>>;

pub struct Process {
    /// Of its guardian: what it starts ends with it.
    pub pid: i32,
    pub exit: ExitWatch,
    reaper: Arc<Reaper>,
    /// In the environment of all it starts.
    pub mark: String,
    to: mpsc::Sender<Vec<u8>>,
    /// Lines with the turn they were said in: one said too late must not be taken for the next turn's.
    from: mpsc::Receiver<(Arc<Turn>, Line)>,
    active: Active,
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
}

/// What is started.
pub struct Program {
    pub argv: Vec<String>,
    /// Becomes descriptor 3.
    pub script: Option<&'static str>,
    pub env: wharf_wire::host::Env,
}

/// What came next.
pub enum Next {
    Line(Vec<u8>),
    TooLong,
    Ended(Exit),
    /// Told once; what the agent still says may be listened to.
    Cancelled,
    TimedOut,
}

/// How long a conversation may take, and what is known of its end.
pub struct Patience {
    deadline: Instant,
    drained_at: Instant,
    exit: Option<Exit>,
    heeds_cancel: bool,
}

impl Patience {
    pub fn until(deadline: Instant) -> Self {
        Self { deadline, drained_at: deadline, exit: None, heeds_cancel: true }
    }

    /// The agent was told to end: it has a moment left, and is not told again.
    pub fn last_words(&mut self) {
        self.deadline = Instant::now() + limits::LAST_WORDS;
        self.heeds_cancel = false;
    }
}

/// A way to say things to the agent from beside the conversation.
#[derive(Clone)]
pub struct Mouth(mpsc::Sender<Vec<u8>>);

impl Mouth {
    pub fn tell<T: Serialize>(&self, message: &T) -> Result<(), String> {
        let mut line = serde_json::to_vec(message).map_err(|e| e.to_string())?;
        line.push(b'\n');
        self.0.try_send(line).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => "the agent does not read what it asks for".to_owned(),
            mpsc::error::TrySendError::Closed(_) => "the agent closed its standard input".to_owned(),
        })
    }
}

impl Process {
    pub fn start(host: &Host, spec: &AgentSpec, program: &Program) -> Result<Self, String> {
        let mark = crate::host::random_name().map_err(|e| format!("the agent got no mark: {e}"))?;
        let mut env = program.env.clone();
        env.0.insert(tree::RUN.to_owned(), mark.clone());
        let wanted = Wanted {
            argv: Some(&program.argv),
            command: None,
            cwd: spec.cwd.as_deref(),
            env: &env,
            user: None,
        };
        let launch = prepare(host, &wanted).map_err(|fault| fault.0.detail.clone())?;
        let mut launch = launch.under(Guard::Ends);
        if let Some(script) = program.script {
            launch.script = Some(
                memory_file(script.as_bytes())
                    .map_err(|e| format!("the agent's runner was not kept: {e}"))?,
            );
        }
        let spawned = launch
            .start(&host.reaper, host.power, Streams::Pipes { stdin: true })
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
        Ok(Self {
            pid: spawned.pid,
            exit: spawned.exit,
            reaper: Arc::clone(&host.reaper),
            mark,
            to,
            from,
            active,
        })
    }

    pub fn is_alive(&self) -> bool {
        self.exit.borrow().is_none()
    }

    pub fn tell<T: Serialize>(&self, message: &T) -> Result<(), String> {
        self.mouth().tell(message)
    }

    pub fn mouth(&self) -> Mouth {
        Mouth(self.to.clone())
    }

    pub fn listen_for(&self, turn: Option<Arc<Turn>>) {
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }

    pub async fn next(&mut self, turn: &Arc<Turn>, patience: &mut Patience) -> Next {
        loop {
            let line = tokio::select! {
                biased;
                line = self.from.recv() => match line {
                    Some((of, _)) if !Arc::ptr_eq(&of, turn) => continue,
                    line => line.map(|(_, line)| line),
                },
                end = ended(&self.exit), if patience.exit.is_none() => {
                    patience.exit = Some(end);
                    patience.drained_at = Instant::now() + limits::DRAIN;
                    continue;
                }
                () = turn.cancelled(), if patience.heeds_cancel => {
                    patience.heeds_cancel = false;
                    return Next::Cancelled;
                }
                () = tokio::time::sleep_until(patience.deadline) => return Next::TimedOut,
                () = tokio::time::sleep_until(patience.drained_at), if patience.exit.is_some() => None,
            };
            return match line {
                Some(Line::Whole(line)) if line.iter().all(u8::is_ascii_whitespace) => continue,
                Some(Line::Whole(line)) => Next::Line(line),
                Some(Line::TooLong) => Next::TooLong,
                None => Next::Ended(match patience.exit {
                    Some(exit) => exit,
                    // Its output is closed but it may live on; it cannot answer any more.
                    None => {
                        tokio::time::timeout(limits::LAST_BREATH, ended(&self.exit)).await.unwrap_or_default()
                    }
                }),
            };
        }
    }
}

/// However a turn is left, a task that broke included, nothing of its agent is.
impl Drop for Process {
    fn drop(&mut self) {
        self.reaper.kill(self.pid);
        tree::kill_marked(&self.mark, 0, None);
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
