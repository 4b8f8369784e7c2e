//! `wharf session close`, `restore`, `cancel`, `delete`: asking for another state, and waiting for it where that is wanted.

use std::time::{Duration, Instant};

use wharf_client::SessionApi;
use wharf_domain::Code;
use wharf_domain::session::State;
use wharf_wire::api;

use super::super::common::{self, Sure};
use crate::context::Ctx;
use crate::exit::Refusal;
use crate::output::note;

/// Sessions to act on, and whether to see it through.
#[derive(Debug, clap::Args)]
pub struct Several {
    #[arg(required = true, add = crate::complete::sessions())]
    sessions: Vec<String>,
    /// Wait until it is so
    #[arg(short, long)]
    wait: bool,
}

/// Take computers down; files and messages stay
///
/// A message, a command or a restore brings a closed session up again, where it was.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session close demo
  wharf session close one two three --wait")]
pub struct Close {
    #[command(flatten)]
    several: Several,
}

/// Bring computers up again
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session restore demo --wait")]
pub struct Restore {
    #[command(flatten)]
    several: Several,
}

/// Cancel the turn that runs
///
/// What the agent said so far stays. Messages that wait are not cancelled.
#[derive(Debug, clap::Args)]
pub struct Cancel {
    #[arg(required = true, add = crate::complete::sessions())]
    sessions: Vec<String>,
}

/// Delete sessions with their files and messages
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session delete demo
  wharf session delete --labels team=ml --dry-run
  wharf session delete --labels team=ml --yes")]
pub struct Delete {
    #[arg(required_unless_present = "labels", add = crate::complete::sessions())]
    sessions: Vec<String>,
    /// All with these labels (a=b,c)
    #[arg(short, long, value_name = "SELECTOR", conflicts_with = "sessions")]
    labels: Option<String>,
    /// Wait until they are gone
    #[arg(short, long)]
    wait: bool,
    #[command(flatten)]
    sure: Sure,
}

/// A restore or a close that takes longer than this is worth a look.
const LONG: Duration = Duration::from_secs(120);

/// Waits until `done` says so of the session. Short pauses at first: most changes take milliseconds.
pub async fn until(
    session: &SessionApi,
    done: impl Fn(&api::Session) -> bool,
) -> anyhow::Result<api::Session> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let seen = session.get().await?;
        if done(&seen) {
            return Ok(seen);
        }
        if began.elapsed() > LONG {
            return Err(
                Refusal::failed(format!("session {} is still {}", seen.name, seen.state.as_str())).into()
            );
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

fn failed(session: &api::Session) -> anyhow::Result<()> {
    if session.state == State::Error {
        let why = session.state_reason.as_deref().unwrap_or("no reason was given");
        return Err(Refusal::failed(format!("session {} is in error: {why}", session.name)).into());
    }
    Ok(())
}

impl Close {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let (space, wait) = (ctx.space()?, self.several.wait);
        common::each(&self.several.sessions, |name| {
            let session = space.session(&name);
            async move {
                session.close().await?;
                if wait {
                    failed(&until(&session, |s| matches!(s.state, State::Closed | State::Error)).await?)?;
                }
                note(format!("session {name} {}", if wait { "closed" } else { "closes" }));
                Ok(())
            }
        })
        .await
    }
}

impl Restore {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let (space, wait) = (ctx.space()?, self.several.wait);
        common::each(&self.several.sessions, |name| {
            let session = space.session(&name);
            async move {
                session.restore().await?;
                if wait {
                    failed(
                        &until(&session, |s| matches!(s.state, State::Idle | State::Busy | State::Error))
                            .await?,
                    )?;
                }
                note(format!("session {name} {}", if wait { "is up" } else { "comes up" }));
                Ok(())
            }
        })
        .await
    }
}

impl Cancel {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        common::each(&self.sessions, |name| {
            let session = space.session(&name);
            async move {
                session.cancel().await?;
                note(format!("session {name}: what runs is cancelled"));
                Ok(())
            }
        })
        .await
    }
}

impl Delete {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        let names = match self.labels {
            None => self.sessions,
            Some(labels) => {
                labels.parse::<wharf_domain::Selector>()?;
                let list = space.sessions().list_where(vec![("labels", labels)]);
                let found: Vec<api::Session> = list.take(None).await?.0;
                found.into_iter().map(|s| s.name.to_string()).collect()
            }
        };
        if names.is_empty() {
            note("no session has these labels");
            return Ok(());
        }
        let (space, wait) = (&space, self.wait);
        common::delete(&names, &self.sure, "session", |name| async move {
            let session = space.session(&name);
            space.sessions().delete(&name).await?;
            if wait {
                loop {
                    match session.get().await {
                        Err(e) if e.is(Code::NotFound) => break,
                        Err(e) => return Err(e),
                        Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            }
            Ok(())
        })
        .await
    }
}
