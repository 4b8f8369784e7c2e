//! What each request does. An exhaustive match: there is no other way to ask for anything.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::{SessionId, SnapshotId, VolumeId};
use wharf_wire::jailer::{Capabilities, Inventory, PROTOCOL, Reply, Request, SnapshotInfo, Stats};

use super::helper::{Answer, Helper};
use super::{ConnId, End, Jailer, Source, Task, Waiting};
use crate::convert::{image_to_wire, jail_from_wire, volume_from_wire};
use crate::step::Step;
use crate::volume::Driver;

/// Longer than any program needs to end; a caller that wants more has lost count.
const LONGEST_GRACE: Duration = Duration::from_secs(300);

impl Jailer {
    pub(super) fn handle(&mut self, conn: ConnId, request: Request) {
        let reply = match self.act(conn, request) {
            Ok(Some(reply)) => reply,
            Ok(None) => return,
            Err(step) => Reply::Fault(step.into()),
        };
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.reply(&reply);
        }
    }

    /// The answer, or `None` when it comes later.
    fn act(&mut self, conn: ConnId, request: Request) -> Result<Option<Reply>, Step> {
        let reply = match request {
            Request::Hello { protocol } if protocol != PROTOCOL => {
                let why = format!("the caller speaks protocol {protocol}, this jailer {PROTOCOL}");
                return Err(Step::refused("greet", why));
            }
            Request::Hello { .. } => Reply::Capabilities(self.capabilities()),
            Request::Inventory {} => Reply::Inventory(self.inventory()?),
            Request::PrepareVolume { spec } => {
                self.free(spec.volume)?;
                self.lasting(&spec.image)?;
                self.pool.prepare(&volume_from_wire(spec))?;
                Reply::Done {}
            }
            Request::Launch { spec } => {
                sensible(&spec.resources)?;
                return Ok(self.launch(conn, jail_from_wire(spec)));
            }
            Request::Observe { session } => {
                let jail = self
                    .by_session
                    .get(&session)
                    .and_then(|id| self.jails.get(id))
                    .filter(|j| j.end == End::Up);
                jail.and_then(|j| j.record.running(&self.settings.run_dir))
                    .map_or(Reply::NotRunning {}, Reply::Running)
            }
            Request::Stop { session, grace_ms } => {
                return Ok(self.stop(conn, session, Duration::from_millis(grace_ms).min(LONGEST_GRACE)));
            }
            Request::SetLimits { session, volume, resources } => {
                sensible(&resources)?;
                self.set_limits(session, volume, resources)?
            }
            Request::Stats { session, volume } => self.stats(session, volume)?,
            Request::Snapshot { volume, snapshot } => return self.snapshot(conn, volume, snapshot),
            Request::DeleteSnapshot { snapshot } => {
                return self.help(conn, Task::Plain, move |pool| {
                    pool.delete_snapshot(snapshot).map(|()| Answer::Done)
                });
            }
            Request::DeleteVolume { volume } => {
                self.free(volume)?;
                if self.by_volume.contains_key(&volume) {
                    return Err(Step::in_use(
                        "delete the volume",
                        format!("a computer runs on volume {volume}"),
                    ));
                }
                return self.help(conn, Task::DeleteVolume(volume), move |pool| {
                    pool.delete_volume(volume).map(|()| Answer::Done)
                });
            }
            Request::KeepWarm { image, count } => {
                self.keep_warm(image, count)?;
                Reply::Done {}
            }
            Request::ImportImage { name } => {
                let file = self.conns.get_mut(&conn).and_then(super::Conn::take_file);
                let file = File::from(
                    file.ok_or_else(|| Step::refused("import", "no archive came with the request"))?,
                );
                return self.help(conn, Task::Plain, move |pool| {
                    pool.import_image(&name, file).map(|info| Answer::Image(image_to_wire(info)))
                });
            }
            Request::DeleteImage { image } => {
                // Jails that stand ready do not keep it; they go first, and no new ones come.
                self.doomed.insert(image.clone());
                if let Some(jail) = self.end_warm_of(&image) {
                    jail.waiting.push(Waiting::Again(conn, Box::new(Request::DeleteImage { image })));
                    return Ok(None);
                }
                let task = Task::DeleteImage(image.clone());
                return self.help(conn, task, move |pool| pool.image_delete(&image).map(|()| Answer::Done));
            }
        };
        Ok(Some(reply))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            protocol: PROTOCOL,
            cgroups: self.cgroups.kind().to_owned(),
            volumes: self.pool.driver().as_str().to_owned(),
            cpu_limit: self.cgroups.has("cpu"),
            memory_limit: self.cgroups.has("memory"),
            pids_limit: self.cgroups.has("pids"),
            disk_limit: self.pool.limits_disk(),
            resizes_running: true,
            waives_disk_limit: self.settings.pool.waive_disk_limit,
            // Each jail has ids of its own on the machine; one that cannot have them is not launched.
            root_is_nobody: true,
            waives_user_namespaces: false,
            cheap_snapshots: self.pool.driver() == Driver::Btrfs,
            freeze: self.cgroups.can_freeze(),
        }
    }

    /// Warm jails and their volumes are the jailer's own affair and not in it.
    fn inventory(&self) -> Result<Inventory, Step> {
        let mut images = self.pool.images()?;
        for jail in self.jails.values().filter(|j| j.record.session.is_none()) {
            for image in images.iter_mut().filter(|i| i.image == jail.record.image) {
                image.used_by = image.used_by.saturating_sub(1);
            }
        }
        let warm = |v: &VolumeId| {
            self.by_volume
                .get(v)
                .and_then(|id| self.jails.get(id))
                .is_some_and(|j| j.record.session.is_none())
        };
        Ok(Inventory {
            running: self
                .jails
                .values()
                .filter(|j| j.end == End::Up)
                .filter_map(|j| j.record.running(&self.settings.run_dir))
                .collect(),
            volumes: self.pool.volumes()?.into_iter().filter(|v| !warm(v)).collect(),
            snapshots: self.pool.snapshots()?,
            images: images.into_iter().map(image_to_wire).collect(),
        })
    }

    /// Refuses while a helper works on the volume.
    fn free(&self, volume: VolumeId) -> Result<(), Step> {
        if self.held.contains(&volume) {
            return Err(Step::in_use("take the volume", format!("volume {volume} is being worked on")));
        }
        Ok(())
    }

    /// Refuses while a helper removes the image.
    pub(super) fn lasting(&self, image: &ImageRef) -> Result<(), Step> {
        if self.doomed.contains(image) {
            return Err(Step::refused(
                "take the image",
                format!("image {}@{} is being deleted", image.name, image.digest),
            ));
        }
        Ok(())
    }

    /// All of them or none.
    fn set_limits(
        &mut self,
        session: SessionId,
        volume: VolumeId,
        resources: Resources,
    ) -> Result<Reply, Step> {
        let up =
            self.by_session.get(&session).and_then(|id| self.jails.get_mut(id)).filter(|j| j.end == End::Up);
        let Some(jail) = up else {
            self.pool.set_quota(volume, resources.disk_mib)?;
            return Ok(Reply::Done {});
        };
        let changed = jail
            .group
            .limit(&resources)
            .map_err(|error| Step::refused(error.step, error.cause))
            .and_then(|()| self.pool.set_quota(volume, resources.disk_mib));
        if let Err(error) = changed {
            // Some of it may be in force: the old limits come back as a whole, the caller hears the reason.
            let _ = jail.group.limit(&jail.record.resources);
            return Err(error);
        }
        jail.record.resources = resources;
        jail.record.save(&self.settings.run_dir)?;
        Ok(Reply::Done {})
    }

    fn stats(&self, session: SessionId, volume: VolumeId) -> Result<Reply, Step> {
        let (disk_bytes, disk_limit_bytes) = self.pool.usage(volume)?;
        let disk = Stats { disk_bytes, disk_limit_bytes, ..Stats::default() };
        let up = self.by_session.get(&session).and_then(|id| self.jails.get(id)).filter(|j| j.end == End::Up);
        let Some(jail) = up else {
            return Ok(Reply::Stats(disk));
        };
        let figures = jail.group.figures();
        Ok(Reply::Stats(Stats {
            cpu_usage_micros: figures.cpu_usage_micros,
            memory_bytes: figures.memory_bytes,
            memory_peak_bytes: figures.memory_peak_bytes,
            memory_limit_bytes: u64::from(jail.record.resources.memory_mib) << 20,
            oom_kills: figures.oom_kills,
            pids: figures.pids,
            ..disk
        }))
    }

    /// Of a running computer: its files are brought to disk by a helper first, so that the freeze after it is short.
    fn snapshot(
        &mut self,
        conn: ConnId,
        volume: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<Option<Reply>, Step> {
        self.free(volume)?;
        if self.by_volume.contains_key(&volume) || self.pool.driver() == Driver::Directory {
            return self.help(conn, Task::Snapshot { volume, snapshot }, move |pool| {
                pool.sync(volume).map(|()| Answer::Done)
            });
        }
        self.take_snapshot(volume, snapshot).map(Some)
    }

    fn take_snapshot(&mut self, volume: VolumeId, snapshot: SnapshotId) -> Result<Reply, Step> {
        let jail = self.by_volume.get(&volume).and_then(|id| self.jails.get(id)).filter(|j| j.end == End::Up);
        let Some(jail) = jail else {
            let bytes = self.pool.snapshot(volume, snapshot)?;
            return Ok(Reply::Snapshot(SnapshotInfo { snapshot, bytes, stall_micros: 0 }));
        };
        let begun = Instant::now();
        let frozen = jail.group.freeze();
        let result = frozen.and_then(|still| {
            if !still {
                tracing::warn!(jail = %jail.record.jail, "snapshot of a jail that did not stand still in time");
            }
            self.pool.snapshot(volume, snapshot)
        });
        let thawed = jail.group.thaw();
        let stall_micros = begun.elapsed().as_micros() as u64;
        let bytes = result?;
        thawed?;
        tracing::info!(%volume, %snapshot, bytes, stall_micros, "snapshot");
        Ok(Reply::Snapshot(SnapshotInfo { snapshot, bytes, stall_micros }))
    }

    /// Hands work to a helper; the caller is answered when that is done.
    pub(super) fn help(
        &mut self,
        conn: ConnId,
        task: Task,
        work: impl FnOnce(&crate::volume::Pool) -> Result<Answer, Step>,
    ) -> Result<Option<Reply>, Step> {
        let pool = &self.pool;
        let helper = Helper::start(|| work(pool))?;
        match &task {
            Task::DeleteVolume(volume) => drop(self.held.insert(*volume)),
            Task::DeleteImage(_) | Task::Plain | Task::Snapshot { .. } => {}
        }
        self.next_token += 1;
        let id = self.next_token;
        self.sources.insert(id, Source::Helper(id));
        if let Err(error) =
            epoll::add(&self.epoll, &helper.answer, epoll::EventData::new_u64(id), epoll::EventFlags::IN)
        {
            return Err(Step::failed("watch a helper", error));
        }
        self.helpers.insert(id, (helper, task, conn));
        Ok(None)
    }

    pub(super) fn helper_event(&mut self, id: u64, token: u64) {
        let Some((helper, ..)) = self.helpers.get_mut(&id) else { return };
        let Some(answer) = helper.poll() else { return };
        self.sources.remove(&token);
        let Some((helper, task, conn)) = self.helpers.remove(&id) else { return };
        let _ = epoll::delete(&self.epoll, &helper.answer);
        match &task {
            Task::DeleteVolume(volume) => drop(self.held.remove(volume)),
            Task::DeleteImage(image) => {
                self.doomed.remove(image);
                self.image_changed();
            }
            Task::Plain | Task::Snapshot { .. } => {}
        }
        let reply = match (answer, task) {
            (Answer::Fault(fault), _) => Reply::Fault(fault),
            (Answer::Image(info), _) => {
                self.image_changed();
                Reply::Image(info)
            }
            (Answer::Done, Task::Snapshot { volume, snapshot }) => {
                self.take_snapshot(volume, snapshot).unwrap_or_else(|step| Reply::Fault(step.into()))
            }
            (Answer::Done, Task::DeleteVolume(volume)) => {
                self.fences.forget(volume);
                Reply::Done {}
            }
            (Answer::Done, Task::Plain | Task::DeleteImage(_)) => Reply::Done {},
        };
        self.answer(conn, &reply);
    }
}

/// Numbers no machine can honour are refused before anything is done with them.
fn sensible(resources: &Resources) -> Result<(), Step> {
    resources.validate().map_err(|error| Step::refused("check the limits", error))
}
