//! `wharf session list`, `get`, `ps`, `lineage`, `stats`: what there is, changed by nobody.

use std::time::Duration;

use serde::Serialize;
use wharf_client::Page;
use wharf_domain::Time;
use wharf_wire::api;

use super::super::common::{self, Listing, Paging};
use crate::context::Ctx;
use crate::output::format::{bytes, span};
use crate::output::{Cell, Format, Show, note, print};

/// Show the sessions of the space
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session list
  wharf session list --state idle --labels team=ml
  wharf session list --watch
  wharf session list -o name | xargs wharf session close")]
pub struct List {
    /// Only those in this state: init, idle, busy, closed or error
    #[arg(long, value_name = "STATE", value_parser = common::word::<wharf_domain::session::State>)]
    state: Option<wharf_domain::session::State>,
    /// Go on and show changes as they happen
    #[arg(short, long, conflicts_with_all = ["limit", "all"])]
    watch: bool,
    #[command(flatten)]
    listing: Listing,
}

impl List {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        let mut filters = self.listing.filters()?;
        filters.extend(self.state.map(|s| ("state", s.as_str().to_owned())));
        let list = space.sessions().list_where(filters.clone());
        if self.watch {
            // The watch begins where the first page was read: what changes while the others are read is seen twice, never missed.
            let list = list.page_size(Some(wharf_domain::limits::PAGE_MAX));
            let first: Page<api::Session> = list.page(None).await?;
            let mut items = first.items;
            let mut cursor = first.next_cursor;
            while let Some(at) = cursor {
                let next: Page<api::Session> = list.page(Some(&at)).await?;
                items.extend(next.items);
                cursor = next.next_cursor;
            }
            let from = first.resource_version.unwrap_or_default();
            let stream = space.sessions().watch(filters, &from).await?;
            return common::watch(ctx, &items, stream).await;
        }
        let none =
            format!("no sessions in space {}; `wharf session create NAME --wait` makes one", space.name());
        common::list::<api::Session>(ctx, list, &self.listing.paging, &none).await
    }
}

/// Show sessions in full
#[derive(Debug, clap::Args)]
pub struct Get {
    #[arg(required = true, add = crate::complete::sessions())]
    sessions: Vec<String>,
}

impl Get {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let sessions = &ctx.space()?.sessions();
        common::get(ctx, &self.sessions, |n| async move { sessions.get(&n).await }).await
    }
}

/// Show processes left running in a session
#[derive(Debug, clap::Args)]
pub struct Ps {
    #[arg(add = crate::complete::sessions())]
    session: String,
    #[command(flatten)]
    paging: Paging,
}

impl Ps {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let list = ctx.session(&self.session)?.processes();
        common::list::<api::Process>(ctx, list, &self.paging, "no processes were left running").await
    }
}

/// Show what a session came from and what came from it
#[derive(Debug, clap::Args)]
pub struct Lineage {
    #[arg(add = crate::complete::sessions())]
    session: String,
}

impl Lineage {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let lineage = ctx.session(&self.session)?.lineage().await?;
        match ctx.out.format {
            Format::Table => print(tree(&lineage).as_bytes()),
            Format::Name => {
                let nodes =
                    lineage.ancestors.iter().rev().chain([&lineage.session]).chain(&lineage.descendants);
                let names: Vec<&str> = nodes.map(|n| n.name.as_str()).collect();
                print((names.join("\n") + "\n").as_bytes())
            }
            Format::Json | Format::Yaml => ctx.out.value(&lineage),
        }
    }
}

/// The family as a tree, eldest first; the session asked for is marked.
pub fn tree(lineage: &api::Lineage) -> String {
    let mut out = String::new();
    let line = |node: &api::LineageNode| {
        let state = node.state.map_or("deleted", wharf_domain::session::State::as_str);
        let mark = if node.id == lineage.session.id { " *" } else { "" };
        let at = match &node.from {
            Some(from) => format!(" (from {})", from.seq),
            None => String::new(),
        };
        format!("{} {state}{at}{mark}\n", node.name)
    };
    for (depth, node) in lineage.ancestors.iter().rev().enumerate() {
        out.push_str(&prefix(depth));
        out.push_str(&line(node));
    }
    let depth = lineage.ancestors.len();
    out.push_str(&prefix(depth));
    out.push_str(&line(&lineage.session));
    children(lineage, &lineage.session.id, &"   ".repeat(depth), &line, &mut out);
    out
}

fn prefix(depth: usize) -> String {
    if depth == 0 { String::new() } else { format!("{}└─ ", "   ".repeat(depth - 1)) }
}

fn children(
    lineage: &api::Lineage,
    of: &wharf_domain::SessionId,
    indent: &str,
    line: &impl Fn(&api::LineageNode) -> String,
    out: &mut String,
) {
    let own: Vec<_> =
        lineage.descendants.iter().filter(|d| d.from.as_ref().is_some_and(|f| f.session == *of)).collect();
    for (n, child) in own.iter().enumerate() {
        let last = n + 1 == own.len();
        out.push_str(indent);
        out.push_str(if last { "└─ " } else { "├─ " });
        out.push_str(&line(child));
        children(lineage, &child.id, &format!("{indent}{}", if last { "   " } else { "│  " }), line, out);
    }
}

/// Show what a session's computer uses
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session stats demo
  wharf session stats demo other --watch")]
pub struct Stats {
    #[arg(required = true, add = crate::complete::sessions())]
    sessions: Vec<String>,
    /// Show again every two seconds
    #[arg(short, long)]
    watch: bool,
}

/// Stats with the session's name.
#[derive(Serialize)]
struct Line {
    session: String,
    #[serde(flatten)]
    stats: api::SessionStats,
}

impl Show for Line {
    const HEAD: &'static [&'static str] =
        &["SESSION", "STATE", "CPU TIME", "MEMORY", "PEAK", "LIMIT", "PIDS", "DISK", "DISK LIMIT", "OOM"];
    fn row(&self, _: Time) -> Vec<Cell> {
        let s = &self.stats;
        let cpu = Duration::from_micros(s.cpu_usage_micros);
        vec![
            Cell::new(&self.session),
            Cell::new(s.state.as_str()),
            Cell::new(if cpu.as_secs() < 120 { format!("{:.2}s", cpu.as_secs_f64()) } else { span(cpu) }),
            Cell::new(bytes(s.memory_bytes)),
            Cell::new(bytes(s.memory_peak_bytes)),
            Cell::new(bytes(s.memory_limit_bytes)),
            Cell::new(s.pids),
            Cell::new(bytes(s.disk_bytes)),
            Cell::new(bytes(s.disk_limit_bytes)),
            Cell::new(s.oom_kills),
        ]
    }
    fn name(&self) -> String {
        self.session.clone()
    }
}

impl Stats {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        loop {
            let lines = std::cell::RefCell::new(Vec::new());
            let outcome = common::each(&self.sessions, |name| {
                let (space, lines) = (&space, &lines);
                async move {
                    let stats = space.session(&name).stats().await?;
                    lines.borrow_mut().push(Line { session: name, stats });
                    Ok(())
                }
            })
            .await;
            ctx.out.list(&lines.into_inner())?;
            outcome?;
            if !self.watch {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
            if ctx.out.format == Format::Table {
                note("");
            }
        }
    }
}
