//! Files of a session.

use serde::{Deserialize, Serialize};
use wharf_domain::Time;

/// Kinds of directory entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// What is known of a file without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileInfo {
    /// Its absolute path.
    pub path: String,
    /// The last part of the path. Bytes that are no UTF-8 are replaced.
    pub name: String,
    /// Base64 of what it is called on disk, where that is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_b64: Option<String>,
    /// What it is.
    pub kind: FileKind,
    /// Its length.
    pub size_bytes: u64,
    /// Its permission bits, octal.
    #[schema(pattern = "^[0-7]{4}$", example = "0644")]
    pub mode: String,
    /// Its owner's number inside.
    pub uid: u32,
    /// Its group's number inside.
    pub gid: u32,
    /// When it was written last.
    pub modified_at: Time,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Something to do with a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum FileOp {
    /// Makes a directory.
    Mkdir {
        /// Makes missing parents too, and is content when the directory is there.
        #[serde(default)]
        parents: bool,
        /// Permission bits, octal; `0755` when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(pattern = "^[0-7]{3,4}$")]
        mode: Option<String>,
    },
    /// Moves the path elsewhere.
    Move {
        /// The new absolute path.
        #[schema(pattern = "^/[^\\x00]*$", max_length = 4095)]
        to: String,
        /// Replaces what is there.
        #[serde(default)]
        overwrite: bool,
    },
    /// Changes permission bits.
    Chmod {
        /// Permission bits, octal.
        #[schema(pattern = "^[0-7]{3,4}$")]
        mode: String,
    },
    /// Changes owner and group.
    Chown {
        /// `user` or `user:group`, names or numbers as they are inside.
        #[schema(min_length = 1, max_length = 128)]
        owner: String,
        /// Everything below too.
        #[serde(default)]
        recursive: bool,
    },
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Written {
    /// Bytes taken.
    pub bytes: u64,
    /// Length of the file afterwards; absent for an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Members unpacked from an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<u64>,
}

/// What was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FilesDeleted {
    /// Directory entries removed.
    pub entries: u64,
}

/// What is known of a file (`stat`), or a page of a directory's entries (`list`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum FileAnswer {
    /// With `stat`.
    Stat(FileInfo),
    /// With `list`.
    List(super::Page<FileInfo>),
}
