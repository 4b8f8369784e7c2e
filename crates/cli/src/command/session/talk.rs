//! `wharf session send`, `messages`, `events`: the conversation and what happens around it.

use std::path::PathBuf;

use wharf_wire::api;

use super::super::common::{self, Paging};
use super::turn::Follower;
use crate::context::Ctx;
use crate::exit::{FAILED, Refusal, Silent};
use crate::output::table::Widths;
use crate::output::{Cell, Format, Show, Style, note, print};
use crate::{prompt, show};

/// Say something to the agent and follow its turn
///
/// What the agent says and its tools print appears as it comes. Ctrl-C cancels the turn; a second one leaves at once. Exit code 0 when the
/// turn is done, 1 when it failed, was cancelled, or its script ended with an error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session send demo 'ls -la && wc -l *.csv'
  wharf session send demo - < script.sh
  wharf session send demo --no-follow 'make all'
  wharf session send demo --to reviewer 'look at the last change'
  wharf session send demo -o json 'make test' | jq .type")]
pub struct Send {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// What to say; `-`, or nothing with input piped in, reads stdin
    text: Option<String>,
    /// Read what to say from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Only queue it
    #[arg(long)]
    no_follow: bool,
    /// Which of the session's agents shall answer; the default one when absent
    #[arg(long, value_name = "AGENT", value_parser = common::name)]
    to: Option<wharf_domain::Name>,
}

impl Send {
    fn text(&self) -> anyhow::Result<String> {
        let text = match (&self.text, &self.file) {
            (Some(text), _) if text != "-" => text.clone(),
            (None, Some(file)) => prompt::text(file)?,
            (None, None) if prompt::interactive() => {
                return Err(Refusal::usage(
                    "there is nothing to say",
                    "give the text, or `-` to read it from stdin",
                )
                .into());
            }
            _ => prompt::text("-".as_ref())?,
        };
        if text.trim().is_empty() {
            return Err(Refusal::usage("there is nothing to say", "the text is empty").into());
        }
        Ok(text)
    }

    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let text = self.text()?;
        let session = ctx.session(&self.session)?;
        let body = api::PostMessage { content: api::Content::text(text), to: self.to };
        let message = session.post(&body, false).await?.message;
        if self.no_follow {
            note(format!(
                "queued; `wharf session events {} --follow --after {}` follows it",
                self.session, message.seq
            ));
            return ctx.out.made(&message);
        }
        let mut follower = Follower::new(&ctx.out, &message);
        let mut events = session.events(Some(message.seq)).await?;
        let mut cancelled = false;
        loop {
            let event = tokio::select! {
                event = events.next_json::<api::SessionEvent>() => event,
                _ = tokio::signal::ctrl_c() => {
                    if cancelled {
                        return Err(Silent(130).into());
                    }
                    cancelled = true;
                    note("cancelling the turn; Ctrl-C again leaves it to itself");
                    session.cancel().await?;
                    continue;
                }
            };
            let Some(event) = event.transpose()? else {
                return Err(Refusal::failed("the session's events ended before the turn did").into());
            };
            if let Some(end) = follower.see(&event)? {
                return if end.well { Ok(()) } else { Err(Silent(FAILED).into()) };
            }
        }
    }
}

/// Show the messages of a session
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session messages demo
  wharf session messages demo --full")]
pub struct Messages {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// Show the text in full, one message after the other
    #[arg(short, long)]
    full: bool,
    #[command(flatten)]
    paging: Paging,
}

impl Messages {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let list = ctx.session(&self.session)?.messages(Vec::new());
        if !self.full || ctx.out.format != Format::Table {
            return common::list::<api::Message>(ctx, list, &self.paging, "no messages yet").await;
        }
        let (messages, more) = list.take::<api::Message>(self.paging.most()).await?;
        for m in &messages {
            let who = m.agent.clone().or_else(|| m.author.clone()).unwrap_or_else(|| show::word(&m.role));
            let head = format!("#{} {who} ({}, {})", m.seq, m.created_at, m.state.as_str());
            let text = crate::output::plain(show::said(&m.content).trim_end());
            print(format!("{}\n{text}\n\n", Style::Dim.paint(&head, ctx.out.colour)).as_bytes())?;
        }
        if more {
            note("there are more; --all shows them");
        }
        Ok(())
    }
}

/// Show what happens in a session
///
/// Begins with everything in the log, or behind `--after`; survives a broken connection without a gap or a repeat.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session events demo
  wharf session events demo --after 120 --follow
  wharf session events demo -f -o json | jq -c .data")]
pub struct Events {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// Begin behind this number
    #[arg(long, value_name = "SEQ")]
    after: Option<i64>,
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
}

impl Show for api::SessionEvent {
    const HEAD: &'static [&'static str] = &["SEQ", "AT", "TYPE", "DATA"];
    fn row(&self, _: wharf_domain::Time) -> Vec<Cell> {
        let style = match self.kind.rsplit('.').next() {
            Some("failed" | "error") => Style::Bad,
            Some("done") => Style::Good,
            _ => Style::Plain,
        };
        vec![
            Cell::new(self.seq),
            Cell::styled(self.at, Style::Dim),
            Cell::styled(&self.kind, style),
            Cell::new(&self.data),
        ]
    }
    fn name(&self) -> String {
        self.seq.to_string()
    }
}

impl Events {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let session = ctx.session(&self.session)?;
        let after = self.after.unwrap_or(0);
        let mut events =
            if self.follow { session.events(Some(after)).await? } else { session.log(after).await? };
        let head = ["1234567", "2026-01-31T12:00:00.000Z", "message.created", &"x".repeat(200)];
        let mut widths = Widths::of(&head, &[], ctx.out.width);
        loop {
            let event = tokio::select! {
                event = events.next_json::<api::SessionEvent>() => event,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            let Some(event) = event.transpose()? else { return Ok(()) };
            print(ctx.out.more_text(&event, &mut widths)?.as_bytes())?;
        }
    }
}
