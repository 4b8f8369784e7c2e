//! Images: immutable root filesystems sessions start from, `images/<name>/<digest>/rootfs` in the data directory.
//!
//! A version is named by the SHA-256 of the archive it came from and never changes; a new archive is a new tree beside
//! it. An image appears under its name only when every byte is unpacked and on the disk.

mod archive;
pub mod build;
mod oci;
pub mod recipe;
mod sources;
mod tarball;
mod unpack;

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use wharf_domain::Name;
use wharf_domain::image::ImageRef;
use wharf_ports::runtime::ImageInfo;

use crate::step::{At, Step};
use crate::volume::remove_tree;

pub use archive::Unpacked;
pub use build::{Built, build};
pub use recipe::Recipe;

/// What a long job is doing, for whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A new stage began: its number from 1, of how many, and its name.
    Stage { number: u32, of: u32, name: &'static str },
    /// A line the tools wrote.
    Line(String),
    /// Bytes of the archive read, of all.
    Bytes { done: u64, total: u64 },
}

/// Written beside a finished tree.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    size_bytes: u64,
    /// The last time this very archive was imported: the newest version of a name is the one imported last.
    created_ms: i64,
}

/// The images of a machine.
pub struct Store {
    dir: PathBuf,
}

impl Store {
    pub fn open(data_dir: &Path) -> Result<Self, Step> {
        let dir = data_dir.join("images");
        make_dir(&dir)?;
        Ok(Self { dir })
    }

    pub(crate) fn has(&self, image: &ImageRef) -> bool {
        well_formed(&image.digest) && self.version(image).join("image.json").exists()
    }

    /// The tree of a version, opened.
    pub(crate) fn rootfs(&self, image: &ImageRef) -> Result<OwnedFd, Step> {
        if !well_formed(&image.digest) {
            return Err(Step::missing(format!("image {}@{}", image.name, image.digest)));
        }
        match File::open(self.version(image).join("rootfs")) {
            Ok(dir) => Ok(dir.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Step::missing(format!("image {}@{}", image.name, image.digest)))
            }
            Err(error) => Err(Step::failed("open the image's tree", error)),
        }
    }

    /// All versions, sorted by name, each name's newest first. `used_by` is left 0: the pool knows.
    pub fn list(&self) -> Result<Vec<ImageInfo>, Step> {
        let mut images = Vec::new();
        for name in entries(&self.dir)? {
            let Ok(name) = name.parse::<Name>() else { continue };
            for digest in entries(&self.dir.join(name.as_str()))? {
                let image = ImageRef { name: name.clone(), digest };
                if !well_formed(&image.digest) {
                    continue;
                }
                match read_card(&self.version(&image))? {
                    Some(card) => images.push(ImageInfo {
                        image,
                        size_bytes: card.size_bytes,
                        created_ms: card.created_ms,
                        used_by: 0,
                    }),
                    None => {
                        tracing::warn!(%name, digest = image.digest, "an image without its card is not offered");
                    }
                }
            }
        }
        images.sort_by(|a, b| a.image.name.cmp(&b.image.name).then(b.created_ms.cmp(&a.created_ms)));
        Ok(images)
    }

    pub fn newest(&self, name: &Name) -> Result<Option<ImageRef>, Step> {
        Ok(self.list()?.into_iter().find(|info| info.image.name == *name).map(|info| info.image))
    }

    /// Unpacks an archive of a root filesystem: a tar, plain or compressed with gzip or zstd, or an OCI or Docker image
    /// archive. The same archive again only makes its version the newest.
    pub fn import(
        &self,
        name: &Name,
        archive: File,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ImageInfo, Step> {
        let parent = self.dir.join(name.as_str());
        make_dir(&parent)?;
        let half_made = parent.join(format!(".tmp-{}-{}", std::process::id(), now_ms()));
        let answer = self.import_at(name, archive, &half_made, progress);
        if half_made.exists() {
            discard(&half_made)?;
        }
        // A name nothing was ever imported under leaves no trace.
        if answer.is_err() {
            fs::remove_dir(&parent).ok();
        }
        answer
    }

    fn import_at(
        &self,
        name: &Name,
        archive: File,
        half_made: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ImageInfo, Step> {
        make_dir(half_made)?;
        let unpacked = unpack_to(archive, &half_made.join("rootfs"), progress)?;
        if unpacked.skipped > 0 {
            tracing::info!(%name, skipped = unpacked.skipped, "device nodes of the archive were left out: jails bring their own");
        }
        let image = ImageRef { name: name.clone(), digest: unpacked.digest };
        let card = Card { size_bytes: unpacked.bytes, created_ms: now_ms() };
        let version = self.version(&image);
        if self.has(&image) {
            write_card(&version, &card)?;
        } else {
            write_card(half_made, &card)?;
            rustix::fs::syncfs(File::open(half_made).at("open the image")?).at("sync the image")?;
            fs::rename(half_made, &version).at("name the image")?;
        }
        sync_dir(self.dir.join(name.as_str()).as_path())?;
        sync_dir(&self.dir)?;
        Ok(ImageInfo { image, size_bytes: card.size_bytes, created_ms: card.created_ms, used_by: 0 })
    }

    /// Removes a version; nothing of that name is success. Whether it is in use, the pool has checked.
    pub(crate) fn delete(&self, image: &ImageRef) -> Result<(), Step> {
        let version = self.version(image);
        if !well_formed(&image.digest) || !version.exists() {
            return Ok(());
        }
        let dead = self.dir.join(image.name.as_str()).join(format!(".dead-{}", image.digest));
        if dead.exists() {
            discard(&dead)?;
        }
        fs::rename(&version, &dead).at("retire the image")?;
        discard(&dead)?;
        // Only when this was the last version.
        fs::remove_dir(self.dir.join(image.name.as_str())).ok();
        Ok(())
    }

    /// Removes what a crash left half-made or half-removed.
    pub(crate) fn sweep(&self) -> Result<(), Step> {
        for name in entries(&self.dir)? {
            let parent = self.dir.join(name);
            for entry in entries(&parent)? {
                if entry.starts_with(".tmp-") || entry.starts_with(".dead-") {
                    discard(&parent.join(entry))?;
                }
            }
            fs::remove_dir(&parent).ok();
        }
        Ok(())
    }

    fn version(&self, image: &ImageRef) -> PathBuf {
        self.dir.join(image.name.as_str()).join(&image.digest)
    }
}

/// Unpacks any archive that can be imported to a new directory, and makes sure that it is a root filesystem.
pub fn unpack_to(archive: File, rootfs: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Unpacked, Step> {
    make_dir(rootfs)?;
    let unpacked = archive::unpack(archive, rootfs, progress)?;
    for needed in ["etc", "usr"] {
        if !rootfs.join(needed).is_dir() {
            return Err(Step::refused(
                "import the image",
                format!("the archive is no root filesystem: it has no /{needed}"),
            ));
        }
    }
    Ok(unpacked)
}

/// A digest becomes a path segment: 64 hexadecimal digits and nothing else.
fn well_formed(digest: &str) -> bool {
    digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn read_card(version: &Path) -> Result<Option<Card>, Step> {
    match fs::read(version.join("image.json")) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Step::failed("read an image's card", error)),
    }
}

fn write_card(version: &Path, card: &Card) -> Result<(), Step> {
    let half_made = version.join("image.json.tmp");
    let bytes = serde_json::to_vec(card).at("write the image's card")?;
    fs::write(&half_made, bytes).at("write the image's card")?;
    File::open(&half_made).and_then(|file| file.sync_all()).at("sync the image's card")?;
    fs::rename(&half_made, version.join("image.json")).at("name the image's card")
}

fn make_dir(path: &Path) -> Result<(), Step> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .at_with(|| format!("create {}", path.display()))
}

fn sync_dir(path: &Path) -> Result<(), Step> {
    File::open(path).and_then(|dir| dir.sync_all()).at_with(|| format!("sync {}", path.display()))
}

fn entries(path: &Path) -> Result<Vec<String>, Step> {
    let what = || format!("list {}", path.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(path).at_with(what)? {
        names.extend(entry.at_with(what)?.file_name().into_string());
    }
    Ok(names)
}

fn discard(path: &Path) -> Result<(), Step> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Step::failed("remove a tree", format!("{} has no name", path.display())));
    };
    remove_tree(&File::open(parent).at("open a directory to remove from")?.into(), name)
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
