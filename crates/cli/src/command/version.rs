//! `wharf version`

use serde::Serialize;
use wharf_wire::api;

use crate::context::Ctx;
use crate::output::{Format, note, print};

/// Show the versions of this program and of the server
#[derive(Debug, clap::Args)]
pub struct Version {
    /// Do not ask the server
    #[arg(long)]
    client: bool,
}

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    url: Option<String>,
    server: Option<api::Version>,
}

impl Version {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let mut versions = Versions { client: env!("CARGO_PKG_VERSION"), url: None, server: None };
        if !self.client {
            let url = ctx.target()?.url;
            match ctx.anonymous(&url)?.version().await {
                Ok(version) => versions.server = Some(version),
                // The client's version is an answer too: a server that is away is a remark.
                Err(e) => note(format!("server: {e}")),
            }
            versions.url = Some(url);
        }
        if ctx.out.format != Format::Table {
            return ctx.out.value(&versions);
        }
        let mut text = format!("client {}\n", versions.client);
        if let (Some(server), Some(url)) = (&versions.server, &versions.url) {
            text.extend([format!("server {} (API {}) at {url}\n", server.version, server.api)]);
        }
        print(text.as_bytes())
    }
}
