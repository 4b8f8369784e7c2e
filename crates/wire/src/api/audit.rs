//! The audit log: who did what, chained by hash.

use serde::{Deserialize, Serialize};
use wharf_domain::{AuditId, Time};

/// Whether it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It was done.
    Allowed,
    /// The caller was not allowed to.
    Denied,
    /// It was allowed and went wrong.
    Failed,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// The entry's id.
    pub id: AuditId,
    /// When it happened.
    pub at: Time,
    /// Who did it: `user/alice`, `service-account/ci`, `system/…` or `anonymous`.
    pub principal: String,
    /// Who really acted, when it was an impersonation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impersonator: Option<String>,
    /// What was done.
    pub verb: String,
    /// To what kind of thing.
    pub resource: String,
    /// To which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// In which space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// Whether it was done.
    pub outcome: AuditOutcome,
    /// The network address it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The request it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// More about it; never a secret.
    #[serde(default)]
    pub detail: serde_json::Value,
    /// Its place in the chain; absent for the moment until it is chained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<i64>,
    /// The hash there (hex).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// What walking the chain found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditVerification {
    /// Whether every entry is as it was when it was chained.
    pub ok: bool,
    /// Entries looked at.
    pub entries: u64,
    /// Entries that are not chained yet; those of the last moments.
    pub unchained: u64,
    /// The hash of the last entry (hex): keep it elsewhere, and a truncated log shows too. Absent in an empty log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// The first place where the chain does not hold, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}
