//! Which images volumes and snapshots stand on, and what follows for the images.

use std::fs::File;

use wharf_domain::Name;
use wharf_domain::image::ImageRef;
use wharf_ports::runtime::ImageInfo;

use super::{Pool, look, tree};
use crate::step::Step;

impl Pool {
    /// All versions of all images, each name's newest first, with how many volumes and snapshots stand on them.
    pub fn images(&self) -> Result<Vec<ImageInfo>, Step> {
        let used = self.images_in_use()?;
        let mut images = self.images.list()?;
        for info in &mut images {
            info.used_by = used.iter().filter(|image| **image == info.image).count() as u32;
        }
        Ok(images)
    }

    /// The newest version of an image.
    pub fn newest_image(&self, name: &Name) -> Result<Option<ImageRef>, Step> {
        self.images.newest(name)
    }

    /// Refused while a volume or snapshot stands on it; nothing to delete is success.
    pub fn image_delete(&self, image: &ImageRef) -> Result<(), Step> {
        let used = self.images_in_use()?.iter().filter(|used| *used == image).count();
        if used > 0 {
            return Err(Step::in_use(
                "delete the image",
                format!("{used} volumes and snapshots stand on image {}@{}", image.name, image.digest),
            ));
        }
        self.images.delete(image)
    }

    /// Takes an image from an archive. Takes seconds: run it in a forked child where the caller must stay responsive.
    pub fn import_image(&self, name: &Name, archive: File) -> Result<ImageInfo, Step> {
        let mut info = self.images.import(name, archive, &mut |_| {})?;
        info.used_by = self.images_in_use()?.iter().filter(|used| **used == info.image).count() as u32;
        Ok(info)
    }

    fn images_in_use(&self) -> Result<Vec<ImageRef>, Step> {
        let mut used = Vec::new();
        for parent in [&self.volumes, &self.snapshots] {
            for name in tree::names(parent)? {
                if let Some((_, meta)) = look(parent, &name)? {
                    used.push(meta.image);
                }
            }
        }
        Ok(used)
    }
}
