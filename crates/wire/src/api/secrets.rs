//! Secrets of a space: write-only values.

use serde::{Deserialize, Serialize};
use wharf_domain::{Labels, Name, SecretId, Time};

use super::{Encoding, LabelsPatch, Sensitive};

/// A secret without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Secret {
    /// The secret's id.
    pub id: SecretId,
    /// The secret's name.
    pub name: Name,
    /// Labels to find it by.
    pub labels: Labels,
    /// Grows with every new value.
    pub version: i64,
    /// When it was made.
    pub created_at: Time,
    /// When its value was set last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// A secret to be made.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSecret {
    /// The secret's name.
    pub name: Name,
    /// The value: 1 byte to 64 KiB.
    #[schema(min_length = 1, max_length = 65_536)]
    pub value: Sensitive,
    /// How the value is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Changes to a secret: a new value, new labels or both.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchSecret {
    /// The value: 1 byte to 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 65_536)]
    pub value: Option<Sensitive>,
    /// How the value is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
}

/// A secret's value. Whoever asked for it is in the audit log.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SecretValue {
    /// The secret's name.
    pub name: Name,
    /// The version this is the value of.
    pub version: i64,
    /// The value.
    pub value: Sensitive,
    /// How the value is written.
    pub encoding: Encoding,
}
