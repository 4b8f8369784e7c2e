//! Paths as callers write them, made plain before anything touches a disk.
//!
//! Pure string work: it knows no file system and follows no link. Staying inside a root while links are followed is
//! the kernel's job (`openat2`), not this module's.

use std::fmt;

/// Bytes of a path (Linux PATH_MAX without its NUL).
pub const PATH_BYTES: usize = 4095;
/// Bytes of one name in a path (Linux NAME_MAX).
pub const NAME_BYTES: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    Empty,
    Relative,
    Absolute,
    Nul,
    Long,
    NameLong,
    Parent,
    NotText,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the path is empty",
            Self::Relative => "the path is not absolute: it must start with /",
            Self::Absolute => "the path is absolute",
            Self::Nul => "the path holds a NUL byte",
            Self::Long => "the path is longer than 4095 bytes",
            Self::NameLong => "a name in the path is longer than 255 bytes",
            Self::Parent => "the path holds a .. component",
            Self::NotText => "the path is not UTF-8",
        })
    }
}

impl std::error::Error for PathError {}

/// An absolute path of the session without `.`, `..`, empty components or a trailing slash. `..` is taken
/// lexically and stops at the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionPath(String);

impl SessionPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For `*at` calls on the root's descriptor: `.` for the root, else the path without its first slash.
    pub fn relative(&self) -> &str {
        if self.0.len() == 1 { "." } else { &self.0[1..] }
    }

    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// Parent and last component; None for the root.
    pub fn split(&self) -> Option<(Self, &str)> {
        let at = self.0.rfind('/')?;
        let name = &self.0[at + 1..];
        if name.is_empty() {
            return None;
        }
        Some((Self(if at == 0 { "/".into() } else { self.0[..at].into() }), name))
    }

    /// `self` or something below it.
    pub fn contains(&self, other: &Self) -> bool {
        self.is_root()
            || other.0 == self.0
            || other.0.strip_prefix(&self.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Debug for SessionPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SessionPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes an absolute path plain.
pub fn normalise(path: &str) -> Result<SessionPath, PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    if path.len() > PATH_BYTES {
        return Err(PathError::Long);
    }
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name if name.len() > NAME_BYTES => return Err(PathError::NameLong),
            name => parts.push(name),
        }
    }
    Ok(SessionPath(format!("/{}", parts.join("/"))))
}

/// Like [`normalise`], but a relative path counts from `base`.
pub fn normalise_from(base: &SessionPath, path: &str) -> Result<SessionPath, PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.starts_with('/') { normalise(path) } else { normalise(&format!("{}/{path}", base.as_str())) }
}

/// The path of an archive's member, relative to where it is unpacked. None for the target itself (`./`). Refuses what
/// could name something outside: absolute paths and `..`.
pub fn member(path: &[u8]) -> Result<Option<String>, PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.contains(&0) {
        return Err(PathError::Nul);
    }
    if path.len() > PATH_BYTES {
        return Err(PathError::Long);
    }
    let path = std::str::from_utf8(path).map_err(|_| PathError::NotText)?;
    if path.starts_with('/') {
        return Err(PathError::Absolute);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(PathError::Parent),
            name if name.len() > NAME_BYTES => return Err(PathError::NameLong),
            name => parts.push(name),
        }
    }
    Ok(if parts.is_empty() { None } else { Some(parts.join("/")) })
}
