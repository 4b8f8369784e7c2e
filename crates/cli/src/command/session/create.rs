//! `wharf session create` and `update`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use wharf_domain::session::State;
use wharf_domain::{Name, SnapshotId};
use wharf_wire::api;

use super::super::common::{self, LabelChanges, NewLabels};
use super::agent::AgentArgs;
use super::network::Network;
use crate::context::Ctx;
use crate::exit::Refusal;
use crate::output::format::{parse_cpu, parse_idle, parse_mib, parse_pair, parse_seconds};
use crate::output::{note, print};
use crate::prompt;

/// Limits of a session's computer.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// CPU in cores (2, 0.5) or thousandths (250m)
    #[arg(long, value_name = "CORES", value_parser = parse_cpu)]
    cpu: Option<u32>,
    /// Memory (512Mi, 4Gi)
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    memory: Option<u32>,
    /// What it may write beyond its image (512Mi, 4Gi)
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    disk: Option<u32>,
    /// Processes and threads
    #[arg(long, value_name = "N")]
    pids: Option<u32>,
}

impl Limits {
    pub fn patch(&self) -> Option<api::ResourcesPatch> {
        let patch = api::ResourcesPatch {
            cpu_millis: self.cpu,
            memory_mib: self.memory,
            disk_mib: self.disk,
            pids: self.pids,
        };
        (patch != api::ResourcesPatch::default()).then_some(patch)
    }
}

/// Parts of a session a fork may bring along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    Files,
    Messages,
}

pub fn include(parts: Option<&[Part]>) -> api::Include {
    parts.map_or_else(api::Include::default, |p| api::Include {
        files: p.contains(&Part::Files),
        messages: p.contains(&Part::Messages),
    })
}

/// Make a session
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session create demo --wait
  wharf session create --cpu 2 --memory 2Gi --label team=ml --env MODE=test
  wharf session create bot --agent command -- python3 /home/agent/agent.py
  wharf session create py --agent python -- agent:answer
  wharf session create bot --agent greeter@3 --wait
  wharf session create web --allow pypi.org --allow '*.debian.org'
  wharf session create dev --agent computer-use --model claude-sonnet-5 --instructions 'Be brief.'
  wharf session create copy --from-session demo --include files
  wharf session create work --setup prepare.sh --prompt 'ls -la' --wait")]
pub struct Create {
    /// Its name; made up when absent
    #[arg(value_parser = common::name)]
    name: Option<Name>,
    /// Wait until it is up (or could not be made)
    #[arg(short, long)]
    wait: bool,
    /// Image to start from; the space's default when absent
    #[arg(long, value_name = "IMAGE", value_parser = common::name, add = crate::complete::images())]
    image: Option<Name>,
    /// Variable of everything that runs in it (repeat for more); not for secrets
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    labels: NewLabels,
    /// Whatever you want to remember, as a JSON object
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// Standing instructions to its agent
    #[arg(long, value_name = "TEXT")]
    instructions: Option<String>,
    /// Script to run once before the first use (a file; `-` is stdin)
    #[arg(long, value_name = "FILE")]
    setup: Option<PathBuf>,
    /// The first message
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Close after this long without use (15m, 2h, never)
    #[arg(long, value_name = "DURATION", value_parser = parse_idle)]
    idle_timeout: Option<u32>,
    /// End a turn after this long
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    turn_timeout: Option<u32>,
    /// Nobody becomes root inside, not even with sudo
    #[arg(long)]
    no_root: bool,
    /// Make it a fork of this session as it is now
    #[arg(long, value_name = "SESSION", conflicts_with = "from_snapshot", add = crate::complete::sessions())]
    from_session: Option<String>,
    /// Make it a fork of this snapshot (its id)
    #[arg(long, value_name = "ID")]
    from_snapshot: Option<SnapshotId>,
    /// What of the parent comes along; all when absent
    #[arg(long, value_name = "PARTS", value_enum, value_delimiter = ',')]
    include: Option<Vec<Part>>,
    /// Print the request instead of sending it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    limits: Limits,
}

impl Create {
    fn request(&self) -> anyhow::Result<api::CreateSession> {
        let agent = self.agent.agent()?;
        let agents = self.agent.agents()?;
        let from = (self.from_session.is_some() || self.from_snapshot.is_some()).then(|| api::ForkFrom {
            session: self.from_session.clone(),
            snapshot: self.from_snapshot,
            include: include(self.include.as_deref()),
        });
        if from.is_none() && self.include.is_some() {
            return Err(Refusal::usage(
                "--include says what of a parent comes along, but no parent is named",
                "add --from-session or --from-snapshot",
            )
            .into());
        }
        Ok(api::CreateSession {
            name: self.name.clone(),
            agent,
            agents,
            image: self.image.clone(),
            resources: self.limits.patch(),
            network: self.network.new_session(),
            allow_root: self.no_root.then_some(false),
            env: self.env.iter().cloned().collect::<BTreeMap<_, _>>(),
            instructions: self.instructions.clone(),
            setup: self.setup.as_deref().map(prompt::text).transpose()?,
            prompt: self.prompt.clone().map(api::Content::text),
            idle_timeout_seconds: self.idle_timeout,
            turn_timeout_seconds: self.turn_timeout,
            labels: self.labels.clone().read()?,
            metadata: self.metadata.as_deref().map(object).transpose()?.unwrap_or_default(),
            from,
        })
    }

    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let body = self.request()?;
        if self.dry_run {
            return print((serde_json::to_string_pretty(&body)? + "\n").as_bytes());
        }
        let session = ctx.space()?.create_session(&body, self.wait).await?;
        ctx.out.made(&session)?;
        if self.wait {
            ready(&session)?;
        }
        Ok(())
    }
}

/// Whoever waited for a session wants to know that it is not up.
pub fn ready(session: &api::Session) -> anyhow::Result<()> {
    match session.state {
        State::Error => Err(Refusal::failed(format!(
            "session {} could not be made: {}",
            session.name,
            session.state_reason.as_deref().unwrap_or("no reason was given")
        ))
        .into()),
        State::Init => {
            note(format!(
                "session {} is still being made; `wharf session list --watch` shows when it is up",
                session.name
            ));
            Ok(())
        }
        _ => Ok(()),
    }
}

pub fn object(text: &str) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
    serde_json::from_str(text).map_err(|e| {
        Refusal::usage(format!("--metadata is not a JSON object: {e}"), "write it as '{\"key\": \"value\"}'")
            .into()
    })
}

/// Change a session
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session update demo --memory 2Gi --idle-timeout never
  wharf session update demo --label team=ops --label old-
  wharf session update demo --egress open
  wharf session update demo --name demo-2")]
pub struct Update {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// A new name
    #[arg(long, value_name = "NAME", value_parser = common::name)]
    name: Option<Name>,
    /// Standing instructions to its agent; empty removes them
    #[arg(long, value_name = "TEXT")]
    instructions: Option<String>,
    /// Close after this long without use (15m, 2h, never)
    #[arg(long, value_name = "DURATION", value_parser = parse_idle)]
    idle_timeout: Option<u32>,
    /// End a turn after this long
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    turn_timeout: Option<u32>,
    #[command(flatten)]
    labels: LabelChanges,
    /// Metadata to merge in, as a JSON object; null removes a key
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// Only if it is still at this resource version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<i64>,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    limits: Limits,
}

impl Update {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let patch = api::PatchSession {
            name: self.name,
            resources: self.limits.patch(),
            network: self.network.patch(),
            instructions: self.instructions.map(|t| (!t.is_empty()).then_some(t)),
            idle_timeout_seconds: self.idle_timeout,
            turn_timeout_seconds: self.turn_timeout,
            labels: self.labels.patch(),
            metadata: self.metadata.as_deref().map(object).transpose()?,
        };
        let session = ctx.space()?.sessions().patch(&self.session, &patch, self.if_version).await?;
        ctx.out.made(&session)
    }
}
