//! `wharf agent …`: packages of a space, their builds and versions.

use std::path::PathBuf;

use anyhow::Context as _;
use wharf_client::SpaceApi;
use wharf_domain::{BuildId, Code, Name};
use wharf_wire::api;

use super::common::{self, LabelChanges, Listing, NewLabels, Paging, Sure};
use super::session::Limits;
use crate::context::Ctx;
use crate::exit::{FAILED, Refusal, Silent};
use crate::output::{note, print, progress};

/// What is made anew by a build, or is nobody's business, and so is not sent.
const LEFT_OUT: &[&str] = &[".git", ".venv", "node_modules", "target", "__pycache__"];

/// Agents of your own: packages, their builds and versions
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make an agent; it has no version until one is built
    Create {
        #[arg(value_parser = common::name)]
        name: Name,
        /// What it is good for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        #[command(flatten)]
        labels: NewLabels,
    },
    /// Show the space's agents
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show agents in full
    Get {
        #[arg(required = true, add = crate::complete::agents())]
        names: Vec<String>,
    },
    /// Change what an agent is described by
    #[command(after_help = "Examples:
  wharf agent update greeter --description 'says hello'
  wharf agent update greeter --label team=ml --label old-")]
    Update {
        #[arg(add = crate::complete::agents())]
        name: String,
        /// What it is good for; empty removes it
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        #[command(flatten)]
        labels: LabelChanges,
        /// Only if it is still at this resource version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<i64>,
    },
    /// Build a new version and follow its log; the version is active when it is done
    ///
    /// An agent that is not there yet is made. Exit code 0 when the build succeeded. Ctrl-C leaves the build to itself;
    /// `wharf agent cancel` ends it.
    #[command(after_help = "Examples:
  wharf agent build greeter --path .
  wharf agent build greeter --git https://git.example.com/team/greeter.git
  wharf agent build greeter --git https://git.example.com/team/greeter.git#v2
  wharf agent build greeter --git git@git.example.com:team/greeter.git --ref main
  wharf agent build greeter --path . --cpu 4 --memory 8Gi")]
    Build {
        #[arg(value_parser = common::name, add = crate::complete::agents())]
        name: Name,
        /// Directory of the package (with wharf.toml, or one that is recognised without)
        #[arg(long, value_name = "DIR", conflicts_with = "git")]
        path: Option<PathBuf>,
        /// Address of its repository, https or ssh; a connection of the space brings the credential or key
        #[arg(long, value_name = "URL[#REF]")]
        git: Option<String>,
        /// Branch, tag or commit; the default branch when absent
        #[arg(long = "ref", value_name = "REF", requires = "git")]
        reference: Option<String>,
        /// Image it is built in; the package's own when absent, else the space's default
        #[arg(long, value_name = "IMAGE", value_parser = common::name, add = crate::complete::images())]
        image: Option<Name>,
        /// Only begin it
        #[arg(long)]
        no_follow: bool,
        #[command(flatten)]
        limits: Limits,
    },
    /// Show builds, oldest first
    Builds {
        /// Only of this agent
        #[arg(add = crate::complete::agents())]
        name: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show builds in full
    GetBuild {
        /// The builds' ids
        #[arg(required = true, value_name = "BUILD")]
        builds: Vec<String>,
    },
    /// Follow the log of a build
    Log {
        /// The build's id
        build: BuildId,
    },
    /// Cancel a build; nothing becomes of it
    Cancel {
        /// The build's id
        build: BuildId,
    },
    /// Show an agent's versions, newest first
    Versions {
        #[arg(add = crate::complete::agents())]
        name: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Delete versions nobody needs; what they hold of the quota package_bytes is free again
    ///
    /// Not the active one, and none that a session has.
    DeleteVersion {
        #[arg(add = crate::complete::agents())]
        name: String,
        /// The versions' numbers
        #[arg(required = true, value_name = "VERSION")]
        versions: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
    /// Make an earlier version the active one
    ///
    /// The one before the active one when none is named. Sessions that run keep what they have.
    Rollback {
        #[arg(add = crate::complete::agents())]
        name: String,
        /// The version's number
        version: Option<i32>,
    },
    /// Delete agents with their versions; sessions keep what they have
    Delete {
        #[arg(required = true, add = crate::complete::agents())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        let agents = &space.agents();
        match self {
            Self::Create { name, description, labels } => {
                let body = api::CreateAgent { name, description, labels: labels.read()? };
                ctx.out.made(&agents.create(&body).await?)
            }
            Self::List { listing } => {
                let none = format!("no agents in space {}", space.name());
                let list = agents.list_where(listing.filters()?);
                common::list::<api::AgentPackage>(ctx, list, &listing.paging, &none).await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { agents.get(&n).await }).await,
            Self::Update { name, description, labels, if_version } => {
                let patch = api::PatchAgent {
                    description: description.map(|d| (!d.is_empty()).then_some(d)),
                    labels: labels.patch(),
                };
                ctx.out.made(&agents.patch(&name, &patch, if_version).await?)
            }
            Self::Build { name, path, git, reference, image, no_follow, limits } => {
                let resources = limits.patch();
                let body = api::CreateAgent { name: name.clone(), description: None, labels: <_>::default() };
                match agents.get(name.as_str()).await {
                    Err(e) if e.is(Code::NotFound) => drop(agents.create(&body).await?),
                    known => drop(known?),
                }
                let build = match (path, git) {
                    (Some(path), None) => upload(&space, &name, &path, image.as_ref(), resources).await?,
                    (None, Some(url)) => {
                        let git = git_source(&url, reference)?;
                        let body = api::StartBuild { git, image, resources };
                        space.build_agent(name.as_str(), &body).await?
                    }
                    _ => {
                        return Err(Refusal::usage(
                            "a build needs a source",
                            "add --path DIR, or --git URL and --ref REF",
                        )
                        .into());
                    }
                };
                if no_follow {
                    note(format!("begun; `wharf agent log {}` follows it", build.id));
                    return ctx.out.made(&build);
                }
                follow(ctx, &space, build.id).await
            }
            Self::Builds { name, paging } => {
                let filters = name.into_iter().map(|n| ("agent", n)).collect();
                common::list::<api::Build>(ctx, space.builds().list_where(filters), &paging, "no builds yet")
                    .await
            }
            Self::GetBuild { builds } => {
                let all = &space.builds();
                common::get(ctx, &builds, |id| async move { all.get(&id).await }).await
            }
            Self::Log { build } => follow(ctx, &space, build).await,
            Self::Cancel { build } => ctx.out.made(&space.cancel_build(build).await?),
            Self::Versions { name, paging } => {
                let none = format!("agent {name} has no version yet; `wharf agent build {name}` makes one");
                common::list::<api::AgentVersion>(ctx, space.agent_versions(&name), &paging, &none).await
            }
            Self::DeleteVersion { name, versions, sure } => {
                let (space, name) = (&space, name.as_str());
                let delete = |v: String| async move { space.delete_agent_version(name, &v).await };
                common::delete(&versions, &sure, "version", delete).await
            }
            Self::Rollback { name, version } => {
                let version = match version {
                    Some(version) => version,
                    None => before(&space, &name).await?,
                };
                ctx.out.made(&space.activate_agent(&name, version).await?)
            }
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "agent", |n| async move { agents.delete(&n).await }).await
            }
        }
    }
}

fn git_source(text: &str, reference: Option<String>) -> anyhow::Result<api::GitSource> {
    let (url, fragment) = match text.split_once('#') {
        Some((url, fragment)) => (url, Some(fragment.to_owned())),
        None => (text, None),
    };
    if fragment.is_some() && reference.is_some() {
        return Err(Refusal::usage("the ref is named twice", "say it behind `#` or with --ref").into());
    }
    Ok(api::GitSource { url: url.to_owned(), reference: fragment.or(reference) })
}

async fn upload(
    space: &SpaceApi,
    name: &Name,
    path: &std::path::Path,
    image: Option<&Name>,
    resources: Option<api::ResourcesPatch>,
) -> anyhow::Result<api::Build> {
    let meta = std::fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
    anyhow::ensure!(meta.is_dir(), "{} is no directory", path.display());
    let bar = progress::bar("sending", None);
    let (body, packing) = super::session::packed_tree(path, bar.clone(), LEFT_OUT);
    let sent = space
        .build_agent_from(name.as_str(), image.map(Name::as_str), resources.unwrap_or_default(), body)
        .await;
    bar.finish_and_clear();
    super::session::packed(packing, sent).await
}

/// The newest version before the active one.
async fn before(space: &SpaceApi, name: &str) -> anyhow::Result<i32> {
    let (versions, _) = space.agent_versions(name).take::<api::AgentVersion>(None).await?;
    let active = versions.iter().find(|v| v.active).map(|v| v.version);
    let earlier = versions.iter().map(|v| v.version).filter(|v| active.is_some_and(|a| *v < a)).max();
    earlier.ok_or_else(|| {
        Refusal::usage(
            format!("agent {name} has no version before the active one"),
            format!("`wharf agent versions {name}` shows those it has"),
        )
        .into()
    })
}

async fn follow(ctx: &Ctx, space: &SpaceApi, build: BuildId) -> anyhow::Result<()> {
    let mut events = space.build_log(build).await?;
    loop {
        let event = tokio::select! {
            event = events.next_json::<serde_json::Value>() => event,
            _ = tokio::signal::ctrl_c() => {
                note(format!("the build goes on; `wharf agent log {build}` follows it"));
                return Err(Silent(130).into());
            }
        };
        let Some(event) = event.transpose()? else {
            return Err(Refusal::failed("the log ended before the build did").into());
        };
        if event.get("state").is_none() {
            let line: api::BuildLine =
                serde_json::from_value(event).context("a line of the log is not one")?;
            print(crate::output::plain(&line.text).as_bytes())?;
            continue;
        }
        let build: api::Build = serde_json::from_value(event).context("the build is not one")?;
        ctx.out.made(&build)?;
        return match build.state {
            api::BuildState::Succeeded => Ok(()),
            _ => {
                note(build.reason.as_deref().unwrap_or("the build failed"));
                Err(Silent(FAILED).into())
            }
        };
    }
}
