//! `wharf space …`

mod usage;

use wharf_domain::Name;
use wharf_domain::egress::Pattern;
use wharf_domain::quota::Quotas;
use wharf_wire::api;

use super::common::{self, LabelChanges, Listing, NewLabels, Sure};
use crate::context::Ctx;
use crate::output::format::{parse_cpu, parse_idle, parse_mib, parse_seconds};
use crate::output::{note, print};

/// Spaces: the rooms everything lives in
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a space
    #[command(after_help = "Examples:
  wharf space create lab
  wharf space create lab --label team=ml --quota sessions=20 --quota memory_mib=16384 --use")]
    Create(Create),
    /// Show the spaces you may see
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show spaces in full
    Get {
        #[arg(required = true, add = crate::complete::spaces())]
        names: Vec<String>,
    },
    /// Change a space
    #[command(after_help = "Examples:
  wharf space update lab --label team=ops --label old-
  wharf space update lab --quota sessions=50 --quota cpu_millis=none
  wharf space update lab --default-image base --default-idle-timeout 30m")]
    Update(Box<Update>),
    /// Delete spaces; they must be empty
    Delete {
        #[arg(required = true, add = crate::complete::spaces())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
    /// Show what a space uses: of its quotas, and of models over days
    #[command(after_help = "Examples:
  wharf space usage
  wharf space usage --by day,model --from 2026-01-01 --to 2026-01-31
  wharf space usage --by session -o json")]
    Usage {
        /// The chosen space when absent
        #[arg(add = crate::complete::spaces())]
        name: Option<String>,
        /// What the lines about models are kept apart by
        #[arg(long, value_name = "LIST", default_value = "provider,model", value_parser = usage_by)]
        by: String,
        /// First day in UTC, as 2026-01-31; 29 days before the last when absent
        #[arg(long, value_name = "DAY")]
        from: Option<String>,
        /// Last day in UTC; today when absent
        #[arg(long, value_name = "DAY")]
        to: Option<String>,
        /// Only this session
        #[arg(long, value_name = "SESSION", add = crate::complete::sessions())]
        session: Option<String>,
    },
    /// Choose the space that commands act in
    Use {
        #[arg(add = crate::complete::spaces())]
        name: String,
    },
    /// Follow what happens in the space
    #[command(after_help = "Examples:
  wharf space events
  wharf space events -o json | jq .type")]
    Events {
        /// Begin behind this cursor instead of now
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub struct Create {
    #[arg(value_parser = common::name)]
    name: Name,
    #[command(flatten)]
    labels: NewLabels,
    /// Limit: sessions, running_sessions, cpu_millis, memory_mib, disk_mib, model_tokens_per_day,
    /// model_cost_micro_usd_per_day, egress_bytes_per_day, git_bytes or package_bytes (repeat for more)
    #[arg(long = "quota", value_name = "NAME=NUMBER", value_parser = parse_quota)]
    quotas: Vec<(Quota, Option<u64>)>,
    #[command(flatten)]
    defaults: Defaults,
    /// Choose it for the commands that follow
    #[arg(long = "use")]
    choose: bool,
}

#[derive(Debug, clap::Args)]
pub struct Update {
    #[arg(add = crate::complete::spaces())]
    name: String,
    #[command(flatten)]
    labels: LabelChanges,
    /// Limit to set, or to lift with `none`
    #[arg(long = "quota", value_name = "NAME=NUMBER|none", value_parser = parse_quota)]
    quotas: Vec<(Quota, Option<u64>)>,
    #[command(flatten)]
    defaults: Defaults,
}

/// What sessions of the space get when they do not say.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Defaults of its sessions")]
#[allow(clippy::struct_field_names)] // the fields are the flags
struct Defaults {
    /// Image
    #[arg(long, value_name = "IMAGE", value_parser = common::name)]
    default_image: Option<Name>,
    /// CPU in cores
    #[arg(long, value_name = "CORES", value_parser = parse_cpu)]
    default_cpu: Option<u32>,
    /// Memory
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    default_memory: Option<u32>,
    /// Disk
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    default_disk: Option<u32>,
    /// Processes
    #[arg(long, value_name = "N")]
    default_pids: Option<u32>,
    /// Close after this long without use
    #[arg(long, value_name = "DURATION", value_parser = parse_idle)]
    default_idle_timeout: Option<u32>,
    /// End a turn after this long
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    default_turn_timeout: Option<u32>,
    /// Host builds may reach, as pypi.org or *.debian.org (repeat for more; `none`: nothing but their repository)
    #[arg(long, value_name = "HOST", value_parser = parse_host)]
    build_egress: Vec<HostOrNone>,
}

/// A host, or word that there is none.
#[derive(Clone, Debug)]
struct HostOrNone(Option<Pattern>);

fn parse_host(text: &str) -> Result<HostOrNone, wharf_domain::Error> {
    if text == "none" { Ok(HostOrNone(None)) } else { text.parse().map(|host| HostOrNone(Some(host))) }
}

impl Defaults {
    /// `base` with what is given here; `None` when nothing is.
    fn over(self, mut base: api::SpaceDefaults) -> Option<api::SpaceDefaults> {
        let before = base.clone();
        base.image = self.default_image.or(base.image);
        base.idle_timeout_seconds = self.default_idle_timeout.or(base.idle_timeout_seconds);
        base.turn_timeout_seconds = self.default_turn_timeout.or(base.turn_timeout_seconds);
        if !self.build_egress.is_empty() {
            base.build_egress = Some(self.build_egress.into_iter().filter_map(|host| host.0).collect());
        }
        let mut r = base.resources.unwrap_or_default();
        r.cpu_millis = self.default_cpu.or(r.cpu_millis);
        r.memory_mib = self.default_memory.or(r.memory_mib);
        r.disk_mib = self.default_disk.or(r.disk_mib);
        r.pids = self.default_pids.or(r.pids);
        base.resources = (r != api::ResourcesPatch::default()).then_some(r);
        (base != before).then_some(base)
    }

    fn given(&self) -> bool {
        self.default_image.is_some()
            || !self.build_egress.is_empty()
            || self.default_cpu.is_some()
            || self.default_memory.is_some()
            || self.default_disk.is_some()
            || self.default_pids.is_some()
            || self.default_idle_timeout.is_some()
            || self.default_turn_timeout.is_some()
    }
}

/// Quotas by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Quota {
    Sessions,
    RunningSessions,
    CpuMillis,
    MemoryMib,
    DiskMib,
    ModelTokensPerDay,
    ModelCostMicroUsdPerDay,
    EgressBytesPerDay,
    GitBytes,
    PackageBytes,
}

fn parse_quota(text: &str) -> Result<(Quota, Option<u64>), String> {
    let wrong = || {
        format!(
            "{text:?} is no quota: write NAME=NUMBER, with sessions, running_sessions, cpu_millis, memory_mib, disk_mib, \
             model_tokens_per_day, model_cost_micro_usd_per_day, egress_bytes_per_day, git_bytes or package_bytes"
        )
    };
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let quota = <Quota as clap::ValueEnum>::from_str(name, false).map_err(|_| wrong())?;
    if value == "none" {
        return Ok((quota, None));
    }
    let number: u64 = value.parse().map_err(|_| wrong())?;
    if matches!(quota, Quota::Sessions | Quota::RunningSessions) && u32::try_from(number).is_err() {
        return Err(wrong());
    }
    Ok((quota, Some(number)))
}

fn usage_by(text: &str) -> Result<String, String> {
    if text.split(',').all(|w| matches!(w, "day" | "session" | "provider" | "model")) {
        return Ok(text.to_owned());
    }
    Err("it is a list of day, session, provider and model with commas".to_owned())
}

fn quotas(list: &[(Quota, Option<u64>)]) -> Quotas {
    let mut quotas = Quotas::default();
    for (quota, value) in list {
        match quota {
            Quota::Sessions => quotas.sessions = value.map(|v| v as u32),
            Quota::RunningSessions => quotas.running_sessions = value.map(|v| v as u32),
            Quota::CpuMillis => quotas.cpu_millis = *value,
            Quota::MemoryMib => quotas.memory_mib = *value,
            Quota::DiskMib => quotas.disk_mib = *value,
            Quota::ModelTokensPerDay => quotas.model_tokens_per_day = *value,
            Quota::ModelCostMicroUsdPerDay => quotas.model_cost_micro_usd_per_day = *value,
            Quota::EgressBytesPerDay => quotas.egress_bytes_per_day = *value,
            Quota::GitBytes => quotas.git_bytes = *value,
            Quota::PackageBytes => quotas.package_bytes = *value,
        }
    }
    quotas
}

fn quotas_patch(list: &[(Quota, Option<u64>)]) -> Option<api::QuotasPatch> {
    let mut patch = api::QuotasPatch::default();
    for (quota, value) in list {
        match quota {
            Quota::Sessions => patch.sessions = Some(value.map(|v| v as u32)),
            Quota::RunningSessions => patch.running_sessions = Some(value.map(|v| v as u32)),
            Quota::CpuMillis => patch.cpu_millis = Some(*value),
            Quota::MemoryMib => patch.memory_mib = Some(*value),
            Quota::DiskMib => patch.disk_mib = Some(*value),
            Quota::ModelTokensPerDay => patch.model_tokens_per_day = Some(*value),
            Quota::ModelCostMicroUsdPerDay => patch.model_cost_micro_usd_per_day = Some(*value),
            Quota::EgressBytesPerDay => patch.egress_bytes_per_day = Some(*value),
            Quota::GitBytes => patch.git_bytes = Some(*value),
            Quota::PackageBytes => patch.package_bytes = Some(*value),
        }
    }
    (!list.is_empty()).then_some(patch)
}

/// Keeps the space in the context in use.
fn choose(ctx: &Ctx, name: &str) -> anyhow::Result<()> {
    let Some((context, _)) = ctx.target()?.context else {
        return Err(crate::exit::Refusal::usage(
            "there is no context to keep it in",
            "log in first (wharf login), or set WHARF_SPACE",
        )
        .into());
    };
    ctx.store.change(|config| {
        if let Some(c) = config.contexts.get_mut(&context) {
            c.space = Some(name.to_owned());
        }
        Ok(())
    })?;
    note(format!("using space {name} (context {context})"));
    Ok(())
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        match self {
            Self::Create(c) => {
                let body = api::CreateSpace {
                    name: c.name,
                    labels: c.labels.read()?,
                    quotas: quotas(&c.quotas),
                    defaults: c.defaults.over(api::SpaceDefaults::default()).unwrap_or_default(),
                };
                let space = ctx.client()?.spaces().create(&body).await?;
                ctx.out.made(&space)?;
                if c.choose { choose(ctx, space.name.as_str()) } else { Ok(()) }
            }
            Self::List { listing } => {
                let list = ctx.client()?.spaces().list_where(listing.filters()?);
                common::list::<api::Space>(
                    ctx,
                    list,
                    &listing.paging,
                    "no spaces; `wharf space create NAME` makes one",
                )
                .await
            }
            Self::Get { names } => {
                let spaces = ctx.client()?.spaces();
                let spaces = &spaces;
                common::get(ctx, &names, |n| async move { spaces.get(&n).await }).await
            }
            Self::Update(u) => {
                let u = *u;
                let spaces = ctx.client()?.spaces();
                // Defaults are replaced whole, so what is not given is carried over from the version it was read at.
                let before = if u.defaults.given() { Some(spaces.get(&u.name).await?) } else { None };
                let version = before.as_ref().map(|s| s.resource_version);
                let patch = api::PatchSpace {
                    labels: u.labels.patch(),
                    quotas: quotas_patch(&u.quotas),
                    defaults: before.and_then(|s| u.defaults.over(s.defaults)),
                };
                ctx.out.made(&spaces.patch(&u.name, &patch, version).await?)
            }
            Self::Delete { names, sure } => {
                let spaces = ctx.client()?.spaces();
                let spaces = &spaces;
                common::delete(&names, &sure, "space", |n| async move { spaces.delete(&n).await }).await
            }
            Self::Usage { name, by, from, to, session } => {
                let name = name.map_or_else(|| ctx.space_name(), Ok)?;
                let report = [("by", Some(by)), ("from", from), ("to", to), ("session", session)];
                let report: Vec<_> = report.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
                usage::show(ctx, ctx.client()?.space(&name).usage(&report).await?)
            }
            Self::Use { name } => {
                let space = ctx.client()?.spaces().get(&name).await?;
                choose(ctx, space.name.as_str())
            }
            Self::Events { after } => {
                let mut events = ctx.space()?.events(after).await?;
                let mut widths = crate::output::table::Widths::of(
                    &["2026-01-31T12:00:00.000Z", "session.updated", "resource", "NAME"],
                    &[],
                    None,
                );
                loop {
                    let event = tokio::select! {
                        event = events.next_json::<api::SpaceEvent>() => event,
                        _ = tokio::signal::ctrl_c() => return Ok(()),
                    };
                    let Some(event) = event.transpose()? else { return Ok(()) };
                    print(ctx.out.more_text(&event, &mut widths)?.as_bytes())?;
                }
            }
        }
    }
}
