//! `wharf runtime …`: where sessions run, and what is kept there.

use wharf_domain::Time;
use wharf_wire::api;

use crate::context::Ctx;
use crate::output::{Cell, Show, Style};

/// Where sessions run
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the runtimes, which limits they keep, and whether root inside is nobody outside
    List,
}

impl Show for api::Runtime {
    const HEAD: &'static [&'static str] =
        &["NAME", "CPU", "MEMORY", "PROCESSES", "DISK", "ROOT IS NOBODY", "AWAY"];
    fn row(&self, _: Time) -> Vec<Cell> {
        let kept = |name: &str, kept: fn(&api::Promises) -> bool| match &self.promises {
            None => Cell::styled("?", Style::Dim),
            Some(p) if kept(p) => Cell::styled("yes", Style::Good),
            Some(p) if p.waived.iter().any(|w| w == name) => Cell::styled("waived", Style::Busy),
            Some(_) => Cell::styled("no", Style::Bad),
        };
        vec![
            Cell::new(&self.name),
            kept("cpu_limit", |p| p.cpu_limit),
            kept("memory_limit", |p| p.memory_limit),
            kept("pids_limit", |p| p.pids_limit),
            kept("disk_limit", |p| p.disk_limit),
            kept("root_is_nobody", |p| p.root_is_nobody),
            Cell::opt(self.away.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        match self {
            Self::List => ctx.out.list(&ctx.client()?.runtimes().await?.items),
        }
    }
}
