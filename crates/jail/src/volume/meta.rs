//! What a volume or snapshot knows about itself, kept as an extended attribute on its top directory.
//!
//! So it travels with rename and snapshot, is written in one atomic call, and no file beside it can disagree. The
//! `trusted.` class is out of reach from any user namespace. A directory without it is half-made.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use serde::{Deserialize, Serialize};
use wharf_domain::image::ImageRef;
use wharf_domain::{SnapshotId, VolumeId};

const ATTRIBUTE: &str = "trusted.wharf";
/// Generous: a name, a digest and a few numbers take some 250 bytes.
const MAX_BYTES: usize = 2048;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub image: ImageRef,
    /// The limit on a volume's content; in a snapshot, that of the volume it was taken from.
    pub disk_mib: u32,
    /// What a fork got from its snapshot. An upper bound, except just after it was counted.
    pub inherited_bytes: u64,
    /// The snapshot a fork began as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SnapshotId>,
    /// In a snapshot: the volume it was taken from and what it held then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Taken>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    pub volume: VolumeId,
    pub bytes: u64,
}

/// `None` when there is none or it cannot be read as one: half-made.
pub(super) fn read(dir: impl AsFd) -> io::Result<Option<Meta>> {
    let mut buffer = [0_u8; MAX_BYTES];
    match fgetxattr(dir, ATTRIBUTE, &mut buffer[..]) {
        Ok(length) => Ok(serde_json::from_slice(&buffer[..length]).ok()),
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn write(dir: impl AsFd, meta: &Meta) -> io::Result<()> {
    let bytes = serde_json::to_vec(meta)?;
    debug_assert!(bytes.len() <= MAX_BYTES);
    Ok(fsetxattr(dir, ATTRIBUTE, &bytes, XattrFlags::empty())?)
}
