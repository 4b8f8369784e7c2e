//! `wharf session fork`

use wharf_domain::Name;
use wharf_domain::session::State;
use wharf_wire::api;

use super::super::common::{self, NewLabels};
use super::create::{Limits, Part, include, ready};
use super::life::until;
use super::network::Network;
use crate::context::Ctx;
use crate::output::print;

/// Make a new session from one, with its files and messages
///
/// The parent goes on undisturbed; what either does from now on is its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session fork demo try-2
  wharf session fork demo --snapshot before-upgrade
  wharf session fork demo clean --include files
  wharf session fork demo what-if --prompt 'make test'")]
pub struct Fork {
    /// The parent
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// The fork's name; made up when absent
    #[arg(value_parser = common::name)]
    name: Option<Name>,
    /// Fork from this snapshot (name or id) of the parent instead of its present state
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// What comes along; all when absent
    #[arg(long, value_name = "PARTS", value_enum, value_delimiter = ',')]
    include: Option<Vec<Part>>,
    /// The first new message
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    #[command(flatten)]
    labels: NewLabels,
    /// Wait until it is up (or could not be made)
    #[arg(short, long)]
    wait: bool,
    /// Print the request instead of sending it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    limits: Limits,
}

impl Fork {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let parent = ctx.session(&self.session)?;
        let snapshot = match &self.snapshot {
            None => None,
            Some(id) if id.len() == 36 && id.parse::<wharf_domain::SnapshotId>().is_ok() => id.parse().ok(),
            Some(name) => Some(parent.snapshots().get(name).await?.id),
        };
        let body = api::ForkSession {
            name: self.name,
            snapshot,
            include: include(self.include.as_deref()),
            resources: self.limits.patch(),
            network: self.network.patch(),
            prompt: self.prompt.map(api::Content::text),
            labels: if self.labels.is_empty() { None } else { Some(self.labels.read()?) },
            metadata: None,
        };
        if self.dry_run {
            return print((serde_json::to_string_pretty(&body)? + "\n").as_bytes());
        }
        let mut fork = parent.fork(&body).await?;
        if self.wait {
            fork = until(&ctx.session(&fork.id.to_string())?, |s| s.state != State::Init).await?;
        }
        ctx.out.made(&fork)?;
        if self.wait { ready(&fork) } else { Ok(()) }
    }
}
