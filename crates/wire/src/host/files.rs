//! Files of a session. Paths are absolute in the session; `path::normalise` is the door they come in by.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Last component; `/` for the root. Bytes that are no UTF-8 are replaced.
    pub name: String,
    /// There when `name` is not what the file is called on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_b64: Option<super::B64>,
    pub kind: FileKind,
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified_ms: i64,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// `GET /files/list`: in byte order of names.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FileList {
    pub entries: Vec<FileInfo>,
    /// Hand back as `after` to read on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Who a new file belongs to: `user`, `user:group`, names or numbers. `agent` when absent.
pub type Owner = String;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeDirectory {
    pub path: String,
    /// Make missing directories above it too, and accept one that is there.
    #[serde(default)]
    pub parents: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveFile {
    pub from: String,
    pub to: String,
    /// Replace what is at `to` (a file, or an empty directory by a directory).
    #[serde(default)]
    pub overwrite: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeMode {
    pub path: String,
    pub mode: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeOwner {
    pub path: String,
    pub owner: Owner,
    /// Everything below too. Links are changed themselves, never what they point to.
    #[serde(default)]
    pub recursive: bool,
}

/// Options of `PUT /files/content`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Of a new file; one that is replaced keeps its own unless given.
    pub mode: Option<u32>,
    /// Of a new file; one that is replaced keeps its own unless given.
    pub owner: Option<Owner>,
    pub parents: bool,
    /// Add to the end instead of replacing. Not atomic: what was written before a failure stays.
    pub append: bool,
}

/// Answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub bytes: u64,
    /// Of the file afterwards.
    pub size: u64,
}

/// Answer to `PUT /files/tar`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    pub members: u64,
    pub bytes: u64,
}

/// Answer to a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    pub entries: u64,
}
