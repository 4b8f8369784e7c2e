//! Git repositories on the disk of the server: where they lie, what git is run with, its HTTP backend, its hooks.
//!
//! Everything about git's own formats is left to git itself. A repository is named by its id alone, so nothing a client
//! says becomes a path. Refuses to read any configuration but what it hands over: no system or user file, no hook but
//! its own, no variable of this process.

mod archive;
mod cgi;
mod gate;
pub mod hook;
mod program;
mod repo;
mod root;
mod tidy;

pub use archive::Found;
pub use cgi::{Answer, Bounds, Broken, Call, Ended, Hold, Service, Started, serve};
pub use gate::listen;
pub use hook::{Ask, Reply};
pub use program::{Programs, find};
pub use repo::BranchInfo;
pub use root::Root;
pub use tidy::Collected;

use wharf_domain::{Code, Error};

/// What went wrong with git or its files.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("{0} is not installed")]
    Missing(&'static str),
    #[error("{what}: {cause}")]
    Io { what: String, cause: std::io::Error },
    #[error("git {what} ended with {status}: {said}")]
    Failed { what: String, status: String, said: String },
    #[error("git {0} took too long")]
    Slow(String),
    #[error("git's answer cannot be read: {0}")]
    Unreadable(String),
}

pub type Result<T, E = GitError> = std::result::Result<T, E>;

pub(crate) fn io<T>(what: impl FnOnce() -> String, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|cause| GitError::Io { what: what(), cause })
}

impl From<GitError> for Error {
    fn from(error: GitError) -> Self {
        match error {
            GitError::Missing(what) => Self::new(
                Code::Unsupported,
                format!(
                    "{what} is not installed on the server's machine, so it keeps no repositories; its administrator installs \
                     it (apt install git util-linux) and starts wharf anew"
                ),
            ),
            other => Self::internal(other),
        }
    }
}
