//! What things of ours are called on the engine, and back. Several installations may share one.

use wharf_domain::image::ImageRef;
use wharf_domain::{Name, SnapshotId, VolumeId};

/// On everything that is ours: whose it is.
pub const INSTALLATION: &str = "wharf.installation";
pub const SESSION: &str = "wharf.session";
pub const VOLUME: &str = "wharf.volume";
/// What of a container cannot be changed once it is made.
pub const MADE: &str = "wharf.made";
/// `name@digest` of the image everything below it stands on.
pub const IMAGE: &str = "wharf.image";

/// The repositories of one installation.
#[derive(Clone, Debug)]
pub struct Names {
    pub installation: String,
}

/// What a tag of ours stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    Image(ImageRef),
    Volume(VolumeId),
    Snapshot(SnapshotId),
}

impl Names {
    pub fn image_repository(&self, name: &Name) -> String {
        format!("wharf/{}/image/{name}", self.installation)
    }

    pub fn image(&self, image: &ImageRef) -> String {
        format!("{}:{}", self.image_repository(&image.name), image.digest)
    }

    pub fn volume_repository(&self) -> String {
        format!("wharf/{}/volume", self.installation)
    }

    pub fn volume(&self, volume: VolumeId) -> String {
        format!("{}:{volume}", self.volume_repository())
    }

    pub fn snapshot_repository(&self) -> String {
        format!("wharf/{}/snapshot", self.installation)
    }

    pub fn snapshot(&self, snapshot: SnapshotId) -> String {
        format!("{}:{snapshot}", self.snapshot_repository())
    }

    /// Volumes have ids of their own all over the world, so containers need no more.
    pub fn container(volume: VolumeId) -> String {
        format!("wharf-{volume}")
    }

    pub fn label(&self) -> String {
        format!("{INSTALLATION}={}", self.installation)
    }

    /// `None` for tags that are not ours.
    pub fn read(&self, tag: &str) -> Option<Tag> {
        let ours = tag.strip_prefix("wharf/")?.strip_prefix(&self.installation)?.strip_prefix('/')?;
        let (repository, tag) = ours.rsplit_once(':')?;
        match repository.split_once('/') {
            None if repository == "volume" => Some(Tag::Volume(tag.parse().ok()?)),
            None if repository == "snapshot" => Some(Tag::Snapshot(tag.parse().ok()?)),
            Some(("image", name)) => {
                Some(Tag::Image(ImageRef { name: name.parse().ok()?, digest: tag.to_owned() }))
            }
            _ => None,
        }
    }
}

/// The value of [`IMAGE`].
pub fn image_label(image: &ImageRef) -> String {
    format!("{}@{}", image.name, image.digest)
}

#[cfg(test)]
mod tests;
