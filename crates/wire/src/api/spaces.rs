//! Spaces: the tenant boundary, its quotas and its defaults.

use serde::{Deserialize, Serialize};
use wharf_domain::egress::Pattern;
use wharf_domain::quota::Quotas;
use wharf_domain::{Labels, Name, SpaceId, Time};

use super::{ModelReport, ResourcesPatch, present};

/// A tenant's room: everything but users, roles and nodes lives in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Space {
    /// The space's id.
    pub id: SpaceId,
    /// The space's name.
    pub name: Name,
    /// Labels to find it by.
    pub labels: Labels,
    /// What its sessions may use together.
    pub quotas: Quotas,
    /// What its sessions get when they do not say.
    pub defaults: SpaceDefaults,
    /// When it was made.
    pub created_at: Time,
    /// When it was changed last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// What a space's sessions get when they do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpaceDefaults {
    /// The image's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// Limits of a session; those absent keep the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesPatch>,
    /// Seconds after the last use until a session closes; 0 means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub idle_timeout_seconds: Option<u32>,
    /// Seconds a turn may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604_800)]
    pub turn_timeout_seconds: Option<u32>,
    /// What builds may reach at the most, beside the repository they come from; the public package registries when absent. Builds
    /// of those who may update the space's policies reach whatever their `wharf.toml` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub build_egress: Option<Vec<Pattern>>,
}

/// A space to be made.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSpace {
    /// The space's name.
    pub name: Name,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What its sessions may use together; absent numbers mean no limit.
    #[serde(default)]
    pub quotas: Quotas,
    /// What its sessions get when they do not say.
    #[serde(default)]
    pub defaults: SpaceDefaults,
}

/// Changes to a space, as JSON merge patch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchSpace {
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
    /// Quotas to set; null lifts one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<QuotasPatch>,
    /// The new defaults, instead of all the old ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<SpaceDefaults>,
}

/// Labels to set; a null value removes the label.
pub type LabelsPatch = std::collections::BTreeMap<String, Option<String>>;

/// Changes to quotas, as JSON merge patch: absent keeps, null lifts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotasPatch {
    /// Sessions that are not deleted.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u32>, maximum = 4_294_967_295_u32)]
    pub sessions: Option<Option<u32>>,
    /// Sessions with a computer up.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u32>, maximum = 4_294_967_295_u32)]
    pub running_sessions: Option<Option<u32>>,
    /// CPU of the running sessions together.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub cpu_millis: Option<Option<u64>>,
    /// Memory of the running sessions together.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub memory_mib: Option<Option<u64>>,
    /// Disk of all living sessions and snapshots together.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub disk_mib: Option<Option<u64>>,
    /// Model tokens of all kinds in a day of UTC.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub model_tokens_per_day: Option<Option<u64>>,
    /// Cost of model requests in a day of UTC, in micro-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub model_cost_micro_usd_per_day: Option<Option<u64>>,
    /// Bytes that leave and enter its sessions in a day of UTC.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub egress_bytes_per_day: Option<Option<u64>>,
    /// Bytes of its git repositories together.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub git_bytes: Option<Option<u64>>,
    /// Bytes of what its builds keep together: versions of agents, caches, and uploaded sources while they are built.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 9_007_199_254_740_991_u64)]
    pub package_bytes: Option<Option<u64>>,
}

/// What a space uses of its quotas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SpaceUsage {
    /// Sessions that are not deleted.
    pub sessions: Used,
    /// Sessions with a computer up.
    pub running_sessions: Used,
    /// CPU reserved by the running sessions.
    pub cpu_millis: Used,
    /// Memory reserved by the running sessions.
    pub memory_mib: Used,
    /// Disk reserved by all living sessions and snapshots.
    pub disk_mib: Used,
    /// Model tokens of all kinds, today in UTC.
    pub model_tokens_per_day: Used,
    /// Cost of model requests in micro-dollars, today in UTC.
    pub model_cost_micro_usd_per_day: Used,
    /// Bytes that left and entered its sessions, today in UTC.
    pub egress_bytes_per_day: Used,
    /// Bytes of its git repositories.
    pub git_bytes: Used,
    /// Bytes of what its builds keep: versions of agents, caches, and uploaded sources while they are built.
    pub package_bytes: Used,
    /// Model requests of the days asked for.
    pub models: ModelReport,
}

/// One line of usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Used {
    /// How much is used or reserved.
    pub used: u64,
    /// How much there may be; null means no limit.
    pub limit: Option<u64>,
}
