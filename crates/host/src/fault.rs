//! What a request is refused with. One type for the whole host; `reply` turns it into an answer.

use wharf_domain::Code;
use wharf_wire::host::Fault as Body;
use wharf_wire::host::path::PathError;

#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .0.code, .0.detail)]
pub struct Fault(pub Box<Body>);

pub type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Body { code, detail: detail.into(), field: None }))
    }

    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    pub fn invalid(field: &str, detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidField, detail).field(field)
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(Code::NotFound, what)
    }

    pub fn path(field: &str, error: PathError) -> Self {
        Self::invalid(field, error.to_string())
    }

    /// An operation on a file that the kernel refused. The code says whose turn it is to act.
    pub fn io(doing: &str, path: &str, error: &std::io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        let (code, why) = match errno {
            libc::ENOENT => (Code::NotFound, "there is no such file or directory"),
            libc::EEXIST => (Code::AlreadyExists, "there is something of that name"),
            libc::ENOTEMPTY => (Code::InvalidState, "the directory is not empty"),
            libc::ENOTDIR => (Code::InvalidState, "a part of the path is not a directory"),
            libc::EISDIR => (Code::InvalidState, "it is a directory"),
            libc::ELOOP => (Code::InvalidState, "there are too many symbolic links in the path"),
            libc::EXDEV => (Code::InvalidState, "it leads to another file system or out of the target"),
            libc::ETXTBSY => (Code::InUse, "it is a program that is running"),
            libc::EBUSY => (Code::InUse, "it is in use"),
            libc::EACCES | libc::EPERM => (Code::Forbidden, "the session is not allowed to"),
            libc::EROFS => (Code::Forbidden, "the file system is read-only"),
            libc::ENOSPC | libc::EDQUOT => (Code::QuotaExceeded, "the session's disk is full"),
            libc::ENAMETOOLONG => (Code::InvalidField, "the name is too long"),
            libc::EINVAL => (Code::InvalidField, "the file system does not accept it"),
            libc::EMFILE | libc::ENFILE | libc::ENOMEM => {
                (Code::Unavailable, "the session is out of resources")
            }
            _ => (Code::Internal, ""),
        };
        let detail = if why.is_empty() {
            format!("{doing} {path}: {error}")
        } else {
            format!("{doing} {path}: {why}")
        };
        Self::new(code, detail)
    }
}
