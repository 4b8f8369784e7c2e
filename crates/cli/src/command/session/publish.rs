//! `wharf session publish` and `unpublish`

use wharf_domain::Name;
use wharf_wire::api;

use super::super::common::{self, NewLabels};
use crate::context::Ctx;
use crate::output::format::{bytes, parse_seconds};
use crate::output::{Format, note, print};

/// Publish files of a session
///
/// Makes a copy that does not change and outlives the session, and prints where it can be read: a signed link that expires, or
/// with --public an address for everybody. Files that hold the value of a secret of the space are refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session publish demo /home/agent/report
  wharf session publish demo /home/agent/report --link-for 7d --expires-in 30d
  wharf session publish demo /home/agent/site --public --name site
  wharf published list")]
pub struct Publish {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// Absolute paths of files and directories inside
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// The copy's name; made up when absent
    #[arg(long, value_name = "NAME", value_parser = common::name)]
    name: Option<Name>,
    /// Let everybody read it who knows the address
    #[arg(long, conflicts_with = "link_for")]
    public: bool,
    /// How long the link is valid (30m, 7d); one day when absent
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    link_for: Option<u32>,
    /// After which time the copy goes by itself; it stays when absent
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    expires_in: Option<u32>,
    #[command(flatten)]
    labels: NewLabels,
}

/// End all published copies of a session
#[derive(Debug, clap::Args)]
pub struct Unpublish {
    #[arg(add = crate::complete::sessions())]
    session: String,
}

impl Publish {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let wanted = api::Publish {
            paths: self.paths,
            name: self.name,
            visibility: if self.public { api::Visibility::Public } else { api::Visibility::Link },
            expires_in_seconds: self.expires_in,
            labels: self.labels.read()?,
        };
        let copying = crate::output::progress::waiting(&format!("copying out of {}", self.session));
        let made = ctx.session(&self.session)?.publish(&wanted).await;
        copying.finish_and_clear();
        let made = made?;
        if made.left_out > 0 {
            note(format!("{} links and other entries that are no files are not in it", made.left_out));
        }
        if ctx.out.format != Format::Table {
            return ctx.out.one(&made);
        }
        note(format!("{}: {} files, {}", made.name, made.files, bytes(made.size_bytes)));
        let url = match made.url {
            Some(url) => url,
            None => {
                let wanted = api::CreatePublishedLink { expires_in_seconds: self.link_for };
                let link = ctx.space()?.published_link(made.name.as_str(), &wanted).await?;
                if let Some(until) = link.expires_at {
                    note(format!("the link is valid until {until}"));
                }
                link.url.into_inner()
            }
        };
        print(format!("{url}\n").as_bytes())
    }
}

impl Unpublish {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let done = ctx.session(&self.session)?.unpublish().await?;
        note(format!("{} published copies of {} deleted", done.copies, self.session));
        Ok(())
    }
}
