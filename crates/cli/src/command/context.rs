//! `wharf context …`: servers you know. Nothing here talks to one.

use serde::Serialize;
use wharf_domain::Time;

use super::common::{Sure, confirm};
use crate::config;
use crate::context::Ctx;
use crate::exit::Refusal;
use crate::output::{Cell, Show, Style, note};

/// Servers you know, and which one is in use
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the contexts
    List,
    /// Make a context the current one
    #[command(after_help = "Examples:
  wharf context use staging")]
    Use {
        #[arg(add = crate::complete::contexts())]
        name: String,
    },
    /// Show one context; the current one when no name is given
    Show {
        #[arg(add = crate::complete::contexts())]
        name: Option<String>,
    },
    /// Forget contexts with their tokens
    #[command(after_help = "The login is not ended at the server: `wharf logout` does that.")]
    Delete {
        #[arg(required = true, add = crate::complete::contexts())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

/// A context without its tokens.
#[derive(Serialize)]
struct View {
    name: String,
    current: bool,
    url: String,
    space: Option<String>,
    username: Option<String>,
    /// `login`, `token` or `none`.
    credential: &'static str,
}

impl View {
    fn of(name: &str, context: &config::Context, current: Option<&str>) -> Self {
        Self {
            name: name.to_owned(),
            current: current == Some(name),
            url: context.url.clone(),
            space: context.space.clone(),
            username: context.username.clone(),
            credential: match (&context.token, &context.login) {
                (Some(_), _) => "token",
                (None, Some(_)) => "login",
                (None, None) => "none",
            },
        }
    }
}

impl Show for View {
    const HEAD: &'static [&'static str] = &["CURRENT", "NAME", "URL", "USERNAME", "SPACE", "CREDENTIAL"];
    fn row(&self, _: Time) -> Vec<Cell> {
        vec![
            if self.current { Cell::styled("*", Style::Good) } else { Cell::new(" ") },
            Cell::new(&self.name),
            Cell::new(&self.url),
            Cell::opt(self.username.as_ref()),
            Cell::opt(self.space.as_ref()),
            Cell::new(self.credential),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Command {
    pub fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        match self {
            Self::List => {
                let config = ctx.store.read()?;
                let views: Vec<View> =
                    config.contexts.iter().map(|(n, c)| View::of(n, c, config.current.as_deref())).collect();
                if views.is_empty() {
                    note("no contexts yet: `wharf login` makes one");
                }
                ctx.out.list(&views)
            }
            Self::Use { name } => {
                let url = ctx.store.change(|config| {
                    let url = config.context(&name)?.url.clone();
                    config.current = Some(name.clone());
                    Ok(url)
                })?;
                note(format!("using {name} ({url})"));
                Ok(())
            }
            Self::Show { name } => {
                let config = ctx.store.read()?;
                let name = name
                    .or_else(|| ctx.globals.context.clone())
                    .or_else(|| config.current.clone())
                    .ok_or_else(|| {
                        Refusal::not_found("there is no current context", "`wharf login` makes one")
                    })?;
                ctx.out.one(&View::of(&name, config.context(&name)?, config.current.as_deref()))
            }
            Self::Delete { names, sure } => {
                let config = ctx.store.read()?;
                for name in &names {
                    config.context(name)?;
                }
                if sure.dry_run {
                    note(format!("would forget {}", names.join(", ")));
                    return Ok(());
                }
                confirm(sure.yes, names.len(), &format!("forget {}", names.join(", ")))?;
                ctx.store.change(|config| {
                    for name in &names {
                        config.contexts.remove(name);
                        if config.current.as_ref() == Some(name) {
                            config.current = None;
                        }
                    }
                    Ok(())
                })?;
                note(format!("forgot {}", names.join(", ")));
                Ok(())
            }
        }
    }
}
