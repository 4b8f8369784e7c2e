//! `wharf session exec`: a command inside, as if it ran here. Its bytes are passed on as they are, its exit code too.

use std::io::Write as _;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::mpsc;
use wharf_client::{EventStream, SessionApi};
use wharf_wire::api::{self, ExecEvent, OutputStream, SignalName};

use super::super::common;
use crate::context::Ctx;
use crate::exit::{Refusal, Silent, UNAVAILABLE};
use crate::output::format::{parse_pair, parse_seconds};
use crate::output::{note, print};

/// Run a command
///
/// Output comes as it is written, stdout and stderr apart; the exit code is the command's (128 and the number of the
/// signal that ended it, 124 when its time ran out). Ctrl-C interrupts the command. A closed session is brought up first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session exec demo -- python3 -c 'print(6 * 7)'
  wharf session exec demo --command 'ls *.csv | wc -l'
  tar c src | wharf session exec demo --stdin -- tar x -C /home/agent
  wharf session exec demo --user root -- apt-get install -y jq
  wharf session exec one two three -- uptime")]
pub struct Exec {
    #[arg(required = true, add = crate::complete::sessions())]
    sessions: Vec<String>,
    /// Program and arguments, run without a shell
    #[arg(last = true, value_name = "PROGRAM", required_unless_present = "command")]
    argv: Vec<std::ffi::OsString>,
    /// A line for the shell instead of a program
    #[arg(short, long, value_name = "LINE", conflicts_with = "argv")]
    command: Option<String>,
    /// Pass stdin on to the command
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Who to run as: agent or root
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Directory to run in; the user's home when absent
    #[arg(short = 'C', long, value_name = "DIR")]
    cwd: Option<String>,
    /// Variable beside the session's own (repeat for more)
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// Kill it after this long (10 minutes when absent)
    #[arg(short, long, value_name = "DURATION", value_parser = parse_seconds)]
    timeout: Option<u32>,
    /// Leave it running in the session and print its number
    #[arg(short, long, conflicts_with = "stdin")]
    background: bool,
}

/// Bytes of stdin in one call: as base64 in a JSON body well below the limit of one.
const STDIN_BYTES: usize = 2 * 1024 * 1024;

/// How a command ended.
enum Ended {
    Code(i32),
    Signal(i32),
    TimedOut,
}

impl Exec {
    fn request(&self) -> anyhow::Result<api::ExecRequest> {
        let argv: Vec<String> = self
            .argv
            .iter()
            .map(|a| {
                a.clone().into_string().map_err(|a| {
                    Refusal::usage(
                        format!("{} is not UTF-8 text", a.to_string_lossy()),
                        "pass such bytes on stdin, with --stdin",
                    )
                    .into()
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(api::ExecRequest {
            argv: (!argv.is_empty()).then_some(argv),
            command: self.command.clone(),
            cwd: self.cwd.clone(),
            env: self.env.iter().cloned().collect(),
            timeout_seconds: self.timeout,
            user: self.user.clone(),
            ..api::ExecRequest::default()
        })
    }

    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        let body = self.request()?;
        if self.stdin && self.sessions.len() > 1 {
            return Err(Refusal::usage(
                "stdin can go to one session only",
                "name one session, or leave out --stdin",
            )
            .into());
        }
        let (many, space) = (self.sessions.len() > 1, &space);
        let (this, body) = (&self, &body);
        common::each(&this.sessions, |name| async move {
            if many {
                note(format!("[{name}]"));
            }
            let session = space.session(&name);
            if this.background {
                return ctx.out.made(&session.spawn(body).await?);
            }
            let ended =
                if this.stdin { piped(&session, body).await? } else { streamed(&session, body).await? };
            match ended {
                Ended::Code(0) => Ok(()),
                Ended::Code(code) => Err(Silent(u8::try_from(code).unwrap_or(255)).into()),
                Ended::Signal(n) => {
                    note(format!("ended by signal {n}"));
                    Err(Silent(u8::try_from(128 + n).unwrap_or(255)).into())
                }
                Ended::TimedOut => {
                    note("its time ran out; --timeout gives it more");
                    Err(Silent(124).into())
                }
            }
        })
        .await
    }
}

/// The simple way: one streamed call. Leaving it ends the command.
async fn streamed(session: &SessionApi, body: &api::ExecRequest) -> anyhow::Result<Ended> {
    let mut events = session.exec_stream(body).await?;
    tokio::select! {
        ended = pass_on(&mut events) => ended,
        _ = tokio::signal::ctrl_c() => Err(Silent(130).into()),
    }
}

/// With stdin: a process of its own, fed from here. Ctrl-C is passed on as SIGINT, a second one as SIGKILL.
async fn piped(session: &SessionApi, body: &api::ExecRequest) -> anyhow::Result<Ended> {
    let body = api::ExecRequest {
        stdin_open: true,
        timeout_seconds: body.timeout_seconds.or(Some(wharf_domain::limits::EXEC_TIMEOUT_SECONDS)),
        ..body.clone()
    };
    let process = session.spawn(&body).await?;
    let mut events = session.follow(process.id).await?;
    let feed = feed(session, process.id, crate::stdin::chunks(256 * 1024));
    let mut out = Box::pin(pass_on(&mut events));
    let mut feed = Box::pin(feed);
    let (mut fed, mut interrupts) = (false, 0);
    loop {
        tokio::select! {
            ended = &mut out => return ended,
            done = &mut feed, if !fed => {
                fed = true;
                done?;
            }
            _ = tokio::signal::ctrl_c() => {
                interrupts += 1;
                let signal = if interrupts == 1 { SignalName::Int } else { SignalName::Kill };
                session.signal(process.id, signal).await?;
            }
        }
    }
}

async fn feed(
    session: &SessionApi,
    process: u64,
    mut chunks: mpsc::Receiver<std::io::Result<Bytes>>,
) -> anyhow::Result<()> {
    let mut last = false;
    loop {
        let mut bytes = match chunks.recv().await.transpose().context("stdin cannot be read")? {
            Some(chunk) => chunk.to_vec(),
            None => Vec::new(),
        };
        last |= bytes.is_empty();
        // What is there already travels along: each call costs a round trip and an audit entry.
        while !last && bytes.len() < STDIN_BYTES {
            match chunks.try_recv() {
                Ok(chunk) => bytes.extend_from_slice(&chunk.context("stdin cannot be read")?),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => last = true,
            }
        }
        match session.stdin(process, &bytes, last).await {
            Ok(()) if last => return Ok(()),
            Ok(()) => {}
            // It closed its stdin or ended: as with a pipe, what it did not read is not an error of ours.
            Err(wharf_client::Error::Problem(p)) if matches!(p.status, 404 | 409 | 422) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Writes the output as it comes, until the exit.
async fn pass_on(events: &mut EventStream) -> anyhow::Result<Ended> {
    while let Some(event) = events.next_json::<ExecEvent>().await {
        match event? {
            ExecEvent::Started { .. } => {}
            ExecEvent::Output { stream, data, encoding, .. } => {
                let bytes =
                    encoding.decode(&data).context("a piece of output is not what its encoding says")?;
                if stream == OutputStream::Stderr {
                    let mut err = std::io::stderr().lock();
                    err.write_all(&bytes)?;
                    err.flush()?;
                } else {
                    print(&bytes)?;
                }
            }
            ExecEvent::Gap { from, to, .. } => note(format!(
                "{} bytes of output were dropped: it wrote faster than they could be read",
                to - from
            )),
            ExecEvent::Exit { timed_out: true, .. } => return Ok(Ended::TimedOut),
            ExecEvent::Exit { exit_code: Some(code), .. } => return Ok(Ended::Code(code)),
            ExecEvent::Exit { signal, .. } => return Ok(Ended::Signal(signal.unwrap_or(0))),
            ExecEvent::Error { problem } => {
                return Err(wharf_client::Error::Problem(Box::new((*problem).into())).into());
            }
        }
    }
    Err(Refusal {
        code: UNAVAILABLE,
        message: "the connection ended before the command did".into(),
        hint: Some("whether the command ran to its end is not known".into()),
    }
    .into())
}
