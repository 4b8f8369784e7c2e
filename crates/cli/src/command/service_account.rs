//! `wharf service-account …`

use wharf_domain::Name;
use wharf_wire::api;

use super::common::{self, LabelChanges, Listing, NewLabels, Sure};
use super::user::disabled;
use crate::context::Ctx;

/// Identities of programs
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a service account
    #[command(after_help = "Examples:
  wharf service-account create ci --description 'the build server'
  wharf binding create --role developer --to service-account/ci --in lab
  wharf token create ci nightly --expires 90d")]
    Create {
        #[arg(value_parser = common::name)]
        name: Name,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        #[command(flatten)]
        labels: NewLabels,
    },
    /// Show the service accounts
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show service accounts in full
    Get {
        #[arg(required = true, add = crate::complete::service_accounts())]
        names: Vec<String>,
    },
    /// Change a service account
    Update {
        #[arg(add = crate::complete::service_accounts())]
        name: String,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Stop all its tokens at once
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Let its tokens work again
        #[arg(long)]
        enable: bool,
        #[command(flatten)]
        labels: LabelChanges,
    },
    /// Delete service accounts with their tokens
    Delete {
        #[arg(required = true, add = crate::complete::service_accounts())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let accounts = &ctx.client()?.service_accounts();
        match self {
            Self::Create { name, description, labels } => {
                let body = api::CreateServiceAccount { name, description, labels: labels.read()? };
                ctx.out.made(&accounts.create(&body).await?)
            }
            Self::List { listing } => {
                common::list::<api::ServiceAccount>(
                    ctx,
                    accounts.list_where(listing.filters()?),
                    &listing.paging,
                    "no service accounts",
                )
                .await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { accounts.get(&n).await }).await,
            Self::Update { name, description, disable, enable, labels } => {
                let disabled = disabled(enable, disable);
                let patch = api::PatchServiceAccount { description, disabled, labels: labels.patch() };
                ctx.out.made(&accounts.patch(&name, &patch, None).await?)
            }
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "service account", |n| async move { accounts.delete(&n).await })
                    .await
            }
        }
    }
}
