//! Model providers: which protocol, whose prices, how much may be spent, and what a scripted one says.
//!
//! Money is counted in whole micro-dollars (1,000,000 = $1), so that sums are exact. Refuses a base URL, a header or a
//! pattern the gateway could not use, before anything is stored.

mod address;
mod script;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Code, Error, limits};

pub use address::{BaseUrl, HeaderName};
pub use script::{Script, ScriptBlock, ScriptFailure, ScriptTurn, ScriptUsage, Standing};

/// Names that are the gateway's own.
pub const RESERVED: [&str; 3] = ["gateway", "guard", "wharf"];

/// What a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Anthropic Messages.
    Anthropic,
    /// OpenAI chat completions and responses, and whatever speaks like them.
    Openai,
    /// No model: replays a script over either protocol, for tests and demonstrations.
    Scripted,
}

impl Protocol {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::Openai => "openai",
            Self::Scripted => "scripted",
        }
    }

    /// Where the vendor itself listens; a scripted provider is nowhere.
    pub fn vendor(self) -> Option<BaseUrl> {
        let text = match self {
            Self::Anthropic => "https://api.anthropic.com",
            Self::Openai => "https://api.openai.com",
            Self::Scripted => return None,
        };
        text.parse().ok()
    }

    /// The header that carries the key, when the provider does not say another.
    pub fn key_header(self) -> HeaderName {
        let text = if self == Self::Anthropic { "x-api-key" } else { "authorization" };
        text.parse().expect("a constant header")
    }
}

impl std::str::FromStr for Protocol {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "anthropic" => Ok(Self::Anthropic),
            "openai" => Ok(Self::Openai),
            "scripted" => Ok(Self::Scripted),
            other => {
                let shown: String = other.chars().take(80).collect();
                let detail = format!("{shown:?} is no protocol: it is anthropic, openai or scripted");
                Err(Error::new(Code::InvalidField, detail).field("protocol"))
            }
        }
    }
}

/// Tokens of one or many requests. The four never overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Read by the model and not from its cache.
    pub input: u64,
    /// Written by the model.
    pub output: u64,
    /// Read from the model's cache.
    pub cached: u64,
    /// Written to the model's cache.
    pub cache_write: u64,
}

impl Tokens {
    /// What budgets count.
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output).saturating_add(self.cached).saturating_add(self.cache_write)
    }
}

/// What a million tokens cost, in micro-dollars: 3000000 is $3.00 per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// A million input tokens.
    #[schema(maximum = 1_000_000_000_000_u64)]
    pub input_micro_usd: u64,
    /// A million output tokens.
    #[schema(maximum = 1_000_000_000_000_u64)]
    pub output_micro_usd: u64,
    /// A million tokens read from the cache; as input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1_000_000_000_000_u64)]
    pub cached_micro_usd: Option<u64>,
    /// A million tokens written to the cache; as input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1_000_000_000_000_u64)]
    pub cache_write_micro_usd: Option<u64>,
}

/// The dearest price a million tokens may have: a million dollars.
const PRICE_MAX: u64 = 1_000_000_000_000;

impl Price {
    /// What `tokens` cost, in micro-dollars, rounded up.
    pub fn of(&self, tokens: Tokens) -> u64 {
        let line = |n: u64, price: u64| u128::from(n) * u128::from(price);
        let sum = line(tokens.input, self.input_micro_usd)
            + line(tokens.output, self.output_micro_usd)
            + line(tokens.cached, self.cached_micro_usd.unwrap_or(self.input_micro_usd))
            + line(tokens.cache_write, self.cache_write_micro_usd.unwrap_or(self.input_micro_usd));
        u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    fn dearest(&self) -> u64 {
        let rest = self.cached_micro_usd.max(self.cache_write_micro_usd).unwrap_or(0);
        self.input_micro_usd.max(self.output_micro_usd).max(rest)
    }
}

/// How much may be used; an absent line is no limit. Days are days of UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Tokens of all kinds in a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub tokens_per_day: Option<u64>,
    /// Cost in a day, in micro-dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub cost_micro_usd_per_day: Option<u64>,
    /// Tokens of all kinds in the life of one session.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub tokens_per_session: Option<u64>,
    /// Cost in the life of one session, in micro-dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub cost_micro_usd_per_session: Option<u64>,
    /// Tokens of all kinds in one turn, whatever kind of agent answers it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub tokens_per_turn: Option<u64>,
    /// Cost in one turn, in micro-dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub cost_micro_usd_per_turn: Option<u64>,
}

impl Budget {
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether a request whose price is not known would escape it.
    pub fn counts_cost(&self) -> bool {
        let lines =
            [self.cost_micro_usd_per_day, self.cost_micro_usd_per_session, self.cost_micro_usd_per_turn];
        lines.iter().any(Option::is_some)
    }
}

/// Everything about a provider but its name and labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSpec {
    pub protocol: Protocol,
    /// Absent: the vendor's own, which a scripted one does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<BaseUrl>,
    /// Name of the secret that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<crate::Name>,
    /// The header that carries the key; by the protocol when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_header: Option<HeaderName>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<HeaderName, String>,
    /// Names or patterns (`*`) of the models that may be asked; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// By model name or pattern; the most exact one counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, Price>,
    #[serde(default)]
    pub budget: Budget,
    /// How often a request is tried again.
    pub retries: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Script>,
}

impl ProviderSpec {
    /// Refuses what the gateway could not honour, naming the field.
    pub fn validate(&self) -> crate::Result<()> {
        let refuse =
            |field: &str, detail: String| Err(Error::new(Code::InvalidField, detail).field(field.to_owned()));
        let scripted = self.protocol == Protocol::Scripted;
        if scripted != self.script.is_some() {
            return refuse(
                "script",
                "a provider of protocol scripted has a script, and no other has one".to_owned(),
            );
        }
        if scripted && (self.base_url.is_some() || self.secret.is_some()) {
            let field = if self.base_url.is_some() { "base_url" } else { "secret" };
            return refuse(field, format!("a scripted provider asks nobody: leave {field} out"));
        }
        if let Some(script) = &self.script {
            script.validate()?;
        }
        if self.retries > limits::MODEL_RETRIES {
            return refuse(
                "retries",
                format!("retries is at most {} (MODEL_RETRIES)", limits::MODEL_RETRIES),
            );
        }
        if self.headers.len() > 32 || self.models.len() > 256 || self.prices.len() > 256 {
            return refuse("headers", "at most 32 headers, 256 models and 256 prices".to_owned());
        }
        for (name, value) in &self.headers {
            name.extra()?;
            if value.len() > 4096 || !value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
                let detail = format!("the value of {name} has up to 4096 printable ASCII characters");
                return refuse("headers", detail);
            }
        }
        for pattern in &self.models {
            check_pattern("models", pattern)?;
        }
        for (pattern, price) in &self.prices {
            check_pattern("prices", pattern)?;
            if price.dearest() > PRICE_MAX {
                return refuse("prices", format!("the price of {pattern} is over {PRICE_MAX} micro-dollars"));
            }
        }
        let lines = [
            self.budget.tokens_per_day,
            self.budget.cost_micro_usd_per_day,
            self.budget.tokens_per_session,
            self.budget.cost_micro_usd_per_session,
            self.budget.tokens_per_turn,
            self.budget.cost_micro_usd_per_turn,
        ];
        if lines.into_iter().flatten().any(|l| l > crate::quota::MAX) {
            return refuse("budget", format!("a budget is at most {}", crate::quota::MAX));
        }
        Ok(())
    }

    /// Where requests go; none for a scripted provider.
    pub fn upstream(&self) -> Option<BaseUrl> {
        self.base_url.clone().or_else(|| self.protocol.vendor())
    }

    pub fn key_header(&self) -> HeaderName {
        self.key_header.clone().unwrap_or_else(|| self.protocol.key_header())
    }

    pub fn allows(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|p| matches(p, model))
    }

    /// The price of the most exact pattern: the name itself, else the one with the most characters that are no `*`.
    pub fn price(&self, model: &str) -> Option<Price> {
        if let Some(exact) = self.prices.get(model) {
            return Some(*exact);
        }
        let literal = |p: &str| p.bytes().filter(|b| *b != b'*').count();
        let best = self.prices.iter().filter(|(p, _)| matches(p, model)).max_by_key(|(p, _)| literal(p));
        best.map(|(_, price)| *price)
    }
}

fn check_pattern(field: &str, pattern: &str) -> crate::Result<()> {
    let ok = (1..=200).contains(&pattern.len()) && pattern.bytes().all(|b| (0x21..0x7f).contains(&b));
    if ok {
        return Ok(());
    }
    let detail =
        "a model name or pattern has 1 to 200 printable ASCII characters without spaces; * stands for any";
    Err(Error::new(Code::InvalidField, detail).field(field.to_owned()))
}

/// Whether `text` is what `pattern` says; `*` stands for any characters, none included.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
