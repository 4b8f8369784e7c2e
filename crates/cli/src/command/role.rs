//! `wharf role …`

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context as _;
use wharf_domain::Name;
use wharf_domain::rbac::{Group, Resource, Rule, Verb};
use wharf_wire::api;

use super::common::{self, LabelChanges, Listing, NewLabels, Sure};
use crate::context::Ctx;
use crate::exit::Refusal;
use crate::prompt;

/// Roles: named lists of what may be done
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a role
    #[command(
        after_help = "A rule is VERBS:RESOURCES[:NAMES], each a list with commas, `*` for all, `GROUP/*` for all resources of a group
(core, sessions, work, workers, access).

Examples:
  wharf role create watcher --rule get,list,watch:sessions,messages
  wharf role create one-secret --rule read-values:secrets:api-key
  wharf role create complex --file rules.json      a JSON array of rules as the API has them"
    )]
    Create {
        #[arg(value_parser = common::name)]
        name: Name,
        #[command(flatten)]
        rules: Rules,
        #[command(flatten)]
        labels: NewLabels,
    },
    /// Show the roles
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show roles in full
    Get {
        #[arg(required = true, add = crate::complete::roles())]
        names: Vec<String>,
    },
    /// Give a role new rules instead of all the old ones, or other labels
    Update {
        #[arg(add = crate::complete::roles())]
        name: String,
        #[command(flatten)]
        rules: Rules,
        #[command(flatten)]
        labels: LabelChanges,
    },
    /// Delete roles
    Delete {
        #[arg(required = true, add = crate::complete::roles())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Debug, clap::Args)]
pub struct Rules {
    /// Allow `VERBS:RESOURCES[:NAMES]` (repeat for more)
    #[arg(long = "rule", value_name = "RULE", value_parser = parse_rule)]
    rules: Vec<Rule>,
    /// Read the rules from a JSON file (`-` is stdin)
    #[arg(short, long, value_name = "FILE", conflicts_with = "rules")]
    file: Option<PathBuf>,
}

impl Rules {
    fn read(self) -> anyhow::Result<Vec<Rule>> {
        let rules = match self.file {
            Some(file) => serde_json::from_str(&prompt::text(&file)?)
                .with_context(|| format!("{} is not a JSON array of rules", file.display()))?,
            None => self.rules,
        };
        for rule in &rules {
            rule.validate()?;
        }
        Ok(rules)
    }
}

/// Reads `VERBS:RESOURCES[:NAMES]`. The groups follow from the resources.
pub fn parse_rule(text: &str) -> Result<Rule, String> {
    let list = |s: &str| s.split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let mut parts = text.splitn(3, ':');
    let (Some(verbs), Some(resources)) = (parts.next(), parts.next()) else {
        return Err(format!("{text:?} is no rule: write VERBS:RESOURCES, as in get,list:sessions"));
    };
    let mut groups = BTreeSet::new();
    let words = list(resources);
    let whole = words.iter().filter(|w| w.ends_with("/*")).count();
    if whole > 0 && whole < words.len() {
        return Err(format!("{text:?} mixes whole groups with single resources: make two rules of it"));
    }
    for word in &words {
        if let Some(group) = word.strip_suffix("/*") {
            groups.insert(common::word::<Group>(group)?.as_str().to_owned());
        } else if word == "*" {
            groups.insert("*".to_owned());
        } else {
            let resource: Resource = common::word(word)?;
            groups.insert(resource.group().as_str().to_owned());
        }
    }
    for word in list(verbs).iter().filter(|w| *w != "*") {
        common::word::<Verb>(word)?;
    }
    let rule = Rule {
        groups: groups.into_iter().collect(),
        resources: if whole > 0 { vec!["*".to_owned()] } else { words },
        names: parts.next().map(list).unwrap_or_default(),
        verbs: list(verbs),
    };
    rule.validate().map_err(|e| e.public)?;
    Ok(rule)
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let roles = &ctx.client()?.roles();
        match self {
            Self::Create { name, rules, labels } => {
                let rules = rules.read()?;
                if rules.is_empty() {
                    return Err(Refusal::usage(
                        "a role needs at least one rule",
                        "add --rule VERBS:RESOURCES, or --file FILE",
                    )
                    .into());
                }
                ctx.out
                    .list(&[roles.create(&api::CreateRole { name, rules, labels: labels.read()? }).await?])
            }
            Self::List { listing } => {
                common::list::<api::Role>(
                    ctx,
                    roles.list_where(listing.filters()?),
                    &listing.paging,
                    "no roles",
                )
                .await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { roles.get(&n).await }).await,
            Self::Update { name, rules, labels } => {
                let rules = rules.read()?;
                let patch =
                    api::PatchRole { rules: (!rules.is_empty()).then_some(rules), labels: labels.patch() };
                ctx.out.made(&roles.patch(&name, &patch, None).await?)
            }
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "role", |n| async move { roles.delete(&n).await }).await
            }
        }
    }
}
