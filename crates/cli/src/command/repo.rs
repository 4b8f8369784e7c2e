//! `wharf repo …`: git repositories of a space. What is in them is git's own business.

use wharf_domain::repo::{Branch, BranchPattern};
use wharf_domain::{Name, Time};
use wharf_wire::api;

use super::common::{self, LabelChanges, Listing, NewLabels, Paging, Sure};
use crate::context::Ctx;
use crate::exit::Refusal;
use crate::output::format::{age, bytes, parse_mib};
use crate::output::{Cell, Show, Style};

/// Git repositories: clone from and push to them with git
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make an empty repository
    #[command(after_help = "Examples:
  wharf repo create demo
  wharf repo create demo --protect main --protect 'release/*' --max-size 500Mi
  git remote add wharf \"$(wharf repo get demo -o json | jq -r .clone_url)\" && git push wharf main

git asks for a user and a password: your own, or any name and an API token (wharf token create) as the password.")]
    Create {
        #[arg(value_parser = common::name)]
        name: Name,
        /// What is in it
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// The branch a clone checks out (main when not given)
        #[arg(long, value_name = "BRANCH", value_parser = common::word::<Branch>)]
        default_branch: Option<Branch>,
        /// Branches that are neither deleted nor rewound, * for any characters (repeat for more); the default branch when
        /// not given
        #[arg(long = "protect", value_name = "PATTERN", value_parser = common::word::<BranchPattern>)]
        protected: Vec<BranchPattern>,
        /// Protect no branch
        #[arg(long, conflicts_with = "protected")]
        unprotected: bool,
        /// The most it may hold (500Mi, 4Gi); the installation's limit when not given
        #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
        max_size: Option<u32>,
        #[command(flatten)]
        labels: NewLabels,
    },
    /// Show the space's repositories
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show repositories in full
    #[command(visible_alias = "show")]
    Get {
        #[arg(required = true, add = crate::complete::repos())]
        names: Vec<String>,
    },
    /// Change a repository's settings; what is not given stays
    #[command(after_help = "Examples:
  wharf repo update demo --unprotect main
  wharf repo update demo --default-branch trunk --protect trunk --max-size none")]
    Update {
        #[arg(add = crate::complete::repos())]
        name: String,
        /// What is in it; empty removes it
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// The branch a clone checks out
        #[arg(long, value_name = "BRANCH", value_parser = common::word::<Branch>)]
        default_branch: Option<Branch>,
        /// Branches to protect beside those that are (repeat for more)
        #[arg(long, value_name = "PATTERN", value_parser = common::word::<BranchPattern>)]
        protect: Vec<BranchPattern>,
        /// A protection to lift, as it is written (repeat for more)
        #[arg(long, value_name = "PATTERN", value_parser = common::word::<BranchPattern>)]
        unprotect: Vec<BranchPattern>,
        /// The most it may hold, or `none` for the installation's limit
        #[arg(long, value_name = "SIZE|none", value_parser = size)]
        max_size: Option<Size>,
        #[command(flatten)]
        labels: LabelChanges,
        /// Only if it is still at this resource version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<i64>,
    },
    /// Show a repository's branches
    Branches {
        #[arg(add = crate::complete::repos())]
        name: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Delete repositories with everything in them
    Delete {
        #[arg(required = true, add = crate::complete::repos())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

/// A size, or the installation's.
#[derive(Clone, Copy, Debug)]
pub struct Size(Option<u64>);

fn size(text: &str) -> Result<Size, String> {
    if text == "none" {
        return Ok(Size(None));
    }
    parse_mib(text).map(|mib| Size(Some(u64::from(mib) << 20)))
}

impl Show for api::Repo {
    const HEAD: &'static [&'static str] =
        &["NAME", "DEFAULT", "PROTECTED", "SIZE", "PUSHED", "AGE", "CLONE URL"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let protected: Vec<&str> = self.protected.iter().map(BranchPattern::as_str).collect();
        let aged = |t| Cell::styled(age(t, now), Style::Dim);
        vec![
            Cell::new(&self.name),
            Cell::new(&self.default_branch),
            Cell::opt((!protected.is_empty()).then(|| protected.join(","))),
            Cell::new(bytes(self.size_bytes)),
            self.pushed_at.map_or(Cell::styled("-", Style::Dim), aged),
            aged(self.created_at),
            Cell::new(&self.clone_url),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::RepoBranch {
    const HEAD: &'static [&'static str] =
        &["BRANCH", "COMMIT", "DEFAULT", "PROTECTED", "AGE", "AUTHOR", "SUBJECT"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let mark = |is: bool| if is { Cell::new("yes") } else { Cell::styled("-", Style::Dim) };
        vec![
            Cell::new(&self.name),
            Cell::new(self.commit.get(..10).unwrap_or(&self.commit)),
            mark(self.default),
            mark(self.protected),
            self.committed_at
                .map_or(Cell::styled("-", Style::Dim), |t| Cell::styled(age(t, now), Style::Dim)),
            Cell::new(&self.author),
            Cell::new(&self.subject),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        let repos = &space.repos();
        match self {
            Self::Create { name, description, default_branch, protected, unprotected, max_size, labels } => {
                let create = api::CreateRepo {
                    name,
                    description,
                    labels: labels.read()?,
                    default_branch,
                    protected: (unprotected || !protected.is_empty()).then_some(protected),
                    max_bytes: max_size.map(|mib| u64::from(mib) << 20),
                };
                let made = repos.create(&create).await?;
                ctx.out.made(&made)
            }
            Self::List { listing } => {
                let none = format!(
                    "no git repositories in space {}; `wharf repo create NAME` makes one",
                    space.name()
                );
                common::list::<api::Repo>(ctx, repos.list_where(listing.filters()?), &listing.paging, &none)
                    .await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { repos.get(&n).await }).await,
            Self::Update {
                name,
                description,
                default_branch,
                protect,
                unprotect,
                max_size,
                labels,
                if_version,
            } => {
                let mut version = if_version;
                let mut protected = None;
                if !protect.is_empty() || !unprotect.is_empty() {
                    let was = repos.get(&name).await?;
                    if let Some(unknown) = unprotect.iter().find(|p| !was.protected.contains(p)) {
                        let have: Vec<&str> = was.protected.iter().map(BranchPattern::as_str).collect();
                        return Err(Refusal::usage(
                            format!("no protection of {name} is written {unknown}"),
                            format!(
                                "it has: {}",
                                if have.is_empty() { "none".into() } else { have.join(", ") }
                            ),
                        )
                        .into());
                    }
                    let mut all: Vec<BranchPattern> =
                        was.protected.into_iter().filter(|p| !unprotect.contains(p)).collect();
                    all.extend(protect);
                    all.sort();
                    all.dedup();
                    protected = Some(all);
                    // What was read is what is changed.
                    version = version.or(Some(was.resource_version));
                }
                let patch = api::PatchRepo {
                    description: description.map(|d| (!d.is_empty()).then_some(d)),
                    labels: labels.patch(),
                    default_branch,
                    protected,
                    max_bytes: max_size.map(|Size(bytes)| bytes),
                };
                ctx.out.made(&repos.patch(&name, &patch, version).await?)
            }
            Self::Branches { name, paging } => {
                let list = space.repo_branches(&name);
                let none = format!("nothing was pushed to {name} yet");
                common::list::<api::RepoBranch>(ctx, list, &paging, &none).await
            }
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "repo", |n| async move { repos.delete(&n).await }).await
            }
        }
    }
}
