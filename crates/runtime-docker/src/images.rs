//! Images on the engine: the same archives the native runtime takes, unpacked and checked by the same code, then imported.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bollard::query_parameters::{CreateImageOptionsBuilder, ListImagesOptionsBuilder};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use tokio::io::AsyncReadExt as _;
use wharf_domain::image::ImageRef;
use wharf_domain::{JailId, Name, SnapshotId, VolumeId};
use wharf_jail::image::{Unpacked, unpack_to};
use wharf_ports::runtime::{Fault, ImageInfo, Result};

use crate::engine::{LONG_PATIENCE, PATIENCE};
use crate::names::{IMAGE, INSTALLATION, Tag, image_label};
use crate::place::local;
use crate::runtime::DockerRuntime;

/// Bytes sent to the engine at once.
const CHUNK: usize = 1 << 20;

/// Tags of ours, and what each stands on.
#[derive(Debug, Default)]
pub struct Tags {
    pub images: Vec<ImageInfo>,
    pub volumes: Vec<VolumeId>,
    pub snapshots: Vec<SnapshotId>,
}

impl DockerRuntime {
    pub(crate) async fn tags(&self) -> Result<Tags> {
        let filters = HashMap::from([("label".to_owned(), vec![self.names.label()])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let listed = self.engine.client(PATIENCE).await?.list_images(Some(options)).await;
        let listed = listed.map_err(|e| self.engine.fault("list the images", e))?;
        let mut tags = Tags::default();
        let mut users: HashMap<String, u32> = HashMap::new();
        for summary in listed {
            let stands_on = summary.labels.get(IMAGE).cloned().unwrap_or_default();
            for tag in summary.repo_tags.iter().filter_map(|tag| self.names.read(tag)) {
                match tag {
                    Tag::Image(image) => tags.images.push(ImageInfo {
                        image,
                        size_bytes: summary.size.max(0) as u64,
                        created_ms: summary.created * 1000,
                        used_by: 0,
                    }),
                    Tag::Volume(volume) => {
                        tags.volumes.push(volume);
                        *users.entry(stands_on.clone()).or_default() += 1;
                    }
                    Tag::Snapshot(snapshot) => {
                        tags.snapshots.push(snapshot);
                        *users.entry(stands_on.clone()).or_default() += 1;
                    }
                }
            }
        }
        for info in &mut tags.images {
            info.used_by = users.get(&image_label(&info.image)).copied().unwrap_or(0);
        }
        tags.images.sort_by(|a, b| a.image.name.cmp(&b.image.name).then(b.created_ms.cmp(&a.created_ms)));
        Ok(tags)
    }

    pub(crate) async fn import_one(&self, name: &Name, archive: File) -> Result<ImageInfo> {
        let tree = Tree(self.settings.state_dir.join(format!("import-{}", JailId::new())));
        let (to, rootfs) = (tree.0.clone(), tree.0.join("rootfs"));
        let unpack = move || -> Result<Unpacked> {
            std::fs::create_dir(&to).map_err(|e| local("make room for the archive", e))?;
            Ok(unpack_to(archive, &to.join("rootfs"), &mut |_| {})?)
        };
        let unpacked =
            tokio::task::spawn_blocking(unpack).await.map_err(|e| local("unpack the archive", e))??;
        let image = ImageRef { name: name.clone(), digest: unpacked.digest };
        if self.inspect_image(&self.names.image(&image)).await?.is_none() {
            self.send(&image, &rootfs).await?;
        }
        drop(tree);
        let held = self.tags().await?.images.into_iter().find(|i| i.image == image);
        held.ok_or_else(|| local("import the image", "the engine took it and has it not"))
    }

    /// The tree as a tar with its owners and attributes, straight into the engine.
    async fn send(&self, image: &ImageRef, rootfs: &Path) -> Result<()> {
        let step = "import the image";
        let mut tar = tokio::process::Command::new("tar")
            .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-cf", "-", "-C"])
            .arg(rootfs)
            .arg(".")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| local("run tar", e))?;
        let out = tar.stdout.take().ok_or_else(|| local("run tar", "it has no output"))?;
        let chunks = futures_util::stream::try_unfold(out, |mut out| async move {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            Ok::<_, std::io::Error>(match out.read_buf(&mut chunk).await? {
                0 => None,
                _ => Some((Bytes::from(chunk), out)),
            })
        });
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(&self.names.image_repository(&image.name))
            .tag(&image.digest)
            .changes(vec![
                format!("LABEL {INSTALLATION}={}", self.names.installation),
                format!("LABEL {IMAGE}={}", image_label(image)),
            ])
            .build();
        let client = self.engine.client(LONG_PATIENCE).await?;
        let sent = client.create_image(Some(options), Some(bollard::body_try_stream(chunks)), None);
        sent.try_collect::<Vec<_>>().await.map_err(|e| self.engine.fault(step, e))?;
        let ended = tar.wait_with_output().await.map_err(|e| local("run tar", e))?;
        if ended.status.success() {
            return Ok(());
        }
        // What came of it is not the tree.
        self.untag(&self.names.image(image)).await?;
        Err(local("run tar", String::from_utf8_lossy(&ended.stderr).trim()))
    }

    pub(crate) async fn delete_image_one(&self, image: &ImageRef) -> Result<()> {
        let held = self.tags().await?.images.into_iter().find(|i| i.image == *image);
        let Some(held) = held else { return Ok(()) };
        if held.used_by > 0 {
            return Err(Fault::InUse(format!(
                "{} volumes or snapshots stand on image {}@{}",
                held.used_by, image.name, image.digest
            )));
        }
        self.untag(&self.names.image(image)).await?;
        self.prune().await;
        Ok(())
    }
}

/// An unpacked tree on its way; it goes however the import ends.
struct Tree(PathBuf);

impl Drop for Tree {
    /// On some disks that takes longer than the import: nobody waits for it, and what a death leaves the next start removes.
    fn drop(&mut self) {
        let tree = std::mem::take(&mut self.0);
        std::thread::spawn(move || {
            if let Err(error) = std::fs::remove_dir_all(&tree)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(tree = %tree.display(), %error, "an unpacked archive could not be removed");
            }
        });
    }
}
