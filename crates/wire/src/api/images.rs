//! Images: root filesystems sessions start from.

use serde::{Deserialize, Serialize};
use wharf_domain::{ImageId, Name, Time};

/// A root filesystem sessions start from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Image {
    /// The image's id.
    pub id: ImageId,
    /// The image's name.
    pub name: Name,
    /// Which runtime holds it.
    pub runtime: String,
    /// SHA-256 (hex) of its archive. A new version of an image is a new tree.
    pub digest: String,
    /// Bytes its tree takes on disk.
    pub size_bytes: u64,
    /// When it was imported or built.
    pub created_at: Time,
}

/// An image as a session names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageView {
    /// The image's name.
    pub name: Name,
    /// SHA-256 (hex) of the tree the session stands on.
    pub digest: String,
}
