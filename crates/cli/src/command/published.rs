//! `wharf published …`: immutable copies of files, and links to them. They are made by `wharf session publish`.

use wharf_wire::api;

use super::common::{self, Listing, Sure};
use crate::context::Ctx;
use crate::output::format::parse_seconds;
use crate::output::{Format, note, print};

/// Published copies of files, and links to them
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the space's published copies
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show published copies in full
    Get {
        #[arg(required = true, add = crate::complete::published())]
        names: Vec<String>,
    },
    /// Sign a link to a published copy
    #[command(after_help = "Examples:
  wharf published link report
  wharf published link report --expires-in 7d")]
    Link {
        #[arg(add = crate::complete::published())]
        name: String,
        /// How long it is valid (30m, 7d; at most 365d); one day when absent
        #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
        expires_in: Option<u32>,
    },
    /// Revoke all links to published copies; the copies stay
    Revoke {
        #[arg(required = true, add = crate::complete::published())]
        names: Vec<String>,
    },
    /// Delete published copies
    Delete {
        #[arg(required = true, add = crate::complete::published())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = &ctx.space()?;
        let published = &space.published();
        match self {
            Self::List { listing } => {
                let none = format!("nothing is published in space {}", space.name());
                let list = published.list_where(listing.filters()?);
                common::list::<api::Published>(ctx, list, &listing.paging, &none).await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { published.get(&n).await }).await,
            Self::Link { name, expires_in } => {
                let wanted = api::CreatePublishedLink { expires_in_seconds: expires_in };
                let link = space.published_link(&name, &wanted).await?;
                if ctx.out.format != Format::Table {
                    return ctx.out.value(&link);
                }
                match link.expires_at {
                    Some(until) => note(format!("valid until {until}")),
                    None => note("public: the address does not expire"),
                }
                print(format!("{}\n", link.url.expose()).as_bytes())
            }
            Self::Revoke { names } => {
                common::each(&names, |name| async move {
                    space.revoke_published_links(&name).await?;
                    note(format!("links to {name} revoked"));
                    Ok(())
                })
                .await
            }
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "publication", |n| async move { published.delete(&n).await })
                    .await
            }
        }
    }
}
