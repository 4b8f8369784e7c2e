//! `wharf binding …`: who has which role, where.

use wharf_domain::Name;
use wharf_wire::api::{self, PrincipalRef};

use super::common::{self, Listing, NewLabels, Sure};
use crate::context::Ctx;

/// Role bindings: who has which role, where
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Give a role to a principal, in one space or everywhere
    #[command(after_help = "Examples:
  wharf binding create --role developer --to user/alice --in lab
  wharf binding create --role viewer --to service-account/monitor --everywhere")]
    Create(Create),
    /// Show the bindings
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show bindings in full
    Get {
        #[arg(required = true, add = crate::complete::bindings())]
        names: Vec<String>,
    },
    /// Take roles away again
    Delete {
        #[arg(required = true, add = crate::complete::bindings())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["in_space", "everywhere"]))]
pub struct Create {
    /// What to call the binding; made from its parts when absent
    #[arg(value_parser = common::name)]
    name: Option<Name>,
    /// The role
    #[arg(long, value_name = "ROLE", value_parser = common::name, add = crate::complete::roles())]
    role: Name,
    /// Who gets it: user/NAME or service-account/NAME
    #[arg(long, value_name = "PRINCIPAL", value_parser = common::word::<PrincipalRef>)]
    to: PrincipalRef,
    /// In this space
    #[arg(long = "in", id = "in_space", value_name = "SPACE", value_parser = common::name, add = crate::complete::spaces())]
    in_space: Option<Name>,
    /// In every space, and for what lives in none
    #[arg(long)]
    everywhere: bool,
    #[command(flatten)]
    labels: NewLabels,
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let bindings = &ctx.client()?.role_bindings();
        match self {
            Self::Create(c) => {
                let labels = c.labels.read()?;
                let body = api::CreateRoleBinding {
                    name: c.name,
                    role: c.role,
                    principal: c.to,
                    space: c.in_space,
                    labels,
                };
                ctx.out.made(&bindings.create(&body).await?)
            }
            Self::List { listing } => {
                common::list::<api::RoleBinding>(
                    ctx,
                    bindings.list_where(listing.filters()?),
                    &listing.paging,
                    "no role bindings",
                )
                .await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { bindings.get(&n).await }).await,
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "binding", |n| async move { bindings.delete(&n).await }).await
            }
        }
    }
}
