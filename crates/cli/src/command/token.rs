//! `wharf token …`: API tokens of service accounts. The secret part is printed once, alone on stdout.

use wharf_domain::Name;
use wharf_domain::rbac::Rule;
use wharf_wire::api;

use super::common::{self, Paging, Sure};
use super::role::parse_rule;
use crate::context::Ctx;
use crate::output::format::parse_seconds;
use crate::output::{Format, note, print};

/// API tokens of service accounts
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token and print it; it is never shown again
    #[command(after_help = "Examples:
  wharf token create ci nightly --expires 90d
  TOKEN=$(wharf token create ci reader --rule get,list:sessions)")]
    Create {
        /// The service account
        #[arg(add = crate::complete::service_accounts())]
        account: String,
        /// What to call the token
        #[arg(value_parser = common::name)]
        name: Name,
        /// How long it works; 90 days when absent
        #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
        expires: Option<u32>,
        /// Narrow it to `VERBS:RESOURCES[:NAMES]` (repeat for more)
        #[arg(long = "rule", value_name = "RULE", value_parser = parse_rule)]
        rules: Vec<Rule>,
    },
    /// Show a service account's tokens, without their secret parts
    List {
        #[arg(add = crate::complete::service_accounts())]
        account: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Delete tokens; they stop working at once
    Delete {
        #[arg(add = crate::complete::service_accounts())]
        account: String,
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let client = ctx.client()?;
        match self {
            Self::Create { account, name, expires, rules } => {
                let body = api::CreateToken {
                    name,
                    expires_in_seconds: expires,
                    rules: (!rules.is_empty()).then_some(rules),
                };
                let token = client.create_token(&account, &body).await?;
                match ctx.out.format {
                    Format::Json | Format::Yaml => ctx.out.value(&token)?,
                    Format::Table | Format::Name => print(format!("{}\n", token.token.expose()).as_bytes())?,
                }
                note(format!(
                    "token {} of {account} works until {}; keep it now, it is not shown again",
                    token.name, token.expires_at
                ));
                Ok(())
            }
            Self::List { account, paging } => {
                let list = client.service_account_tokens(&account).list();
                common::list::<api::ApiToken>(ctx, list, &paging, &format!("{account} has no tokens")).await
            }
            Self::Delete { account, names, sure } => {
                let tokens = &client.service_account_tokens(&account);
                common::delete(&names, &sure, "token", |n| async move { tokens.delete(&n).await }).await
            }
        }
    }
}
