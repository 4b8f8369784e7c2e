//! `wharf policy …`: guardrails of a space's sessions.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;
use wharf_domain::guard::Rule;
use wharf_domain::{Labels, Name};
use wharf_wire::api;

use super::common::{self, LabelChanges, Listing, NewLabels, Sure};
use crate::context::Ctx;
use crate::exit::Refusal;
use crate::prompt;

/// Policies: what sessions may do, and what needs somebody's yes
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a policy from a file of rules
    #[command(
        after_help = "The file is JSON or YAML: a list of rules, or an object with `rules` and what else the policy has.

Examples:
  wharf policy create careful --file examples/policies/careful.json
  wharf policy create no-push --file - <<'END'
  - {phase: tool, match: {argv: {program: [git], args: [push]}}, action: approve, reason: pushes}
  END"
    )]
    Create {
        /// The policy's name; the file's own without it
        #[arg(value_parser = common::name)]
        name: Option<Name>,
        /// Read the rules from a file (`-` is stdin)
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// The smaller is asked first; 100 without it
        #[arg(long, value_name = "N")]
        priority: Option<u16>,
        #[command(flatten)]
        labels: NewLabels,
    },
    /// Show the space's policies
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show policies with their rules
    Get {
        #[arg(required = true, add = crate::complete::policies())]
        names: Vec<String>,
    },
    /// Change a policy; what is not given stays
    #[command(after_help = "Examples:
  wharf policy get careful -o json > careful.json
  wharf policy update careful --file careful.json
  wharf policy update careful --priority 10")]
    Update {
        #[arg(add = crate::complete::policies())]
        name: String,
        /// Read all the new rules from a file (`-` is stdin)
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// The smaller is asked first
        #[arg(long, value_name = "N")]
        priority: Option<u16>,
        #[command(flatten)]
        labels: LabelChanges,
        /// Only if it is still at this resource version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<i64>,
    },
    /// Delete policies
    Delete {
        #[arg(required = true, add = crate::complete::policies())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

/// What a file may be: rules alone, or a policy as it is shown.
#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Rules(Vec<Rule>),
    Policy {
        #[serde(default)]
        name: Option<Name>,
        #[serde(default)]
        priority: Option<u16>,
        #[serde(default)]
        labels: Labels,
        rules: Vec<Rule>,
    },
}

struct Read {
    name: Option<Name>,
    priority: Option<u16>,
    labels: Labels,
    rules: Vec<Rule>,
}

fn read(file: &Path) -> anyhow::Result<Read> {
    let bytes = prompt::bytes(file)?;
    let text = std::str::from_utf8(bytes.expose()).context("the rules are not UTF-8")?;
    let value: serde_json::Value = serde_norway::from_str(text)
        .with_context(|| format!("{} is neither JSON nor YAML", file.display()))?;
    // What is wrong with a rule is said of the rule, and not of both shapes a file may have.
    let rules = if value.is_array() { Some(&value) } else { value.get("rules") };
    for (n, rule) in rules.and_then(|r| r.as_array()).into_iter().flatten().enumerate() {
        serde_json::from_value::<Rule>(rule.clone())
            .with_context(|| format!("rule {n} of {} cannot be read", file.display()))?;
    }
    let given = serde_json::from_value(value)
        .with_context(|| format!("{} is no list of rules and no policy", file.display()))?;
    Ok(match given {
        Given::Rules(rules) => Read { name: None, priority: None, labels: Labels::default(), rules },
        Given::Policy { name, priority, labels, rules } => Read { name, priority, labels, rules },
    })
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        let policies = &space.policies();
        match self {
            Self::Create { name, file, priority, labels } => {
                let read = read(&file)?;
                let name = name.or(read.name).ok_or_else(|| {
                    Refusal::usage("the policy has no name", "give one, or put `name` into the file")
                })?;
                let labels = if labels.is_empty() { read.labels } else { labels.read()? };
                let create = api::CreatePolicy {
                    name,
                    priority: priority.or(read.priority),
                    rules: read.rules,
                    labels,
                };
                ctx.out.made(&policies.create(&create).await?)
            }
            Self::List { listing } => {
                let none = format!("no policies in space {}: nothing is judged", space.name());
                let list = policies.list_where(listing.filters()?);
                common::list::<api::Policy>(ctx, list, &listing.paging, &none).await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { policies.get(&n).await }).await,
            Self::Update { name, file, priority, labels, if_version } => {
                let rules = file.as_deref().map(read).transpose()?.map(|r| r.rules);
                let patch = api::PatchPolicy { priority, rules, labels: labels.patch() };
                ctx.out.made(&policies.patch(&name, &patch, if_version).await?)
            }
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "policy", |n| async move { policies.delete(&n).await }).await
            }
        }
    }
}
