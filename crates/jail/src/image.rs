//! Images: immutable root filesystems sessions start from.
