//! Roles, role bindings and the question "may I?".

use serde::{Deserialize, Serialize};
use wharf_domain::rbac::{Group, Resource, Rule, Verb};
use wharf_domain::{BindingId, Labels, Name, RoleId, Time};

use super::{LabelsPatch, PrincipalRef};

/// A named list of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Role {
    /// The role's id.
    pub id: RoleId,
    /// The role's name.
    pub name: Name,
    /// What it allows. Nothing denies.
    pub rules: Vec<Rule>,
    /// Labels to find it by.
    pub labels: Labels,
    /// Built-in roles cannot be changed or deleted.
    pub built_in: bool,
    /// When it was made.
    pub created_at: Time,
    /// When it was changed last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// A role to be made.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRole {
    /// The role's name.
    pub name: Name,
    /// What it allows; the caller cannot grant what the caller does not have.
    #[schema(min_items = 1, max_items = 100)]
    pub rules: Vec<Rule>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Changes to a role, as JSON merge patch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchRole {
    /// The new rules, instead of all the old ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 100)]
    pub rules: Option<Vec<Rule>>,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
}

/// A role given to a principal, in one space or everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RoleBinding {
    /// The binding's id.
    pub id: BindingId,
    /// The binding's name.
    pub name: Name,
    /// The role's name.
    pub role: Name,
    /// Who has it.
    pub principal: PrincipalRef,
    /// The space it is for; null means everywhere.
    pub space: Option<Name>,
    /// Labels to find it by.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Time,
    /// When it was changed last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// A role binding to be made.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRoleBinding {
    /// The binding's name; made from its parts when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The role's name.
    pub role: Name,
    /// Who gets it.
    pub principal: PrincipalRef,
    /// The space it is for; absent means everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<Name>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// The question whether the caller may do something.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessReviewRequest {
    /// What the caller wants to do.
    pub verb: Verb,
    /// The API group of the resource.
    pub group: Group,
    /// To what kind of thing.
    pub resource: Resource,
    /// To which one; absent means to any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub name: Option<String>,
    /// In which space; absent means everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<Name>,
}

/// The answer, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AccessReview {
    /// Whether the caller may.
    pub allowed: bool,
    /// The binding that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<String>,
    /// The role of that binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The same in a sentence.
    pub reason: String,
}
