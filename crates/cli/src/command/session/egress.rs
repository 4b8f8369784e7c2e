//! `wharf session egress`

use wharf_wire::api;

use super::super::common::{self, Paging};
use crate::context::Ctx;

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Decision {
    Allowed,
    Denied,
    Failed,
}

/// Show what left a session: one line for each tunnel or request, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session egress demo --decision denied
  wharf session egress demo --host pypi.org --all")]
pub struct Egress {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// Only what was allowed, denied, or failed on its way
    #[arg(long, value_name = "DECISION", value_enum)]
    decision: Option<Decision>,
    /// Only this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Oldest first
    #[arg(long)]
    ascending: bool,
    #[command(flatten)]
    paging: Paging,
}

impl Egress {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let mut filters: Vec<(&'static str, String)> = Vec::new();
        if let Some(decision) = self.decision {
            let word = match decision {
                Decision::Allowed => "allowed",
                Decision::Denied => "denied",
                Decision::Failed => "failed",
            };
            filters.push(("decision", word.to_owned()));
        }
        filters.extend(self.host.map(|host| ("host", host)));
        if self.ascending {
            filters.push(("ascending", "true".to_owned()));
        }
        let list = ctx.session(&self.session)?.egress(filters);
        common::list::<api::EgressLine>(ctx, list, &self.paging, "nothing left the session").await
    }
}
