//! `wharf audit …`

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _};
use wharf_domain::Time;
use wharf_wire::api;

use super::common::{self, Paging};
use crate::context::Ctx;
use crate::exit::Refusal;
use crate::output::{Format, note, print};

/// The audit log
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show entries, newest first
    #[command(after_help = "Examples:
  wharf audit list --principal user/alice --since 2026-01-31T00:00:00Z
  wharf audit list --outcome denied --limit 20")]
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        paging: Paging,
    },
    /// Check that no entry was changed, taken out or put in; exit code 1 when the chain does not hold
    Verify,
    /// Write all matching entries, one JSON object a line
    #[command(after_help = "Examples:
  wharf audit export > audit.ndjson
  wharf audit export --since 2026-01-01T00:00:00Z --file january.ndjson")]
    Export {
        #[command(flatten)]
        filter: Filter,
        /// Write to a file instead of stdout
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub struct Filter {
    /// Who did it: user/NAME, service-account/NAME, or the name alone
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// What was done
    #[arg(long, value_name = "VERB")]
    verb: Option<String>,
    /// To what kind of thing
    #[arg(long, value_name = "RESOURCE")]
    resource: Option<String>,
    /// To things of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// With this outcome
    #[arg(long, value_name = "OUTCOME", value_parser = ["allowed", "denied", "failed"])]
    outcome: Option<String>,
    /// From this time on (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Time>,
    /// Until this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Time>,
}

fn time(text: &str) -> Result<Time, String> {
    text.parse().map_err(|_| format!("{text:?} is no time: write it as 2026-01-31T12:00:00Z"))
}

impl Filter {
    fn query(self, ctx: &Ctx) -> Vec<(&'static str, String)> {
        let pairs = [
            ("principal", self.principal.map(|p| p.rsplit('/').next().unwrap_or(&p).to_owned())),
            ("verb", self.verb),
            ("resource", self.resource),
            ("name", self.name),
            ("outcome", self.outcome),
            ("since", self.since.map(|t| t.to_string())),
            ("until", self.until.map(|t| t.to_string())),
            // The log is of the whole server: only a space that is named narrows it, not the chosen one.
            ("space", ctx.globals.space.clone()),
        ];
        pairs.into_iter().filter_map(|(k, v)| v.map(|v| (k, v))).collect()
    }
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let audit = ctx.client()?.audit();
        match self {
            Self::List { filter, paging } => {
                common::list::<api::AuditEntry>(ctx, audit.list(filter.query(ctx)), &paging, "no entries")
                    .await
            }
            Self::Verify => {
                let found = audit.verify().await?;
                if ctx.out.format == Format::Table {
                    if found.ok {
                        let head = found.head.as_deref().unwrap_or("none");
                        print(
                            format!("the chain holds: {} entries, head {head}\n", found.entries).as_bytes(),
                        )?;
                    }
                } else {
                    ctx.out.value(&found)?;
                }
                match found.fault {
                    Some(fault) => {
                        Err(Refusal::failed(format!("the audit chain does not hold: {fault}")).into())
                    }
                    None if !found.ok => Err(Refusal::failed("the audit chain does not hold").into()),
                    None => Ok(()),
                }
            }
            Self::Export { filter, file } => {
                // Oldest first: what is added meanwhile comes at the end and is not missed in the middle.
                let mut filters = filter.query(ctx);
                filters.push(("ascending", "true".to_owned()));
                let list = audit.list(filters).page_size(Some(wharf_domain::limits::PAGE_MAX));
                let mut entries = list.all::<api::AuditEntry>().map_err(anyhow::Error::from).boxed();
                let mut out: Box<dyn std::io::Write> = match &file {
                    Some(path) => Box::new(std::io::BufWriter::new(
                        std::fs::File::create(path)
                            .with_context(|| format!("{} cannot be made", path.display()))?,
                    )),
                    None => Box::new(std::io::BufWriter::new(std::io::stdout())),
                };
                let mut count = 0_u64;
                while let Some(entry) = entries.next().await {
                    serde_json::to_writer(&mut out, &entry?)?;
                    out.write_all(b"\n")?;
                    count += 1;
                }
                out.flush()?;
                note(format!("{count} entries"));
                Ok(())
            }
        }
    }
}
