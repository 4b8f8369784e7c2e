//! A jail from its first directory to the last one removed.

use std::cell::Cell;
use std::fs::Permissions;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::process::{Signal, pidfd_send_signal};
use wharf_domain::{JailId, VolumeId};
use wharf_ports::runtime::{Fault as PortFault, JailSpec, Source as VolumeSource};
use wharf_wire::jailer::{Fault, Reply, Request};

use super::helper::Answer;
use super::record::{self, Phase, Record};
use super::warm::Claim;
use super::{ConnId, End, Jail, Jailer, Source, Task, Waiting, listen};
use crate::convert::{fault_to_wire, jail_to_wire};
use crate::launch::{IDS, Order, Trees};
use crate::step::{At, Step};
use crate::sys;

/// How often the remains of a killed jail are looked at; they are gone in well under a millisecond mostly.
const CLEANING: Duration = Duration::from_millis(1);
/// Remains that stay this long are worth a line in the log; they are tried on, more slowly.
const STUBBORN: Duration = Duration::from_secs(5);

impl Jailer {
    /// Answers now, or `None` when a computer has to end first and the caller is answered after.
    pub(super) fn launch(&mut self, conn: ConnId, spec: JailSpec) -> Option<Reply> {
        match self.try_launch(conn, spec) {
            Ok(reply) => reply,
            Err(fault) => Some(Reply::Fault(fault_to_wire(fault))),
        }
    }

    fn try_launch(&mut self, conn: ConnId, spec: JailSpec) -> Result<Option<Reply>, PortFault> {
        let (session, incarnation, volume) = (spec.session, spec.incarnation, spec.volume.volume);
        if let Some(newest) = self.fences.newest(session).filter(|newest| *newest > incarnation) {
            return Err(PortFault::Fenced(format!(
                "incarnation {incarnation} of {session}: {newest} was started since"
            )));
        }
        if self.leaving {
            return Err(PortFault::Away("the jailer is stopping".to_owned()));
        }
        self.fences.raise(session, incarnation, volume)?;
        if let Some(id) = self.by_session.get(&session).copied()
            && let Some(jail) = self.jails.get_mut(&id)
        {
            let same = jail.record.incarnation == incarnation;
            if jail.end == End::Up && same {
                if jail.record.volume != volume {
                    let why = format!("session {session} runs on volume {} already", jail.record.volume);
                    return Err(PortFault::Refused(why));
                }
                return Ok(jail.record.running(&self.settings.run_dir).map(Reply::Running));
            }
            let again = Request::Launch { spec: jail_to_wire(&spec) };
            jail.waiting.push(Waiting::Again(conn, Box::new(again)));
            self.kill(id);
            return Ok(None);
        }
        if self.by_volume.contains_key(&volume) || self.held.contains(&volume) {
            return Err(PortFault::InUse(format!("volume {volume}")));
        }
        self.lasting(&spec.volume.image)?;
        let begun = Instant::now();
        let claim = match spec.volume.source {
            VolumeSource::Empty => self.claim(&spec),
            _ => Claim::NoneFits,
        };
        let id = match claim {
            Claim::Taken(id) => id,
            Claim::Spoiled(id) => {
                let again = Request::Launch { spec: jail_to_wire(&spec) };
                if let Some(jail) = self.jails.get_mut(&id) {
                    jail.waiting.push(Waiting::Again(conn, Box::new(again)));
                }
                return Ok(None);
            }
            Claim::NoneFits => {
                self.pool.prepare(&spec.volume)?;
                let prepared = begun.elapsed();
                let id = self.cold(&spec)?;
                tracing::debug!(%session, prepare_micros = prepared.as_micros(), "prepared the volume");
                id
            }
        };
        self.warm.used();
        let jail = self.jails.get(&id).and_then(|jail| jail.record.running(&self.settings.run_dir));
        let running = jail.ok_or_else(|| Step::failed("launch", "the jail ended at once"))?;
        tracing::info!(%session, incarnation, jail = %id, warm = running.warm, micros = begun.elapsed().as_micros(), "started");
        Ok(Some(Reply::Running(running)))
    }

    fn cold(&mut self, spec: &JailSpec) -> Result<JailId, Step> {
        self.start(
            Record {
                jail: JailId::new(),
                phase: Phase::Starting,
                session: Some(spec.session),
                incarnation: spec.incarnation,
                volume: spec.volume.volume,
                image: spec.volume.image.clone(),
                resources: spec.resources,
                allow_root: spec.allow_root,
                warm: false,
                slot: self.free_slot()?,
                pid: 0,
                started: 0,
                boot: self.boot.clone(),
            },
            spec.hostname.as_str(),
            Phase::Running,
        )
    }

    pub(super) fn free_slot(&self) -> Result<u32, Step> {
        let slots = (u32::MAX - self.settings.first_id) / IDS;
        (0..slots)
            .find(|slot| !self.slots.contains(slot))
            .ok_or_else(|| Step::refused("take an id range", format!("all {slots} are in use")))
    }

    /// Starts the jail a record describes; afterwards it is in the tables, or nothing of it is anywhere.
    pub(super) fn start(&mut self, mut record: Record, hostname: &str, then: Phase) -> Result<JailId, Step> {
        let id = record.jail;
        let run_dir = self.settings.run_dir.clone();
        let result = (|| {
            let directory = record::directory(&run_dir, id);
            // The control plane walks through it to the sockets; nobody needs to read it, and nobody else passes: who
            // reached the gateway's socket would speak for the session.
            // Under its name only when it is as it should be: the gateway looks as soon as there is a jail of that name.
            let making = directory.with_extension(record::MAKING);
            std::fs::DirBuilder::new().mode(0o700).create(&making).at("make the jail's directory")?;
            let (uid, gid) = (self.settings.control_uid, self.settings.control_gid);
            chown(&making, None, Some(gid)).at("chown the jail's directory")?;
            std::fs::set_permissions(&making, Permissions::from_mode(0o710))
                .at("chmod the jail's directory")?;
            std::fs::rename(&making, &directory).at("name the jail's directory")?;
            record.save(&run_dir)?;
            let gateway = record::gateway(&run_dir, id);
            // The same, for what is in it.
            let fresh = gateway.with_extension("new");
            std::fs::DirBuilder::new().mode(0o700).create(&fresh).at("make the gateway's directory")?;
            chown(&fresh, Some(uid), Some(gid)).at("chown the gateway's directory")?;
            std::fs::set_permissions(&fresh, Permissions::from_mode(0o711))
                .at("chmod the gateway's directory")?;
            std::fs::rename(&fresh, &gateway).at("name the gateway's directory")?;
            let socket = record::socket(&run_dir, id);
            let listener = listen(&socket, uid, gid)?;
            // The host decides by itself whether it blocks.
            rustix::io::ioctl_fionbio(&listener, false).at("make the host's socket")?;
            let begun = Instant::now();
            let group = self.cgroups.create(&id.to_string(), &record.resources)?;
            let made_groups = begun.elapsed();
            let order = Order {
                hostname,
                allow_root: record.allow_root,
                first_id: self.settings.first_id + record.slot * IDS,
                listener: listener.as_fd(),
                gateway: &gateway,
                group: &group,
            };
            let (pool, volume, unsettled) = (&self.pool, record.volume, Cell::new(false));
            let started = self.launcher.start(&order, |userns| {
                let mounts = pool.mounts(volume, userns)?;
                unsettled.set(mounts.unsettled);
                Ok(Trees { lower: mounts.lower, upper: mounts.upper })
            });
            // Whether or not it started: the room a full volume was lent for mounting goes back.
            let settled = if unsettled.get() { pool.settle(volume) } else { Ok(()) };
            let started = started?;
            settled.inspect_err(|_| {
                let _ = pidfd_send_signal(&started.pidfd, Signal::KILL);
                sys::reap(started.pidfd.as_fd());
            })?;
            tracing::debug!(jail = %id, limits_micros = made_groups.as_micros(), steps = %started.timings, "launched");
            Ok((group, started))
        })();
        let (group, started) = match result {
            Ok(both) => both,
            Err(error) => {
                self.clear(id);
                self.wipe(id);
                return Err(error);
            }
        };
        (record.pid, record.started, record.phase) = (started.pid, started.start_time, then);
        let jail = Jail {
            record,
            pidfd: started.pidfd,
            group,
            output: Some(started.output),
            end: End::Up,
            waiting: Vec::new(),
        };
        let saved = jail.record.save(&run_dir);
        self.enter(jail)?;
        if let Err(error) = saved {
            self.kill(id);
            return Err(error);
        }
        Ok(id)
    }

    /// Puts a running jail into the tables and watches its init.
    pub(super) fn enter(&mut self, jail: Jail) -> Result<(), Step> {
        let id = jail.record.jail;
        let token = self.token(Source::Jail(id));
        epoll::add(&self.epoll, &jail.pidfd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
            .at("watch a jail")?;
        self.slots.insert(jail.record.slot);
        self.by_volume.insert(jail.record.volume, id);
        if let Some(session) = jail.record.session {
            self.by_session.insert(session, id);
        }
        self.jails.insert(id, jail);
        Ok(())
    }

    /// Removes what there is of a jail that has no process.
    pub(super) fn wipe(&self, id: JailId) {
        self.cgroups.group(&id.to_string()).remove();
        let directory = record::directory(&self.settings.run_dir, id);
        if let Err(error) = std::fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(jail = %id, %error, "could not remove a jail's directory");
        }
        let _ = std::fs::remove_dir(directory.with_extension(record::MAKING));
    }

    /// SIGTERM now, SIGKILL after `grace`.
    pub(super) fn ask_to_end(&mut self, id: JailId, grace: Duration) {
        let Some(jail) = self.jails.get_mut(&id) else { return };
        let kill_at = Instant::now() + grace;
        match jail.end {
            End::Killed { .. } => {}
            _ if grace.is_zero() => self.kill(id),
            End::Asked { kill_at: earlier } => jail.end = End::Asked { kill_at: kill_at.min(earlier) },
            End::Up => {
                let _ = pidfd_send_signal(&jail.pidfd, Signal::TERM);
                jail.end = End::Asked { kill_at };
            }
        }
    }

    pub(super) fn kill(&mut self, id: JailId) {
        let Some(jail) = self.jails.get_mut(&id) else { return };
        if matches!(jail.end, End::Killed { .. }) {
            return;
        }
        jail.end = End::Killed { since: Instant::now() };
        // The end of process 1 is the end of its pid namespace; the group also holds what may have been put in beside.
        let _ = pidfd_send_signal(&jail.pidfd, Signal::KILL);
        jail.group.kill();
    }

    /// A jail's process 1 is gone, and with it all its processes.
    pub(super) fn init_ended(&mut self, id: JailId, token: u64) {
        self.sources.remove(&token);
        let Some(jail) = self.jails.get_mut(&id) else { return };
        let _ = epoll::delete(&self.epoll, &jail.pidfd);
        sys::reap(jail.pidfd.as_fd());
        if jail.end == End::Up {
            let said = jail.output.as_ref().map(last_words).unwrap_or_default();
            let ooms = jail.group.figures().oom_kills;
            tracing::warn!(jail = %id, session = ?jail.record.session, ooms, said, "a jail ended by itself");
        }
        if !matches!(jail.end, End::Killed { .. }) {
            jail.end = End::Killed { since: Instant::now() };
            jail.group.kill();
        }
    }

    /// Moves every ending jail on; answers when to look again.
    pub(super) fn advance_ends(&mut self, now: Instant) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let mut sooner = |wait: Duration| next = Some(next.map_or(wait, |n| n.min(wait)));
        let ending: Vec<JailId> =
            self.jails.iter().filter(|(_, j)| j.end != End::Up).map(|(id, _)| *id).collect();
        for id in ending {
            let Some(jail) = self.jails.get(&id) else { continue };
            match jail.end {
                End::Up => {}
                End::Asked { kill_at } if now < kill_at => sooner(kill_at - now),
                End::Asked { .. } => {
                    self.kill(id);
                    sooner(CLEANING);
                }
                End::Killed { since } => {
                    let init_gone = rustix::event::poll(
                        &mut [rustix::event::PollFd::new(&jail.pidfd, rustix::event::PollFlags::IN)],
                        Some(&rustix::event::Timespec::default()),
                    )
                    .is_ok_and(|n| n > 0);
                    if init_gone && jail.group.remove() {
                        self.gone(id);
                        continue;
                    }
                    jail.group.kill();
                    let waited = now.duration_since(since);
                    if waited > STUBBORN {
                        tracing::error!(jail = %id, seconds = waited.as_secs(), left = ?jail.group.processes(), "a killed jail will not go");
                        sooner(Duration::from_secs(1));
                    } else {
                        sooner(CLEANING);
                    }
                }
            }
        }
        next
    }

    /// Nothing is left of it: forget it and do what waited for that.
    fn gone(&mut self, id: JailId) {
        let Some(jail) = self.jails.remove(&id) else { return };
        self.sources.retain(|_, s| !matches!(s, Source::Jail(j) if *j == id));
        sys::reap(jail.pidfd.as_fd());
        self.wipe(id);
        self.slots.remove(&jail.record.slot);
        self.by_volume.remove(&jail.record.volume);
        if let Some(session) = jail.record.session {
            self.by_session.remove(&session);
        } else {
            self.drop_warm_volume(jail.record.volume);
        }
        tracing::info!(jail = %id, session = ?jail.record.session, "ended");
        for waiting in jail.waiting {
            match waiting {
                // Said to be stopped only when a power cut could take nothing of it any more.
                Waiting::Answer(conn) => {
                    let volume = jail.record.volume;
                    let synced =
                        self.help(conn, Task::Plain, move |pool| pool.sync(volume).map(|()| Answer::Done));
                    if let Err(step) = synced {
                        self.answer(conn, &Reply::Fault(step.into()));
                    }
                }
                // Who hung up wants no computer any more; other things are finished anyway.
                Waiting::Again(conn, request)
                    if matches!(*request, Request::Launch { .. }) && !self.conns.contains_key(&conn) => {}
                Waiting::Again(conn, request) => {
                    self.handle(conn, *request);
                    self.settle_and_go_on(conn);
                }
            }
        }
    }

    /// The volume of a warm jail holds nothing of anybody.
    pub(super) fn drop_warm_volume(&mut self, volume: VolumeId) {
        if let Err(error) = self.pool.delete_volume(volume) {
            tracing::warn!(%volume, %error, "could not remove a warm jail's volume");
        }
    }

    /// Ends a session's jail; the caller hears of it when nothing is left.
    pub(super) fn stop(
        &mut self,
        conn: ConnId,
        session: wharf_domain::SessionId,
        grace: Duration,
    ) -> Option<Reply> {
        let Some(id) = self.by_session.get(&session).copied() else { return Some(Reply::Done {}) };
        let Some(jail) = self.jails.get_mut(&id) else {
            return Some(Reply::Fault(Fault::Failed {
                step: "stop".to_owned(),
                cause: "a bug: no such jail".to_owned(),
            }));
        };
        jail.waiting.push(Waiting::Answer(conn));
        self.ask_to_end(id, grace);
        None
    }
}

/// The end of what the host wrote before it ended.
fn last_words(output: &std::os::fd::OwnedFd) -> String {
    const ENOUGH: u64 = 2048;
    let length = rustix::fs::fstat(output).map_or(0, |s| s.st_size as u64);
    let mut text = vec![0u8; length.min(ENOUGH) as usize];
    let n = rustix::io::pread(output, &mut text[..], length.saturating_sub(ENOUGH)).unwrap_or(0);
    String::from_utf8_lossy(&text[..n]).trim().to_owned()
}
