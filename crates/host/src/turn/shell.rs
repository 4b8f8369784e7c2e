//! The `shell` agent: the text of a message is a script; the reply is what it wrote and how it ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wharf_wire::host::Env;
use wharf_wire::host::exec::{Exit, Stream};
use wharf_wire::host::turn::{Block, Done, Outcome, Reason, Said};

use super::{Turn, cancelled, failed, timed_out};
use crate::host::Host;
use crate::limits;
use crate::pump::Pipe;
use crate::reaper::ended;
use crate::spawn::{Streams, Wanted, prepare};
use crate::text::HeadTail;

pub struct Script {
    pub text: String,
    pub cwd: Option<String>,
    pub env: Env,
    pub user: Option<String>,
}

/// The script of a message. A block that is no text is refused: leaving it out would answer another message.
pub fn script_of(content: &[Block]) -> Result<String, String> {
    let mut parts = Vec::with_capacity(content.len());
    for block in content {
        parts.push(block.as_text().ok_or_else(|| {
            format!("the shell agent takes text, and the message holds a block of type {:?}", block.kind())
        })?);
    }
    if parts.is_empty() {
        return Err("the message holds no text".into());
    }
    Ok(parts.join("\n"))
}

enum Stop {
    Cancelled,
    Timeout,
}

pub async fn run(host: &Host, turn: &Turn, script: Script, limit: Duration) -> Done {
    let wanted = Wanted {
        argv: None,
        command: Some(&script.text),
        cwd: script.cwd.as_deref(),
        env: &script.env,
        user: script.user.as_deref(),
    };
    let started =
        prepare(host, &wanted).and_then(|launch| launch.start(&host.reaper, host.power, Streams::Merged));
    let spawned = match started {
        Ok(spawned) => spawned,
        Err(fault) => return failed(Reason::AgentStart, fault.0.detail),
    };
    let pipe = spawned.stdout.map(Pipe::new).transpose();
    let Ok(Some(pipe)) = pipe else {
        host.reaper.kill(spawned.pid);
        return failed(Reason::AgentStart, "no descriptor for the script's output");
    };
    let pipe = Arc::new(pipe);

    let mut said = HeadTail::new(limits::REPLY_BYTES);
    let deadline = Instant::now() + limit;
    let mut fresh = Vec::new();
    let mut pending: Vec<u8> = Vec::new();
    let mut flush_at = Instant::now();
    let mut stop: Option<Stop> = None;
    let mut exit: Option<Exit> = None;
    let mut drained_at = deadline;
    let mut is_open = true;
    while exit.is_none() || is_open {
        tokio::select! {
            biased;
            read = pipe.read(&mut fresh, limits::PIECE_BYTES), if is_open => {
                is_open = matches!(read, Ok(n) if n > 0);
                said.push(&fresh);
                pending.append(&mut fresh);
            }
            () = tokio::time::sleep_until(flush_at), if !pending.is_empty() => {}
            end = ended(&spawned.exit), if exit.is_none() => {
                exit = Some(end);
                drained_at = Instant::now() + limits::DRAIN;
            }
            () = turn.cancelled(), if stop.is_none() && exit.is_none() => {
                stop = Some(Stop::Cancelled);
                host.reaper.kill(spawned.pid);
            }
            () = tokio::time::sleep_until(deadline), if stop.is_none() && exit.is_none() => {
                stop = Some(Stop::Timeout);
                host.reaper.kill(spawned.pid);
            }
            () = tokio::time::sleep_until(drained_at), if exit.is_some() => break,
        }
        // The first words go out at once; what follows closely travels together.
        if !pending.is_empty() && (Instant::now() >= flush_at || pending.len() >= limits::PIECE_BYTES) {
            turn.output(Stream::Output, &pending);
            pending.clear();
            flush_at = Instant::now() + limits::COALESCE;
        }
    }
    turn.output(Stream::Output, &pending);
    turn.output_end(Stream::Output);
    if is_open {
        // Something the script left behind still writes; it must not die of that.
        let sink = Arc::new(crate::ring::Ring::new(1));
        tokio::spawn(crate::pump::into_ring(pipe, sink));
    }
    let exit = exit.unwrap_or_default();
    let mut done = match stop {
        Some(Stop::Cancelled) => cancelled(),
        Some(Stop::Timeout) => timed_out(limit),
        None => Done {
            outcome: Outcome::Done,
            reason: None,
            detail: None,
            exit_code: None,
            is_error: !exit.success(),
            usage: None,
        },
    };
    done.exit_code = exit.exit_code;
    if done.outcome == Outcome::Done
        && let Some(signal) = exit.signal
    {
        done.detail = Some(format!("the script was ended by signal {signal}"));
    }
    let text = reply(&said.text(), exit, done.outcome);
    if !text.is_empty() && turn.say(Said::Message { content: vec![Block::text(text)] }).is_err() {
        return failed(Reason::Internal, "the reply is larger than a turn may say");
    }
    done
}

/// The output, and a line on the exit where it is not the plain success of a script that wrote something.
fn reply(output: &str, exit: Exit, outcome: Outcome) -> String {
    let mut text = output.to_owned();
    if outcome == Outcome::Done && (!exit.success() || text.is_empty()) {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let how = match (exit.exit_code, exit.signal) {
            (Some(code), _) => format!("[exit code {code}]"),
            (None, Some(signal)) => format!("[ended by signal {signal}]"),
            (None, None) => String::new(),
        };
        text.push_str(&how);
    }
    text
}
