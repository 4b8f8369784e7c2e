//! `wharf session snapshot …`

use std::time::Duration;

use wharf_domain::Name;
use wharf_wire::api;

use super::super::common::{self, NewLabels, Paging, Sure};
use crate::context::Ctx;
use crate::exit::Refusal;

/// Point-in-time copies of a session's files
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Take a snapshot; a running session stands still for some milliseconds
    #[command(after_help = "Examples:
  wharf session snapshot create demo before-upgrade
  wharf session fork demo --snapshot before-upgrade")]
    Create {
        #[arg(add = crate::complete::sessions())]
        session: String,
        /// Its name; made up when absent
        #[arg(value_parser = common::name)]
        name: Option<Name>,
        #[command(flatten)]
        labels: NewLabels,
        /// Wait until it is taken (or could not be)
        #[arg(short, long)]
        wait: bool,
    },
    /// Show a session's snapshots
    List {
        #[arg(add = crate::complete::sessions())]
        session: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show snapshots in full
    Get {
        #[arg(add = crate::complete::sessions())]
        session: String,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Delete snapshots; forks made from them stay
    Delete {
        #[arg(add = crate::complete::sessions())]
        session: String,
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        match self {
            Self::Create { session, name, labels, wait } => {
                let snapshots = ctx.session(&session)?.snapshots();
                let mut taken =
                    snapshots.create(&api::CreateSnapshot { name, labels: labels.read()? }).await?;
                while wait && taken.state == api::SnapshotState::Pending {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    taken = snapshots.get(&taken.id.to_string()).await?;
                }
                ctx.out.made(&taken)?;
                if taken.state == api::SnapshotState::Failed {
                    let why = taken.state_reason.as_deref().unwrap_or("no reason was given");
                    return Err(Refusal::failed(format!(
                        "snapshot {} could not be taken: {why}",
                        taken.name
                    ))
                    .into());
                }
                Ok(())
            }
            Self::List { session, paging } => {
                let list = ctx.session(&session)?.snapshots().list();
                common::list::<api::Snapshot>(ctx, list, &paging, &format!("{session} has no snapshots"))
                    .await
            }
            Self::Get { session, names } => {
                let snapshots = &ctx.session(&session)?.snapshots();
                common::get(ctx, &names, |n| async move { snapshots.get(&n).await }).await
            }
            Self::Delete { session, names, sure } => {
                let snapshots = &ctx.session(&session)?.snapshots();
                common::delete(&names, &sure, "snapshot", |n| async move { snapshots.delete(&n).await }).await
            }
        }
    }
}
