//! The runtime port on Docker Engine. What each call does is in the file of its subject.

use std::collections::HashMap;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::ContainerSummaryStateEnum;
use bollard::query_parameters::ListContainersOptionsBuilder;
use tokio::sync::OwnedMutexGuard;
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::{JailId, Name, SessionId, SnapshotId, VolumeId};
use wharf_jail::fences::Fences;
use wharf_ports::runtime::{
    Capabilities, Fault, ImageInfo, Inventory, JailSpec, Result, Running, SandboxRuntime, SnapshotInfo,
    Stats, VolumeSpec,
};

use crate::engine::{Engine, PATIENCE};
use crate::names::{Names, SESSION, VOLUME};
use crate::place::{Place, check_length, local};
use crate::settings::Settings;

/// Below the state's directory: a file for each volume whose files are in its container, and not in what its tag names.
const HELD: &str = "held";
/// Longer than any program needs to end; a caller that wants more has lost count.
const LONGEST_GRACE: Duration = Duration::from_secs(300);

/// Speaks to the engine as root: see [`crate::broker`] for who may ask it.
pub struct DockerRuntime {
    pub(crate) engine: Engine,
    pub(crate) settings: Settings,
    pub(crate) names: Names,
    pub(crate) locks: Locks,
    fences: Mutex<Fences>,
    recovered: tokio::sync::OnceCell<()>,
}

/// One change to a volume at a time.
#[derive(Default)]
pub(crate) struct Locks(Mutex<HashMap<VolumeId, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    fn of(&self, volume: VolumeId) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those nobody holds or waits for are made anew when they are wanted.
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        all.entry(volume).or_default().clone()
    }

    pub async fn hold(&self, volume: VolumeId) -> OwnedMutexGuard<()> {
        self.of(volume).lock_owned().await
    }

    pub fn try_hold(&self, volume: VolumeId) -> Option<OwnedMutexGuard<()>> {
        self.of(volume).try_lock_owned().ok()
    }
}

/// A container of ours in a list.
pub(crate) struct Listed {
    pub volume: VolumeId,
    pub up: bool,
}

impl DockerRuntime {
    /// Makes its directories. The engine is first asked when something is wanted of it.
    pub fn open(settings: Settings) -> Result<Self> {
        check_length(&settings.run_dir)?;
        let make = |path: &std::path::Path, mode: u32| {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .map_err(|e| local(&format!("make {}", path.display()), e))
        };
        make(&settings.state_dir.join(HELD), 0o700)?;
        make(&settings.jails(), 0o750)?;
        // As the jailer does: the control plane looks in for computers that come and go, nobody else passes.
        std::fs::set_permissions(settings.jails(), std::fs::Permissions::from_mode(0o750))
            .and_then(|()| chown(settings.jails(), None, Some(settings.control_gid)))
            .map_err(|e| local("open the sockets' directory to the control plane", e))?;
        for entry in std::fs::read_dir(&settings.state_dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("import-") {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let names = Names { installation: installation(&settings)? };
        let fences = Fences::open(settings.state_dir.join("fences"))?;
        Ok(Self {
            engine: Engine::new(&settings.engine),
            names,
            settings,
            locks: Locks::default(),
            fences: Mutex::new(fences),
            recovered: tokio::sync::OnceCell::new(),
        })
    }

    pub(crate) fn fences(&self) -> MutexGuard<'_, Fences> {
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self, volume: VolumeId) -> std::path::PathBuf {
        self.settings.state_dir.join(HELD).join(volume.to_string())
    }

    /// Notes where a volume's files are: in its container, or in what its tag names.
    pub(crate) fn note_held(&self, volume: VolumeId, held: bool) -> Result<()> {
        let path = self.held(volume);
        let noted = match (held, path.exists()) {
            (true, false) => std::fs::File::create(&path).and_then(|file| file.sync_all()),
            (false, true) => std::fs::remove_file(&path),
            _ => return Ok(()),
        };
        noted.map_err(|e| local("note where the files are", e))
    }

    /// For a volume without a container: its tag names its files, unless they were in a container that somebody removed.
    pub(crate) fn not_lost(&self, volume: VolumeId) -> Result<()> {
        if self.held(volume).exists() {
            return Err(Fault::Missing(format!(
                "volume {volume}: its container, which held the files, was removed from the engine"
            )));
        }
        Ok(())
    }

    pub(crate) fn place(&self, volume: VolumeId) -> Place {
        Place::of(&self.settings.run_dir, volume)
    }

    /// What an earlier life left is put right before anything else, as soon as the engine is there.
    pub async fn ready(&self) -> Result<()> {
        self.recovered.get_or_try_init(|| self.recover()).await.map(drop)
    }

    /// Containers of ours, or of one session.
    pub(crate) async fn containers(&self, of: Option<SessionId>) -> Result<Vec<Listed>> {
        let mut labels = vec![self.names.label()];
        labels.extend(of.map(|session| format!("{SESSION}={session}")));
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.engine.client(PATIENCE).await?.list_containers(Some(options)).await;
        let listed = listed.map_err(|e| self.engine.fault("list the containers", e))?;
        let read = |c: bollard::models::ContainerSummary| {
            let volume = c.labels?.get(VOLUME)?.parse().ok()?;
            let up = matches!(
                c.state,
                Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::PAUSED)
            );
            Some(Listed { volume, up })
        };
        Ok(listed.into_iter().filter_map(read).collect())
    }

    async fn inventory_now(&self) -> Result<Inventory> {
        let (containers, tags) = (self.containers(None).await?, self.tags().await?);
        let mut volumes = tags.volumes;
        volumes.extend(containers.iter().map(|c| c.volume));
        volumes.sort_unstable();
        volumes.dedup();
        let mut running = Vec::new();
        for container in containers.iter().filter(|c| c.up) {
            let place = self.place(container.volume);
            running.extend(place.load().filter(|r| r.started_at.is_some()).map(|r| place.running(&r)));
        }
        self.clear_places().await?;
        Ok(Inventory { running, volumes, snapshots: tags.snapshots, images: tags.images })
    }
}

/// A name nobody else on the engine has, made once.
fn installation(settings: &Settings) -> Result<String> {
    let path = settings.state_dir.join("installation");
    let step = "name this installation";
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(local(step, e)),
    }
    let name = JailId::new().to_string().replace('-', "");
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, &name)
        .and_then(|()| std::fs::rename(&fresh, &path))
        .map_err(|e| local(step, e))?;
    Ok(name)
}

#[async_trait]
impl SandboxRuntime for DockerRuntime {
    fn name(&self) -> &'static str {
        "docker"
    }

    async fn capabilities(&self) -> Result<Capabilities> {
        self.ready().await?;
        let abilities = self.engine.abilities().await?;
        Ok(Capabilities {
            runtime: self.name().to_owned(),
            cgroups: abilities.cgroups,
            volumes: abilities.storage,
            cpu_limit: abilities.cpu,
            memory_limit: abilities.memory && abilities.swap_free,
            pids_limit: abilities.pids,
            disk_limit: abilities.disk,
            resizes_running: false,
            waives_disk_limit: self.settings.waive_disk_limit,
            root_is_nobody: abilities.user_namespaces,
            waives_user_namespaces: self.settings.waive_user_namespaces,
            cheap_snapshots: false,
            freeze: true,
        })
    }

    async fn inventory(&self) -> Result<Inventory> {
        self.ready().await?;
        self.inventory_now().await
    }

    async fn prepare_volume(&self, spec: &VolumeSpec) -> Result<()> {
        self.ready().await?;
        self.prepare_volume_one(spec).await
    }

    async fn launch(&self, spec: &JailSpec) -> Result<Running> {
        self.ready().await?;
        self.launch_one(spec).await
    }

    async fn observe(&self, session: SessionId) -> Result<Option<Running>> {
        self.ready().await?;
        self.observe_one(session).await
    }

    async fn stop(&self, session: SessionId, grace: Duration) -> Result<()> {
        self.ready().await?;
        self.stop_one(session, grace.min(LONGEST_GRACE)).await
    }

    async fn set_limits(&self, session: SessionId, volume: VolumeId, resources: &Resources) -> Result<()> {
        self.ready().await?;
        self.set_limits_one(session, volume, resources).await
    }

    async fn stats(&self, _session: SessionId, volume: VolumeId) -> Result<Stats> {
        self.ready().await?;
        self.stats_one(volume).await
    }

    async fn snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<SnapshotInfo> {
        self.ready().await?;
        self.snapshot_one(volume, snapshot).await
    }

    async fn delete_snapshot(&self, snapshot: SnapshotId) -> Result<()> {
        self.ready().await?;
        self.delete_snapshot_one(snapshot).await
    }

    async fn delete_volume(&self, volume: VolumeId) -> Result<()> {
        self.ready().await?;
        self.delete_volume_one(volume).await
    }

    async fn keep_warm(&self, image: &Name, count: u32) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        Err(Fault::Refused(format!(
            "no computers of {image} stand ready: Docker Engine keeps none; set warm.{image} to 0"
        )))
    }

    async fn import_image(&self, name: &Name, archive: std::fs::File) -> Result<ImageInfo> {
        self.ready().await?;
        self.import_one(name, archive).await
    }

    async fn delete_image(&self, image: &ImageRef) -> Result<()> {
        self.ready().await?;
        self.delete_image_one(image).await
    }
}
