//! Git repositories of a space. Their content travels by git's own protocol.

use serde::{Deserialize, Serialize};
use wharf_domain::repo::{Branch, BranchPattern};
use wharf_domain::{Labels, Name, RepoId, Time};

use super::{LabelsPatch, present};

/// A git repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Repo {
    /// The repository's id.
    pub id: RepoId,
    /// The repository's name, unique in its space.
    pub name: Name,
    /// What is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Labels to find it by.
    pub labels: Labels,
    /// Where git clones it from and pushes to. With a user's name and password, or any name and an API token as password.
    pub clone_url: String,
    /// The branch a clone checks out.
    pub default_branch: Branch,
    /// Branches that are neither deleted nor rewound.
    pub protected: Vec<BranchPattern>,
    /// Bytes it takes.
    pub size_bytes: u64,
    /// Bytes it may take; null means the installation's `git.max_repo_bytes`.
    pub max_bytes: Option<u64>,
    /// When something was pushed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed_at: Option<Time>,
    /// When it was made.
    pub created_at: Time,
    /// When its settings were changed last.
    pub updated_at: Time,
    /// Grows with every change and every push; goes into `If-Match`.
    pub resource_version: i64,
}

/// A repository to be made; it is empty.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRepo {
    /// The repository's name.
    pub name: Name,
    /// What is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub description: Option<String>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The branch a clone checks out; `main` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_branch: Option<Branch>,
    /// Branches that are neither deleted nor rewound, `*` stands for any characters; the default branch when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64)]
    pub protected: Option<Vec<BranchPattern>>,
    /// Bytes it may take; the installation's `git.max_repo_bytes` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    pub max_bytes: Option<u64>,
}

/// Changes to a repository, as JSON merge patch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchRepo {
    /// What is in it; null removes it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 1024)]
    pub description: Option<Option<String>>,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
    /// The branch a clone checks out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_branch: Option<Branch>,
    /// The protected branches, instead of all those before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64)]
    pub protected: Option<Vec<BranchPattern>>,
    /// Bytes it may take; null means the installation's limit.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    pub max_bytes: Option<Option<u64>>,
}

/// A branch of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RepoBranch {
    /// The branch's name.
    pub name: String,
    /// The commit it stands at.
    pub commit: String,
    /// Whether a clone checks it out.
    pub default: bool,
    /// Whether it is neither deleted nor rewound.
    pub protected: bool,
    /// When that commit was made, as the commit says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<Time>,
    /// Who wrote it, as the commit says.
    pub author: String,
    /// The first line of its message.
    pub subject: String,
}
