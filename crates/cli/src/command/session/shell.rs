//! `wharf session shell`: a terminal inside, on the terminal here.
//!
//! A broken connection does not end it: the terminal lives in the session, and this comes back to it. Leaving is not ending: the
//! detach key (Ctrl-]) leaves the programs running for a later `--attach`.

use std::io::IsTerminal as _;
use std::time::Duration;

use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use wharf_client::{Terminal, TerminalEvent, terminal};

use super::raw::{Raw, size};
use crate::context::Ctx;
use crate::exit::{Refusal, Silent};
use crate::output::{note, print};

/// Ctrl-], as telnet and nspawn have it.
const DETACH: u8 = 0x1d;

/// Attempts to come back after a break, with growing pauses: half a minute in all.
const RETURNS: u32 = 8;

/// Open a terminal
///
/// Ctrl-D (or `exit`) ends the shell and this with it. Ctrl-] leaves it running; `--attach` comes back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session shell demo
  wharf session shell demo --user root
  wharf session shell demo --command top
  wharf session shell demo --attach 3")]
pub struct Shell {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// Come back to the terminal of this number
    #[arg(long, value_name = "ID", conflicts_with_all = ["user", "command"])]
    attach: Option<u64>,
    /// Who to be: agent or root
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Run a line of shell instead of a login shell
    #[arg(short, long, value_name = "LINE")]
    command: Option<String>,
}

/// Why a connection is over.
enum Over {
    Exit(u8),
    Detached,
    Broken(wharf_client::Error),
    /// We were told to go.
    Told,
}

impl Shell {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return Err(Refusal::usage(
                "a shell needs a terminal, and this is none",
                "`wharf session exec` runs commands without one",
            )
            .into());
        }
        let session = ctx.session(&self.session)?;
        let (cols, rows) = size();
        let mut options = terminal::Options {
            cols,
            rows,
            id: self.attach,
            after: None,
            user: self.user,
            command: self.command,
        };
        // How far the screen has come; not known of a terminal that somebody else opened.
        let mut seen = self.attach.is_none().then_some(0);
        let mut line = session.terminal(&options).await?;
        note("Ctrl-] leaves the terminal running");

        let raw = Raw::enter()?;
        let mut keys = crate::stdin::chunks(4096);
        let mut returns = 0;
        let over = loop {
            let over = talk(&mut line, &mut keys, &mut options.id, &mut seen).await?;
            let Over::Broken(error) = over else { break over };
            // Without its number there is nothing to come back to.
            if options.id.is_none() {
                break Over::Broken(error);
            }
            let mut last = error;
            loop {
                if returns == RETURNS {
                    break;
                }
                returns += 1;
                tokio::time::sleep(Duration::from_millis(100 << returns.min(6))).await;
                (options.cols, options.rows) = size();
                (options.after, options.user, options.command) = (seen, None, None);
                match session.terminal(&options).await {
                    Ok(again) => {
                        line = again;
                        break;
                    }
                    Err(e) if e.passing() => last = e,
                    Err(e) => {
                        returns = RETURNS;
                        last = e;
                    }
                }
            }
            if returns == RETURNS {
                break Over::Broken(last);
            }
        };
        drop(raw);
        match over {
            Over::Exit(0) => Ok(()),
            Over::Exit(code) => Err(Silent(code).into()),
            Over::Detached | Over::Told => {
                note("");
                if let Some(id) = options.id {
                    note(format!(
                        "detached; come back with: wharf session shell {} --attach {id}",
                        self.session
                    ));
                }
                Ok(())
            }
            Over::Broken(e) => {
                note("");
                Err(anyhow::Error::from(e).context("the terminal was lost"))
            }
        }
    }
}

/// Carries keys there and output here until one side ends it.
async fn talk(
    line: &mut Terminal,
    keys: &mut mpsc::Receiver<std::io::Result<Bytes>>,
    id: &mut Option<u64>,
    seen: &mut Option<u64>,
) -> anyhow::Result<Over> {
    let Some(mut writer) = line.keys() else { return Ok(Over::Told) };
    let mut resized = signal(SignalKind::window_change())?;
    let (mut hangup, mut term) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    loop {
        tokio::select! {
            event = line.next() => match event {
                Some(Ok(TerminalEvent::Output(bytes))) => {
                    if let Some(seen) = seen {
                        *seen += bytes.len() as u64;
                    }
                    print(&bytes)?;
                }
                Some(Ok(TerminalEvent::Attached(number))) => *id = Some(number),
                Some(Ok(TerminalEvent::Resize { .. })) => {}
                Some(Ok(TerminalEvent::Exit { code, signal })) => {
                    let code = code.or(signal.map(|s| 128 + s)).unwrap_or(1);
                    return Ok(Over::Exit(u8::try_from(code).unwrap_or(255)));
                }
                Some(Err(e)) if e.passing() => return Ok(Over::Broken(e)),
                Some(Err(e)) => return Err(e.into()),
                None => {
                    let reason = "it was closed".to_owned();
                    return Ok(Over::Broken(wharf_client::Error::Broken { url: "the terminal".into(), reason }));
                }
            },
            typed = keys.recv() => {
                let Some(Ok(typed)) = typed else { return Ok(Over::Told) };
                let mut typed = typed.to_vec();
                let detach = typed.iter().position(|b| *b == DETACH);
                typed.truncate(detach.unwrap_or(typed.len()));
                if !typed.is_empty() && let Err(e) = writer.send(typed).await {
                    return Ok(Over::Broken(e));
                }
                if detach.is_some() {
                    // A courtesy; the terminal goes on either way.
                    drop(writer.close().await);
                    return Ok(Over::Detached);
                }
            }
            _ = resized.recv() => {
                let (cols, rows) = size();
                if let Err(e) = writer.resize(cols, rows).await {
                    return Ok(Over::Broken(e));
                }
            }
            _ = hangup.recv() => return Ok(Over::Told),
            _ = term.recv() => return Ok(Over::Told),
        }
    }
}
