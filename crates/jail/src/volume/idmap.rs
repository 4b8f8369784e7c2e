//! Detached id-mapped mounts: the same files, owned by other ids where they are mounted.
//!
//! On the disk a session's root is id 0; in its mount it is the id its user namespace maps 0 to. Nothing is ever
//! chowned, and no two jails need the same mapping.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::mount::OpenTreeFlags;

use super::ioctl::mount_setattr;

/// A read-only clone of the tree at `root`.
pub(super) fn read_only(root: impl AsFd, user_namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    clone(root, libc::MOUNT_ATTR_RDONLY, user_namespace)
}

/// A writable clone of the tree at `root`.
pub(super) fn writable(root: impl AsFd, user_namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    clone(root, 0, user_namespace)
}

fn clone(root: impl AsFd, attributes: u64, user_namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(root, c"", flags)?;
    // The pool itself is mounted nosuid and noexec; inside the namespace both are what a root file system needs.
    // Device nodes stay dead: a session gets its devices bound one by one.
    let clear = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    mount_setattr(&tree, attributes | libc::MOUNT_ATTR_NODEV, clear, Some(user_namespace))?;
    Ok(tree)
}
