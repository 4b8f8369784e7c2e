//! Published copies: files of a session as they were, at an address of their own.

use serde::{Deserialize, Serialize};
use wharf_domain::{Labels, Name, PublishedId, SessionId, Time, limits};

use super::Sensitive;

/// Who may read a published copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Whoever has a link that was signed for it, until the link expires.
    #[default]
    Link,
    /// Everybody who knows its address.
    Public,
}

impl Visibility {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Public => "public",
        }
    }
}

/// Files to be published.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Absolute paths of files and directories. One directory is the copy's root; several paths, and a single file, stand
    /// in the root by their last names.
    #[schema(min_items = 1, max_items = 64)]
    pub paths: Vec<String>,
    /// The copy's name; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Who may read it.
    #[serde(default)]
    pub visibility: Visibility,
    /// Seconds after which the copy goes by itself; it stays when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub expires_in_seconds: Option<u32>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// A published copy. It does not change, and outlives its session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Published {
    /// The copy's id.
    pub id: PublishedId,
    /// The copy's name, unique in the space.
    pub name: Name,
    /// The session it is of, which may be gone.
    pub session: SessionId,
    /// What the session was called.
    pub session_name: Name,
    /// What was published of it.
    pub paths: Vec<String>,
    /// Who may read it.
    pub visibility: Visibility,
    /// The address of a public copy; null where a link is needed.
    pub url: Option<String>,
    /// How many files it has.
    pub files: u32,
    /// Their bytes, counted against the space's disk quota in whole MiB.
    pub size_bytes: u64,
    /// Symbolic links, sockets and other entries that are no files, and so are not in the copy.
    pub left_out: u32,
    /// When it goes by itself; null when it stays.
    pub expires_at: Option<Time>,
    /// Labels to find it by.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Time,
    /// Grows with every change; revoking links is the only one.
    pub resource_version: i64,
}

/// A link to be signed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePublishedLink {
    /// Seconds it is valid; 86400 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub expires_in_seconds: Option<u32>,
}

impl CreatePublishedLink {
    pub fn seconds(&self) -> u32 {
        self.expires_in_seconds.unwrap_or(limits::PUBLISHED_LINK_SECONDS)
    }
}

/// A link to a published copy: whoever has it may read the copy.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PublishedLink {
    /// The address; paths of files follow behind its end.
    pub url: Sensitive,
    /// From then on it is refused; null for a public copy, whose address does not expire.
    pub expires_at: Option<Time>,
}

/// What unpublishing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unpublished {
    /// Copies that were deleted.
    pub copies: u32,
}
