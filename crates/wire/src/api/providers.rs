//! Model providers of a space, and what was used of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wharf_domain::model::{BaseUrl, Budget, HeaderName, Price, Protocol, Script};
use wharf_domain::{Labels, Name, ProviderId, SessionId, Time};

use super::{LabelsPatch, present};

/// A model provider: the gateway serves it at `http://gateway/{name}/…` inside sessions and adds the key outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Provider {
    /// The provider's id.
    pub id: ProviderId,
    /// The provider's name: the first segment of its paths at the gateway.
    pub name: Name,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where requests go; null for a scripted one.
    pub base_url: Option<BaseUrl>,
    /// The secret that holds the key; null when none is needed.
    pub secret: Option<Name>,
    /// The header that carries the key: `authorization` carries it as `Bearer`, any other as it is.
    pub key_header: HeaderName,
    /// Headers added to every request.
    pub headers: BTreeMap<HeaderName, String>,
    /// Names or patterns of the models that may be asked; none means all.
    pub models: Vec<String>,
    /// Prices by model name or pattern; the most exact one counts.
    pub prices: BTreeMap<String, Price>,
    /// How much may be used.
    pub budget: Budget,
    /// How often a request is tried again when the provider is overloaded or away.
    pub retries: u8,
    /// What a scripted provider says; null for the others.
    pub script: Option<Script>,
    /// Labels to find it by.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Time,
    /// When it was changed last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// A provider to be made.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProvider {
    /// The provider's name: the first segment of its paths at the gateway.
    pub name: Name,
    /// What it speaks; the names `anthropic` and `openai` say it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Where requests go; the vendor's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<BaseUrl>,
    /// The secret of the space that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Name>,
    /// The header that carries the key; `x-api-key` or `authorization` by the protocol when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_header: Option<HeaderName>,
    /// Headers added to every request. Their values are shown: keys do not belong here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<HeaderName, String>,
    /// Names or patterns (`claude-*`) of the models that may be asked; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub models: Vec<String>,
    /// Prices by model name or pattern; the most exact one counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, Price>,
    /// How much may be used.
    #[serde(default)]
    pub budget: Budget,
    /// How often a request is tried again when the provider is overloaded or away; 2 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 10)]
    pub retries: Option<u8>,
    /// What a scripted provider says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Script>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Changes to a provider, as JSON merge patch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchProvider {
    /// Where requests go; null means the vendor's own.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<BaseUrl>)]
    pub base_url: Option<Option<BaseUrl>>,
    /// The secret of the space that holds the key; null means that none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<Name>)]
    pub secret: Option<Option<Name>>,
    /// The header that carries the key; null means the protocol's own.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<HeaderName>)]
    pub key_header: Option<Option<HeaderName>>,
    /// Headers to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<HeaderName, Option<String>>>,
    /// The new list of models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256)]
    pub models: Option<Vec<String>>,
    /// Prices to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = price_patches)]
    pub prices: Option<BTreeMap<String, Option<PricePatch>>>,
    /// Lines of the budget to set; null lifts one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetPatch>,
    /// How often a request is tried again when the provider is overloaded or away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 10)]
    pub retries: Option<u8>,
    /// The new script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Script>,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
}

/// A map whose values are objects or null, which the derive cannot say.
fn price_patches() -> utoipa::openapi::schema::Object {
    use utoipa::openapi::schema::{
        AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
    };
    use utoipa::openapi::{Ref, RefOr};
    let either = OneOfBuilder::new()
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .item(Ref::from_schema_name("PricePatch"))
        .build();
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(Schema::OneOf(either)))))
        .description(Some("Prices to set; null removes one."))
        .build()
}

/// Changes to a price: absent keeps, null removes. A price that is not there yet needs `input_micro_usd` and
/// `output_micro_usd`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PricePatch {
    /// A million input tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1_000_000_000_000_u64)]
    pub input_micro_usd: Option<u64>,
    /// A million output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1_000_000_000_000_u64)]
    pub output_micro_usd: Option<u64>,
    /// A million tokens read from the cache.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_u64)]
    pub cached_micro_usd: Option<Option<u64>>,
    /// A million tokens written to the cache.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_u64)]
    pub cache_write_micro_usd: Option<Option<u64>>,
}

/// Changes to a budget: absent keeps, null lifts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetPatch {
    /// Tokens of all kinds in a day.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub tokens_per_day: Option<Option<u64>>,
    /// Cost in a day, in micro-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub cost_micro_usd_per_day: Option<Option<u64>>,
    /// Tokens of all kinds in the life of one session.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub tokens_per_session: Option<Option<u64>>,
    /// Cost in the life of one session, in micro-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub cost_micro_usd_per_session: Option<Option<u64>>,
    /// Tokens of all kinds in one turn.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub tokens_per_turn: Option<Option<u64>>,
    /// Cost in one turn, in micro-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub cost_micro_usd_per_turn: Option<Option<u64>>,
}

/// What model requests used, as the gateway counted it. The kinds of tokens do not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct ModelUsage {
    /// Requests that are over.
    pub requests: u64,
    /// Input tokens that were not read from a cache.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Tokens read from the model's cache.
    pub cached_tokens: u64,
    /// Tokens written to the model's cache.
    pub cache_write_tokens: u64,
    /// Cost in micro-dollars, of models that have a price.
    pub cost_micro_usd: u64,
}

/// One line of a report: what it is about, and how much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelUsageLine {
    /// The day in UTC, where lines are kept apart by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = Date)]
    pub day: Option<String>,
    /// The session, where lines are kept apart by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The session's name, as long as its row is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_name: Option<String>,
    /// The provider, where lines are kept apart by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The model, where lines are kept apart by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How much.
    pub usage: ModelUsage,
}

/// What model requests of some days used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelReport {
    /// The first day, in UTC.
    #[schema(format = Date)]
    pub from: String,
    /// The last day, in UTC.
    #[schema(format = Date)]
    pub to: String,
    /// Up to 500 lines: the newest day first, then the dearest.
    pub lines: Vec<ModelUsageLine>,
    /// Whether there are more lines than that; ask for fewer days or fewer distinctions.
    pub more: bool,
}
