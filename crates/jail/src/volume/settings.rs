//! What an operator may say about the pool.

use std::path::PathBuf;

/// Which driver to use; `Auto` is btrfs wherever the machine can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverChoice {
    #[default]
    Auto,
    Btrfs,
    Directory,
}

/// The driver in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Btrfs,
    /// Plain directories: forks copy, nothing limits the disk.
    Directory,
}

impl Driver {
    /// As capabilities name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Directory => "directory",
        }
    }
}

#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Root's own, mode 0700; made when missing. The pool and the images live in it.
    pub data_dir: PathBuf,
    /// Size of the sparse file where the data directory is not on a btrfs with simple quotas. `None`: four fifths of
    /// what is free. A larger number grows an existing pool, a smaller one is not applied.
    pub loop_size_mib: Option<u64>,
    pub driver: DriverChoice,
    /// The operator accepts volumes without a disk limit; without this the directory driver refuses every volume.
    pub waive_disk_limit: bool,
}
