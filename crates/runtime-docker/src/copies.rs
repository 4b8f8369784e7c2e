//! Volumes, snapshots and forks: tags and commits.

use std::time::Instant;

use bollard::errors::Error;
use bollard::models::{ContainerConfig, ImageInspect};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, PruneImagesOptionsBuilder, RemoveImageOptionsBuilder,
    TagImageOptionsBuilder,
};
use wharf_domain::quota::Resources;
use wharf_domain::{SessionId, SnapshotId, VolumeId};
use wharf_jail::cgroup::Cgroups;
use wharf_ports::runtime::{Fault, Result, SnapshotInfo, Source, Stats, VolumeSpec};

use crate::container::{Limits, sensible};
use crate::engine::{LONG_PATIENCE, PATIENCE, found};
use crate::names::{IMAGE, INSTALLATION, Names};
use crate::runtime::DockerRuntime;

impl DockerRuntime {
    /// Makes a volume unless there is one. Under the volume's lock.
    pub(crate) async fn prepare(&self, spec: &VolumeSpec) -> Result<()> {
        let abilities = self.engine.abilities().await?;
        if !abilities.disk && !self.settings.waive_disk_limit {
            return Err(Fault::Refused(format!(
                "the disk limit of {} MiB cannot be applied: the engine's storage driver ({}) limits no container; \
                 use the native runtime, or waive disk limits with docker.waive_disk_limit",
                spec.disk_mib, abilities.storage
            )));
        }
        let names = &self.names;
        if self.inspect_image(&names.volume(spec.volume)).await?.is_some() {
            return Ok(());
        }
        let (from, missing) = match spec.source {
            Source::Existing => return Err(Fault::Missing(format!("volume {}", spec.volume))),
            Source::Snapshot(id) => (names.snapshot(id), Fault::Missing(format!("snapshot {id}"))),
            Source::Empty => {
                let (name, digest) = (&spec.image.name, &spec.image.digest);
                let why = format!("there is no image {name}@{digest} on the engine");
                (names.image(&spec.image), Fault::Refused(why))
            }
        };
        let tagged = self.tag(&from, &names.volume_repository(), &spec.volume.to_string()).await;
        found(tagged)?.ok_or(missing)
    }

    pub(crate) async fn prepare_volume_one(&self, spec: &VolumeSpec) -> Result<()> {
        let _held = self.locks.hold(spec.volume).await;
        self.prepare(spec).await
    }

    async fn tag(&self, from: &str, repository: &str, tag: &str) -> Result<()> {
        let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
        let tagged = self.engine.client(PATIENCE).await?.tag_image(from, Some(options)).await;
        tagged.map_err(|e| self.engine.fault("name the copy", e))
    }

    pub(crate) async fn inspect_image(&self, name: &str) -> Result<Option<ImageInspect>> {
        let seen = self.engine.client(PATIENCE).await?.inspect_image(name).await;
        found(seen.map_err(|e| self.engine.fault("look at the image", e)))
    }

    /// A container's files become what the volume's tag names, so that another container can be made of them.
    pub(crate) async fn keep_as_tag(&self, volume: VolumeId) -> Result<()> {
        self.commit(volume, &self.names.volume_repository(), &volume.to_string()).await
    }

    /// The container stands still while its layer is read, if it runs.
    async fn commit(&self, volume: VolumeId, repository: &str, tag: &str) -> Result<()> {
        let name = Names::container(volume);
        let changes = format!("LABEL {INSTALLATION}={}", self.names.installation);
        let options = CommitContainerOptionsBuilder::new()
            .container(&name)
            .repo(repository)
            .tag(tag)
            .pause(true)
            .changes(&changes)
            .build();
        let client = self.engine.client(LONG_PATIENCE).await?;
        let committed = client.commit_container(options, ContainerConfig::default()).await;
        committed.map(drop).map_err(|e| self.engine.fault("copy the files", e))
    }

    pub(crate) async fn snapshot_one(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<SnapshotInfo> {
        let _held = self.locks.hold(volume).await;
        let name = self.names.snapshot(snapshot);
        if let Some(taken) = self.inspect_image(&name).await? {
            return Ok(SnapshotInfo { snapshot, bytes: self.beyond_image(&taken).await?, stall_micros: 0 });
        }
        let repository = self.names.snapshot_repository();
        let begun = Instant::now();
        let mut stall_micros = 0;
        if let Some(seen) = self.engine.look(volume, false).await? {
            self.commit(volume, &repository, &snapshot.to_string()).await?;
            if seen.running {
                stall_micros = begun.elapsed().as_micros() as u64;
            }
        } else {
            self.not_lost(volume)?;
            let tagged = self.tag(&self.names.volume(volume), &repository, &snapshot.to_string()).await;
            found(tagged)?.ok_or_else(|| Fault::Missing(format!("volume {volume}")))?;
        }
        let taken = self.inspect_image(&name).await?;
        let taken = taken.ok_or_else(|| Fault::Missing(format!("snapshot {snapshot}")))?;
        let bytes = self.beyond_image(&taken).await?;
        tracing::info!(%volume, %snapshot, bytes, stall_micros, "snapshot");
        Ok(SnapshotInfo { snapshot, bytes, stall_micros })
    }

    /// Bytes of a copy beyond those of the image it stands on.
    async fn beyond_image(&self, copy: &ImageInspect) -> Result<u64> {
        let label = copy.config.as_ref().and_then(|c| c.labels.as_ref()?.get(IMAGE)).cloned();
        let image = label.as_deref().and_then(|l| l.split_once('@')).and_then(|(name, digest)| {
            let name = name.parse().ok()?;
            Some(self.names.image(&wharf_domain::image::ImageRef { name, digest: digest.to_owned() }))
        });
        let below = match image {
            Some(image) => self.inspect_image(&image).await?.and_then(|i| i.size),
            None => None,
        };
        Ok(copy.size.unwrap_or(0).saturating_sub(below.unwrap_or(0)).max(0) as u64)
    }

    pub(crate) async fn delete_snapshot_one(&self, snapshot: SnapshotId) -> Result<()> {
        self.untag(&self.names.snapshot(snapshot)).await?;
        self.prune().await;
        Ok(())
    }

    pub(crate) async fn delete_volume_one(&self, volume: VolumeId) -> Result<()> {
        let _held = self.locks.hold(volume).await;
        if self.engine.look(volume, false).await?.is_some_and(|seen| seen.running) {
            return Err(Fault::InUse(format!("a computer runs on volume {volume}")));
        }
        self.engine.remove(volume).await?;
        self.untag(&self.names.volume(volume)).await?;
        self.note_held(volume, false)?;
        let _ = self.place(volume).wipe();
        self.fences().forget(volume);
        self.prune().await;
        Ok(())
    }

    /// Takes a name away; the engine removes what is then nobody's. What others stand on stays without a name until they
    /// are gone.
    pub(crate) async fn untag(&self, name: &str) -> Result<()> {
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        match self.engine.client(LONG_PATIENCE).await?.remove_image(name, Some(options), None).await {
            Ok(_) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(e) => Err(self.engine.fault("remove the copy", e)),
        }
    }

    /// Removes copies of ours without a name that nothing stands on any more. What cannot be removed now is tried with the
    /// next one.
    pub(crate) async fn prune(&self) {
        let filters = std::collections::HashMap::from([
            ("dangling".to_owned(), vec!["true".to_owned()]),
            ("label".to_owned(), vec![self.names.label()]),
        ]);
        let options = PruneImagesOptionsBuilder::new().filters(&filters).build();
        let Ok(client) = self.engine.client(LONG_PATIENCE).await else { return };
        if let Err(error) = client.prune_images(Some(options)).await {
            tracing::debug!(%error, "copies nobody needs were not removed");
        }
    }

    /// All of them or none.
    pub(crate) async fn set_limits_one(
        &self,
        session: SessionId,
        volume: VolumeId,
        resources: &Resources,
    ) -> Result<()> {
        let abilities = self.engine.abilities().await?;
        sensible(resources, &abilities)?;
        let _held = self.locks.hold(volume).await;
        let Some(seen) = self.engine.look(volume, false).await? else {
            // They are applied when its container is made.
            let there = self.inspect_image(&self.names.volume(volume)).await?;
            return there.map(drop).ok_or_else(|| Fault::Missing(format!("volume {volume}")));
        };
        if abilities.disk && seen.running && !seen.made.contains(&format!(" disk={} ", resources.disk_mib)) {
            return Err(Fault::Refused(
                "the engine cannot change the disk limit of a running container; close the session first"
                    .to_owned(),
            ));
        }
        let limits = Limits::of(resources, &abilities);
        if limits == seen.limits {
            return Ok(());
        }
        if let Err(fault) = self.engine.update(volume, limits).await {
            // Some of it may be in force: the old limits come back as a whole, the caller hears the reason.
            if let Err(second) = self.engine.update(volume, seen.limits).await {
                tracing::warn!(%session, %second, "limits are neither the old ones nor the new");
            }
            return Err(fault);
        }
        Ok(())
    }

    pub(crate) async fn stats_one(&self, volume: VolumeId) -> Result<Stats> {
        let base = self.inspect_image(&self.names.volume(volume)).await?;
        let base = base.ok_or_else(|| Fault::Missing(format!("volume {volume}")))?;
        // What it was forked with, and what it wrote since.
        let inherited = self.beyond_image(&base).await?;
        let Some(seen) = self.engine.look(volume, true).await? else {
            return Ok(Stats { disk_bytes: inherited, ..Stats::default() });
        };
        let disk_limit_bytes = seen
            .made
            .split(' ')
            .find_map(|word| word.strip_prefix("disk=")?.parse::<u64>().ok())
            .map_or(0, |mib| mib << 20);
        let disk =
            Stats { disk_bytes: inherited + seen.size_rw.unwrap_or(0), disk_limit_bytes, ..Stats::default() };
        // As the kernel counts them, not as the engine's statistics do: those leave out who was killed for memory.
        let Some(group) = seen.running.then(|| Cgroups::of_process(seen.pid)).flatten() else {
            return Ok(disk);
        };
        let figures = group.figures();
        Ok(Stats {
            cpu_usage_micros: figures.cpu_usage_micros,
            memory_bytes: figures.memory_bytes,
            memory_peak_bytes: figures.memory_peak_bytes,
            memory_limit_bytes: seen.limits.memory.max(0) as u64,
            oom_kills: figures.oom_kills,
            pids: figures.pids,
            ..disk
        })
    }
}
