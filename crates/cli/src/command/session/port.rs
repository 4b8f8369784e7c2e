//! `wharf session port …`: what listens in a session, and links for browsers.

use wharf_wire::api;

use crate::context::Ctx;
use crate::output::format::parse_seconds;
use crate::output::{Format, note, print};

/// Ports of a session: what listens, and links for a browser
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what listens in a session
    List {
        #[arg(add = crate::complete::sessions())]
        session: String,
    },
    /// Make a link that opens a port in a browser
    ///
    /// Whoever has the link acts at that port as you, until it expires or you log out. The installation must have host names
    /// for ports (setting port_hosts).
    #[command(after_help = "Examples:
  wharf session port link demo 8000
  wharf session port link demo 8888 --path /lab --expires-in 8h")]
    Link {
        #[arg(add = crate::complete::sessions())]
        session: String,
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// How long it is valid (30m, 8h; at most 24h); one hour when absent
        #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
        expires_in: Option<u32>,
        /// Where it leads at the port
        #[arg(long, value_name = "PATH")]
        path: Option<String>,
    },
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        match self {
            Self::List { session } => {
                let ports = ctx.session(&session)?.ports().await?.items;
                if ports.is_empty() && ctx.out.format == Format::Table {
                    note(format!("nothing listens in {session}"));
                    return Ok(());
                }
                ctx.out.list(&ports)
            }
            Self::Link { session, port, expires_in, path } => {
                let wanted = api::CreatePortLink { port, expires_in_seconds: expires_in, path };
                let link = ctx.session(&session)?.port_link(&wanted).await?;
                if ctx.out.format == Format::Table {
                    note(format!(
                        "valid until {}; whoever has it acts as you at port {port}",
                        link.expires_at
                    ));
                    return print(format!("{}\n", link.url.expose()).as_bytes());
                }
                ctx.out.value(&link)
            }
        }
    }
}
