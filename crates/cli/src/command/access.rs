//! `wharf can-i`: may the caller do something?

use wharf_domain::Name;
use wharf_domain::rbac::{Resource, Verb};
use wharf_wire::api;

use super::common;
use crate::context::Ctx;
use crate::exit::{DENIED, Silent};
use crate::output::{Format, note, print};

/// Ask whether you may do something, and which binding says so
///
/// Prints yes or no on stdout and the reason on stderr. Exit code 0 is yes, 4 is no.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf can-i create sessions
  wharf can-i read-values secrets api-key --space lab
  wharf can-i create users --everywhere")]
pub struct CanI {
    /// What to do: get, list, watch, create, update, delete, exec, read-values, impersonate, publish, approve
    #[arg(value_parser = common::word::<Verb>)]
    verb: Verb,
    /// To what kind of thing: sessions, secrets, users, …
    #[arg(value_parser = common::word::<Resource>)]
    resource: Resource,
    /// To which one; any when absent
    name: Option<String>,
    /// In every space instead of the chosen one
    #[arg(long)]
    everywhere: bool,
}

impl CanI {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space: Option<Name> = if self.everywhere || !self.resource.spaced() {
            None
        } else if self.resource == Resource::Spaces {
            ctx.globals.space.as_deref().map(str::parse).transpose()?
        } else {
            Some(ctx.space_name()?.parse()?)
        };
        let body = api::AccessReviewRequest {
            verb: self.verb,
            group: self.resource.group(),
            resource: self.resource,
            name: self.name,
            space,
        };
        let review = ctx.client()?.access_review(&body).await?;
        match ctx.out.format {
            Format::Json | Format::Yaml => ctx.out.value(&review)?,
            Format::Table | Format::Name => {
                print(if review.allowed { b"yes\n" } else { b"no\n" })?;
                note(&review.reason);
            }
        }
        if review.allowed { Ok(()) } else { Err(Silent(DENIED).into()) }
    }
}
