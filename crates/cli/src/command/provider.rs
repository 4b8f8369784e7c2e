//! `wharf provider …`. A key is never an argument: it is a secret of the space, named here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use wharf_domain::model::{BaseUrl, Budget, HeaderName, Price, Protocol, Script};
use wharf_domain::{Name, Time};
use wharf_wire::api;

use super::common::{self, LabelChanges, Listing, NewLabels, Sure};
use crate::context::Ctx;
use crate::output::format::{dollars, parse_dollars, parse_pair};
use crate::output::{Cell, Show};
use crate::prompt;

/// Model providers that sessions reach through the gateway
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a provider
    #[command(after_help = "Sessions reach it at http://gateway/NAME/… and need no key of their own.

Examples:
  wharf secret set anthropic-key
  wharf provider create anthropic --key-secret anthropic-key --price 'claude-*=3,15,0.30,3.75'
  wharf provider create openai --key-secret openai-key --model 'gpt-*' --budget cost_per_day=20
  wharf provider create local --protocol openai --base-url http://10.0.0.5:8000
  wharf provider create demo --protocol scripted --script turns.json")]
    Create(Box<Create>),
    /// Show the space's providers
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show providers in full
    Get {
        #[arg(required = true, add = crate::complete::providers())]
        names: Vec<String>,
    },
    /// Change a provider
    #[command(after_help = "Examples:
  wharf provider update anthropic --budget tokens_per_day=2000000 --budget cost_per_day=none
  wharf provider update anthropic --price 'claude-opus-*=15,75' --price 'claude-*=none'
  wharf provider update openai --key-secret another-key")]
    Update(Box<Update>),
    /// Delete providers; what was used of them stays in the usage
    Delete {
        #[arg(required = true, add = crate::complete::providers())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Debug, clap::Args)]
pub struct Create {
    #[arg(value_parser = common::name)]
    name: Name,
    /// What it speaks: anthropic, openai or scripted; by the name when that is one of them
    #[arg(long, value_parser = common::word::<Protocol>)]
    protocol: Option<Protocol>,
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    labels: NewLabels,
}

#[derive(Debug, clap::Args)]
pub struct Update {
    #[arg(add = crate::complete::providers())]
    name: String,
    #[command(flatten)]
    spec: Spec,
    /// Ask all models again
    #[arg(long, conflicts_with = "models")]
    any_model: bool,
    #[command(flatten)]
    labels: LabelChanges,
}

#[derive(Debug, clap::Args)]
struct Spec {
    /// Where requests go; the vendor's own when absent
    #[arg(long, value_name = "URL", value_parser = common::word::<BaseUrl>)]
    base_url: Option<BaseUrl>,
    /// Name of the space's secret that holds the key
    #[arg(long, value_name = "NAME", value_parser = common::name, add = crate::complete::secrets())]
    key_secret: Option<Name>,
    /// The header that carries the key, where it is not the protocol's own
    #[arg(long, value_name = "HEADER", value_parser = common::word::<HeaderName>)]
    key_header: Option<HeaderName>,
    /// Header added to every request (repeat for more); no place for keys
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_pair)]
    headers: Vec<(String, String)>,
    /// Allow only this model or pattern, as in claude-* (repeat for more)
    #[arg(long = "model", value_name = "PATTERN")]
    models: Vec<String>,
    /// Dollars per million tokens, by model or pattern: input, output, read from cache, written to cache
    #[arg(long = "price", value_name = "PATTERN=IN,OUT[,CACHED[,WRITE]]|none", value_parser = parse_price)]
    prices: Vec<(String, Option<Price>)>,
    /// Limit: tokens_per_day, tokens_per_session, tokens_per_turn, and cost_per_day, cost_per_session, cost_per_turn in
    /// dollars
    #[arg(long = "budget", value_name = "LINE=AMOUNT|none", value_parser = parse_budget)]
    budget: Vec<(Line, Option<u64>)>,
    /// How often to try again when it is overloaded or away
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=10))]
    retries: Option<u8>,
    /// Read the script of a scripted provider from a JSON file (`-` is stdin)
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Line {
    TokensPerDay,
    CostPerDay,
    TokensPerSession,
    CostPerSession,
    TokensPerTurn,
    CostPerTurn,
}

fn parse_budget(text: &str) -> Result<(Line, Option<u64>), String> {
    let wrong = || {
        format!(
            "{text:?} is no line of a budget: write tokens_per_day, tokens_per_session, tokens_per_turn, \
             cost_per_day, cost_per_session or cost_per_turn, `=`, and an amount or none"
        )
    };
    let (line, amount) = text.split_once('=').ok_or_else(wrong)?;
    let line = <Line as clap::ValueEnum>::from_str(line, false).map_err(|_| wrong())?;
    let amount = match (amount, line) {
        ("none", _) => None,
        (amount, Line::CostPerDay | Line::CostPerSession | Line::CostPerTurn) => {
            Some(parse_dollars(amount).ok_or_else(wrong)?)
        }
        (amount, _) => Some(amount.replace('_', "").parse().map_err(|_| wrong())?),
    };
    Ok((line, amount))
}

fn parse_price(text: &str) -> Result<(String, Option<Price>), String> {
    let wrong = || {
        format!(
            "{text:?} is no price: write PATTERN=IN,OUT in dollars per million tokens, as in 'claude-*=3,15', \
             with two more for reading from and writing to the cache"
        )
    };
    let (pattern, price) = text.rsplit_once('=').filter(|(p, _)| !p.is_empty()).ok_or_else(wrong)?;
    if price == "none" {
        return Ok((pattern.to_owned(), None));
    }
    let amounts: Option<Vec<u64>> = price.split(',').map(|a| parse_dollars(a.trim())).collect();
    let price = match amounts.ok_or_else(wrong)?.as_slice() {
        [input, output, rest @ ..] if rest.len() <= 2 => Price {
            input_micro_usd: *input,
            output_micro_usd: *output,
            cached_micro_usd: rest.first().copied(),
            cache_write_micro_usd: rest.get(1).copied(),
        },
        _ => return Err(wrong()),
    };
    Ok((pattern.to_owned(), Some(price)))
}

fn headers<V>(
    list: Vec<(String, String)>,
    value: impl Fn(String) -> V,
) -> anyhow::Result<BTreeMap<HeaderName, V>> {
    list.into_iter().map(|(name, text)| Ok((name.parse()?, value(text)))).collect()
}

fn script(file: Option<&PathBuf>) -> anyhow::Result<Option<Script>> {
    let read = |file: &PathBuf| {
        serde_json::from_str(&prompt::text(file)?)
            .with_context(|| format!("{} is not a script: an object with `turns`", file.display()))
    };
    file.map(read).transpose()
}

impl Create {
    fn body(self) -> anyhow::Result<api::CreateProvider> {
        let mut budget = Budget::default();
        for (line, amount) in self.spec.budget {
            match line {
                Line::TokensPerDay => budget.tokens_per_day = amount,
                Line::CostPerDay => budget.cost_micro_usd_per_day = amount,
                Line::TokensPerSession => budget.tokens_per_session = amount,
                Line::CostPerSession => budget.cost_micro_usd_per_session = amount,
                Line::TokensPerTurn => budget.tokens_per_turn = amount,
                Line::CostPerTurn => budget.cost_micro_usd_per_turn = amount,
            }
        }
        Ok(api::CreateProvider {
            name: self.name,
            protocol: self.protocol,
            base_url: self.spec.base_url,
            secret: self.spec.key_secret,
            key_header: self.spec.key_header,
            headers: headers(self.spec.headers, |v| v)?,
            models: self.spec.models,
            prices: self.spec.prices.into_iter().filter_map(|(p, price)| Some((p, price?))).collect(),
            budget,
            retries: self.spec.retries,
            script: script(self.spec.script.as_ref())?,
            labels: self.labels.read()?,
        })
    }
}

impl Update {
    fn body(self) -> anyhow::Result<api::PatchProvider> {
        let mut budget = api::BudgetPatch::default();
        for (line, amount) in &self.spec.budget {
            match line {
                Line::TokensPerDay => budget.tokens_per_day = Some(*amount),
                Line::CostPerDay => budget.cost_micro_usd_per_day = Some(*amount),
                Line::TokensPerSession => budget.tokens_per_session = Some(*amount),
                Line::CostPerSession => budget.cost_micro_usd_per_session = Some(*amount),
                Line::TokensPerTurn => budget.tokens_per_turn = Some(*amount),
                Line::CostPerTurn => budget.cost_micro_usd_per_turn = Some(*amount),
            }
        }
        let whole = |p: Price| api::PricePatch {
            input_micro_usd: Some(p.input_micro_usd),
            output_micro_usd: Some(p.output_micro_usd),
            cached_micro_usd: Some(p.cached_micro_usd),
            cache_write_micro_usd: Some(p.cache_write_micro_usd),
        };
        let prices: BTreeMap<_, _> =
            self.spec.prices.into_iter().map(|(pattern, price)| (pattern, price.map(whole))).collect();
        let headers = headers(self.spec.headers, |v| (!v.is_empty()).then_some(v))?;
        let models = (self.any_model || !self.spec.models.is_empty()).then_some(self.spec.models);
        Ok(api::PatchProvider {
            base_url: self.spec.base_url.map(Some),
            secret: self.spec.key_secret.map(Some),
            key_header: self.spec.key_header.map(Some),
            headers: (!headers.is_empty()).then_some(headers),
            models,
            prices: (!prices.is_empty()).then_some(prices),
            budget: (!self.spec.budget.is_empty()).then_some(budget),
            retries: self.spec.retries,
            script: script(self.spec.script.as_ref())?,
            labels: self.labels.patch(),
        })
    }
}

impl Show for api::Provider {
    const HEAD: &'static [&'static str] = &["NAME", "PROTOCOL", "BASE URL", "KEY", "MODELS", "BUDGET"];
    fn row(&self, _: Time) -> Vec<Cell> {
        let b = &self.budget;
        let lines = [
            b.tokens_per_day.map(|n| format!("{n} tokens/day")),
            b.cost_micro_usd_per_day.map(|n| format!("{}/day", dollars(n))),
            b.tokens_per_session.map(|n| format!("{n} tokens/session")),
            b.cost_micro_usd_per_session.map(|n| format!("{}/session", dollars(n))),
            b.tokens_per_turn.map(|n| format!("{n} tokens/turn")),
            b.cost_micro_usd_per_turn.map(|n| format!("{}/turn", dollars(n))),
        ];
        let budget: Vec<String> = lines.into_iter().flatten().collect();
        vec![
            Cell::new(&self.name),
            Cell::new(self.protocol.as_str()),
            Cell::opt(self.base_url.as_ref()),
            Cell::opt(self.secret.as_ref()),
            if self.models.is_empty() { Cell::new("all") } else { Cell::new(self.models.join(",")) },
            Cell::opt((!budget.is_empty()).then(|| budget.join(", "))),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        let providers = &space.providers();
        match self {
            Self::Create(c) => ctx.out.made(&providers.create(&c.body()?).await?),
            Self::List { listing } => {
                let none = format!("no model providers in space {}", space.name());
                common::list::<api::Provider>(
                    ctx,
                    providers.list_where(listing.filters()?),
                    &listing.paging,
                    &none,
                )
                .await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { providers.get(&n).await }).await,
            Self::Update(u) => {
                let name = u.name.clone();
                ctx.out.made(&providers.patch(&name, &u.body()?, None).await?)
            }
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "provider", |n| async move { providers.delete(&n).await }).await
            }
        }
    }
}
