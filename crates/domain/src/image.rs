//! What an image is to the rest of Wharf: a name and the digest of its tree.

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// One version of an image as a runtime holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageRef {
    pub name: Name,
    /// SHA-256 (hex) of the tree's archive; a new version of an image is a new tree.
    pub digest: String,
}
