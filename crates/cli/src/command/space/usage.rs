//! What a space uses, as two tables: quotas, then models.

use wharf_domain::Time;
use wharf_wire::api;

use crate::context::Ctx;
use crate::output::format::dollars;
use crate::output::{Cell, Format, Show, note, print};

#[derive(serde::Serialize)]
struct QuotaLine {
    quota: &'static str,
    used: u64,
    limit: Option<u64>,
}

impl Show for QuotaLine {
    const HEAD: &'static [&'static str] = &["QUOTA", "USED", "LIMIT", "FREE"];
    fn row(&self, _: Time) -> Vec<Cell> {
        vec![
            Cell::new(self.quota),
            Cell::new(self.used),
            self.limit.map_or(Cell::new("none"), Cell::new),
            Cell::opt(self.limit.map(|l| l.saturating_sub(self.used))),
        ]
    }
    fn name(&self) -> String {
        self.quota.to_owned()
    }
}

impl Show for api::ModelUsageLine {
    const HEAD: &'static [&'static str] = &[
        "DAY",
        "SESSION",
        "PROVIDER",
        "MODEL",
        "REQUESTS",
        "INPUT",
        "OUTPUT",
        "CACHED",
        "CACHE WRITE",
        "COST",
    ];
    fn row(&self, _: Time) -> Vec<Cell> {
        let u = &self.usage;
        let session = self.session.map(|id| self.session_name.clone().unwrap_or_else(|| id.to_string()));
        vec![
            Cell::opt(self.day.as_ref()),
            Cell::opt(session),
            Cell::opt(self.provider.as_ref()),
            Cell::opt(self.model.as_ref()),
            Cell::new(u.requests),
            Cell::new(u.input_tokens),
            Cell::new(u.output_tokens),
            Cell::new(u.cached_tokens),
            Cell::new(u.cache_write_tokens),
            Cell::new(dollars(u.cost_micro_usd)),
        ]
    }
    fn name(&self) -> String {
        self.model.clone().unwrap_or_default()
    }
}

pub(super) fn show(ctx: &Ctx, usage: api::SpaceUsage) -> anyhow::Result<()> {
    if ctx.out.format != Format::Table {
        return ctx.out.value(&usage);
    }
    let line = |quota, u: api::Used| QuotaLine { quota, used: u.used, limit: u.limit };
    ctx.out.list(&[
        line("sessions", usage.sessions),
        line("running_sessions", usage.running_sessions),
        line("cpu_millis", usage.cpu_millis),
        line("memory_mib", usage.memory_mib),
        line("disk_mib", usage.disk_mib),
        line("model_tokens_per_day", usage.model_tokens_per_day),
        line("model_cost_micro_usd_per_day", usage.model_cost_micro_usd_per_day),
        line("egress_bytes_per_day", usage.egress_bytes_per_day),
        line("git_bytes", usage.git_bytes),
        line("package_bytes", usage.package_bytes),
    ])?;
    let models = &usage.models;
    if models.lines.is_empty() {
        note(format!("no model was asked from {} to {}", models.from, models.to));
        return Ok(());
    }
    print(b"\n")?;
    ctx.out.list(&models.lines)?;
    if models.more {
        note("there are more lines; ask for fewer days, or keep fewer things apart with --by");
    }
    Ok(())
}
