//! `wharf approval …`: what agents want to do that waits for somebody's yes.

use std::collections::HashSet;

use wharf_client::List;
use wharf_wire::api;

use super::common::{self, Paging};
use crate::context::Ctx;
use crate::exit::Refusal;
use crate::output::table::Widths;
use crate::output::{Format, Show as _, note, print};

/// How many are looked through for an id that is given in part.
const LOOKED_THROUGH: usize = 5000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum State {
    Pending,
    Allowed,
    Denied,
    Expired,
    Cancelled,
    All,
}

impl State {
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Pending => Some("pending"),
            Self::Allowed => Some("allowed"),
            Self::Denied => Some("denied"),
            Self::Expired => Some("expired"),
            Self::Cancelled => Some("cancelled"),
            Self::All => None,
        }
    }
}

/// One or several, and why.
#[derive(Debug, clap::Args)]
pub struct Decision {
    /// Ids, or their beginnings or ends where they tell them apart
    #[arg(required = true, add = crate::complete::approvals())]
    ids: Vec<String>,
    /// Why; the agent is told
    #[arg(short, long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Approvals: what waits for somebody's yes
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what waits
    #[command(after_help = "Examples:
  wharf approval list
  wharf approval list --session demo --state all")]
    List {
        /// Only of this session
        #[arg(long, value_name = "SESSION", add = crate::complete::sessions())]
        session: Option<String>,
        /// Only what stands so
        #[arg(long, value_name = "STATE", value_enum, default_value = "pending")]
        state: State,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show approvals in full: what is to be done, and who decided
    Get {
        #[arg(required = true, add = crate::complete::approvals())]
        ids: Vec<String>,
    },
    /// Say yes
    #[command(after_help = "Examples:
  wharf approval approve 0197f3c2
  wharf approval approve 0197f3c2 --reason 'reviewed with Una'")]
    Approve(Decision),
    /// Say no
    Deny(Decision),
    /// Show what waits, and what comes to wait, until interrupted
    Watch {
        /// Only of this session
        #[arg(long, value_name = "SESSION", add = crate::complete::sessions())]
        session: Option<String>,
    },
}

fn listed(ctx: &Ctx, session: Option<&str>, state: State) -> anyhow::Result<List> {
    let filters = state.word().map(|w| ("state", w.to_owned())).into_iter().collect();
    Ok(match session {
        Some(session) => ctx.session(session)?.approvals(filters),
        None => ctx.space()?.approvals(filters),
    })
}

/// The approval of an id, or of a part of it that only it has. What waits is looked at first.
async fn find(ctx: &Ctx, id: &str) -> anyhow::Result<api::Approval> {
    for state in [State::Pending, State::All] {
        let (all, _) = listed(ctx, None, state)?.take::<api::Approval>(Some(LOOKED_THROUGH)).await?;
        let mut found = all.into_iter().filter(|a| {
            let text = a.id.to_string();
            text.starts_with(id) || text.ends_with(id)
        });
        match (found.next(), found.next()) {
            (Some(one), None) => return Ok(one),
            (Some(_), Some(_)) => {
                let text = format!("several approvals have an id like {id}");
                return Err(Refusal::usage(text, "give more of it; see wharf approval list").into());
            }
            _ => {}
        }
    }
    let space = ctx.space()?.name().to_owned();
    Err(Refusal::failed(format!("there is no approval {id} in space {space} that you may see")).into())
}

async fn decide(ctx: &Ctx, decision: Decision, allow: bool) -> anyhow::Result<()> {
    let Decision { ids, reason } = decision;
    let reason = reason.as_deref();
    common::each(&ids, |id| async move {
        let found = find(ctx, &id).await?;
        let body = api::Decide { allow, reason: reason.map(str::to_owned) };
        let session = ctx.session(&found.session.to_string())?;
        ctx.out.made(&session.decide(&found.id.to_string(), &body).await?)
    })
    .await
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        match self {
            Self::List { session, state, paging } => {
                let list = listed(ctx, session.as_deref(), state)?;
                common::list::<api::Approval>(ctx, list, &paging, "nothing waits for a yes").await
            }
            Self::Get { ids } => {
                let mut all = Vec::new();
                for id in &ids {
                    all.push(find(ctx, id).await?);
                }
                match all.as_slice() {
                    [one] => ctx.out.one(one),
                    several => ctx.out.list(several),
                }
            }
            Self::Approve(decision) => decide(ctx, decision, true).await,
            Self::Deny(decision) => decide(ctx, decision, false).await,
            Self::Watch { session } => watch(ctx, session.as_deref()).await,
        }
    }
}

/// The list again with every event that may have changed it: an event alone does not say all.
async fn watch(ctx: &Ctx, session: Option<&str>) -> anyhow::Result<()> {
    let mut events = ctx.space()?.events(None).await?;
    let mut shown: HashSet<wharf_domain::ApprovalId> = HashSet::new();
    let mut widths: Option<Widths> = None;
    loop {
        let (now, _) =
            listed(ctx, session, State::Pending)?.take::<api::Approval>(Some(LOOKED_THROUGH)).await?;
        let new: Vec<_> = now.iter().filter(|a| !shown.contains(&a.id)).collect();
        if widths.is_none() {
            let rows: Vec<_> = new.iter().map(|a| a.row(ctx.out.now())).collect();
            let mut first = Widths::of(api::Approval::HEAD, &rows, ctx.out.width);
            if ctx.out.format == Format::Table {
                if new.is_empty() {
                    note("nothing waits yet; Ctrl-C ends this");
                }
                print(first.head(api::Approval::HEAD, ctx.out.width, ctx.out.colour).as_bytes())?;
            }
            widths = Some(first);
        }
        if let Some(widths) = &mut widths {
            for approval in &new {
                print(ctx.out.more_text(*approval, widths)?.as_bytes())?;
            }
        }
        shown = now.iter().map(|a| a.id).collect();
        loop {
            let event = tokio::select! {
                event = events.next_json::<api::SpaceEvent>() => event,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            match event.transpose()? {
                None => return Ok(()),
                Some(event) if event.resource == "approvals" => break,
                Some(_) => {}
            }
        }
    }
}
