//! Starting, finding and ending a session's computer.
//!
//! The order of a start: directory and sockets, then the container, whose process 1 waits at the door; its network is set up
//! meanwhile; then it is handed its socket, and only then does the record say that it runs. A crash anywhere leaves either a
//! computer that runs or one that is ended by whoever looks next.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use wharf_domain::{SessionId, VolumeId};
use wharf_ports::runtime::{Fault, JailSpec, Result, Running};

use crate::container::{Limits, Seen, body, contained, made, sensible};
use crate::engine::Abilities;
use crate::place::{Place, Record, local};
use crate::runtime::{DockerRuntime, Listed};

/// From the start of the container until its process 1 knocks.
const KNOCK: Duration = Duration::from_secs(30);
/// Between two looks whether it ended before it knocked.
const GLANCE: Duration = Duration::from_millis(250);
/// Containers looked after at the same time when the runtime starts: one that keeps the engine waiting holds up no more than itself.
const AT_ONCE: usize = 8;
const STEP: &str = "start the session's host";

impl DockerRuntime {
    pub(crate) async fn launch_one(&self, spec: &JailSpec) -> Result<Running> {
        let abilities = self.engine.abilities().await?;
        sensible(&spec.resources, &abilities)?;
        contained(spec, &abilities, &self.settings)?;
        let volume = spec.volume.volume;
        let _held = self.locks.hold(volume).await;
        self.fence(spec)?;
        self.end_others(spec.session, volume).await?;
        self.prepare(&spec.volume).await?;
        let place = self.place(volume);
        if let Some(seen) = self.engine.look(volume, false).await? {
            if seen.session != Some(spec.session) {
                return Err(Fault::InUse(format!("volume {volume}")));
            }
            if seen.running {
                if let Some(record) = up(&place, &seen)
                    && record.incarnation == spec.incarnation
                {
                    return Ok(place.running(&record));
                }
                self.end_one(volume, &seen, Duration::ZERO).await?;
            }
        }
        self.fit(spec, &abilities).await?;
        self.engine.update(volume, Limits::of(&spec.resources, &abilities)).await?;
        let begun = std::time::Instant::now();
        let started = self.start(spec, &place).await;
        match started {
            Ok(record) => {
                tracing::info!(session = %spec.session, incarnation = spec.incarnation, millis = begun.elapsed().as_millis() as u64, "started");
                Ok(place.running(&record))
            }
            Err(fault) => {
                // What cannot be ended now is ended by the next who looks: the record does not say that it runs.
                let _ = self.engine.end(volume, Duration::ZERO).await;
                let _ = place.wipe();
                Err(fault)
            }
        }
    }

    fn fence(&self, spec: &JailSpec) -> Result<()> {
        let mut fences = self.fences();
        let (session, incarnation) = (spec.session, spec.incarnation);
        if let Some(newest) = fences.newest(session).filter(|newest| *newest > incarnation) {
            return Err(Fault::Fenced(format!(
                "incarnation {incarnation} of {session}: {newest} was started since"
            )));
        }
        Ok(fences.raise(session, incarnation, spec.volume.volume)?)
    }

    /// A session has one computer, whatever volumes it had before.
    async fn end_others(&self, session: SessionId, volume: VolumeId) -> Result<()> {
        for other in self.containers(Some(session)).await? {
            if other.volume != volume && other.up {
                return Err(Fault::Refused(format!(
                    "session {session} runs on volume {} already",
                    other.volume
                )));
            }
        }
        Ok(())
    }

    /// Makes sure of a container that is made as the session wants it; one made otherwise is made anew on its files.
    async fn fit(&self, spec: &JailSpec, abilities: &Abilities) -> Result<()> {
        let volume = spec.volume.volume;
        let disk = abilities.disk.then_some(spec.volume.disk_mib);
        match self.engine.look(volume, false).await? {
            Some(seen) if seen.made == made(spec, &self.settings, disk) => {
                return self.note_held(volume, true);
            }
            Some(_) => {
                tracing::info!(session = %spec.session, "its container is made anew: what cannot be changed in one has changed");
                self.keep_as_tag(volume).await?;
                self.note_held(volume, false)?;
                self.engine.remove(volume).await?;
            }
            None => self.not_lost(volume)?,
        }
        // Mounts are checked when a container is made, so their places must be there.
        self.ready_place(spec)?;
        self.engine.create(volume, body(spec, &self.names, &self.settings, abilities, disk)).await?;
        self.note_held(volume, true)
    }

    fn ready_place(&self, spec: &JailSpec) -> Result<Record> {
        let record = Record {
            runtime: "docker".to_owned(),
            volume: spec.volume.volume,
            session: spec.session,
            incarnation: spec.incarnation,
            started_at: None,
        };
        self.place(spec.volume.volume)
            .make(&record, &self.settings)
            .map_err(|e| local("make the session's directory", e))?;
        Ok(record)
    }

    async fn start(&self, spec: &JailSpec, place: &Place) -> Result<Record> {
        let volume = spec.volume.volume;
        let mut record = self.ready_place(spec)?;
        let socket = place.listen(&self.settings).map_err(|e| local("make the host's socket", e))?;
        let door = place.open_door().map_err(|e| local("open the door", e))?;
        self.engine.start(volume).await?;
        let seen = self.still_up(volume).await?;
        let pid = seen.pid;
        let laid = tokio::task::spawn_blocking(move || wharf_jail::launch::network::lay_for(pid)).await;
        laid.map_err(|e| local("lay out the network", e))??;
        self.hand_over(volume, door, &socket).await?;
        place.shut_door().map_err(|e| local("shut the door", e))?;
        record.started_at = Some(seen.started_at);
        place.save(&record).map_err(|e| local("write the session's record", e))?;
        Ok(record)
    }

    async fn still_up(&self, volume: VolumeId) -> Result<Seen> {
        let seen = self.engine.look(volume, false).await?;
        let seen = seen.ok_or_else(|| local(STEP, "the container is gone"))?;
        if seen.running { Ok(seen) } else { Err(local(STEP, seen.exit)) }
    }

    /// Gives the listening socket to whoever knocks: process 1, the only one there is yet.
    async fn hand_over(&self, volume: VolumeId, door: StdListener, socket: &StdListener) -> Result<()> {
        let door = tokio::net::UnixListener::from_std(door).map_err(|e| local("open the door", e))?;
        let watch = async {
            loop {
                tokio::time::sleep(GLANCE).await;
                if let Err(fault) = self.still_up(volume).await {
                    return fault;
                }
            }
        };
        let (caller, _) = tokio::select! {
            came = door.accept() => came.map_err(|e| local("answer the door", e))?,
            ended = watch => return Err(ended),
            () = tokio::time::sleep(KNOCK) => return Err(local(STEP, format!("it did not ask for its socket in {} s", KNOCK.as_secs()))),
        };
        caller
            .async_io(Interest::WRITABLE, || {
                let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = [socket.as_fd()];
                control.push(SendAncillaryMessage::ScmRights(&fds));
                let word = [std::io::IoSlice::new(b".")];
                rustix::net::sendmsg(&caller, &word, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
                    .map(drop)
                    .map_err(std::io::Error::from)
            })
            .await
            .map_err(|e| local("hand the socket over", e))
    }

    pub(crate) async fn observe_one(&self, session: SessionId) -> Result<Option<Running>> {
        for container in self.containers(Some(session)).await? {
            let _held = self.locks.hold(container.volume).await;
            let place = self.place(container.volume);
            match self.engine.look(container.volume, false).await? {
                Some(seen) if seen.running => {
                    if let Some(record) = up(&place, &seen) {
                        return Ok(Some(place.running(&record)));
                    }
                }
                _ => place.wipe().map_err(|e| local("clear up", e))?,
            }
        }
        Ok(None)
    }

    pub(crate) async fn stop_one(&self, session: SessionId, grace: Duration) -> Result<()> {
        for container in self.containers(Some(session)).await? {
            let _held = self.locks.hold(container.volume).await;
            if let Some(seen) = self.engine.look(container.volume, false).await? {
                self.end_one(container.volume, &seen, grace).await?;
            }
        }
        Ok(())
    }

    /// Ended, cleared up, and its files on the disk.
    pub(crate) async fn end_one(&self, volume: VolumeId, seen: &Seen, grace: Duration) -> Result<()> {
        if seen.running {
            if seen.paused {
                self.engine.unpause(volume).await?;
            }
            self.engine.end(volume, grace).await?;
            tracing::info!(session = ?seen.session, "ended");
        }
        self.place(volume).wipe().map_err(|e| local("clear up", e))?;
        match seen.layer.clone() {
            Some(layer) => sync(layer).await,
            None => Ok(()),
        }
    }

    /// At the start, and once the engine is back: ends what was only half started, lets go on what stood still, and clears
    /// away directories of computers that are gone.
    pub(crate) async fn recover(&self) -> Result<()> {
        if let Err(error) = Place::sweep(&self.settings) {
            tracing::warn!(%error, "what lies half made was not all cleared away");
        }
        let all = self.containers(None).await?;
        let recover = |container: Listed| async move {
            let done = self.recover_one(container.volume).await;
            self.or_pass_over(container.volume, done).await
        };
        futures_util::stream::iter(all).map(Ok).try_for_each_concurrent(AT_ONCE, recover).await?;
        self.clear_places().await
    }

    async fn recover_one(&self, volume: VolumeId) -> Result<()> {
        let _held = self.locks.hold(volume).await;
        let Some(seen) = self.engine.look(volume, false).await?.filter(|seen| seen.running) else {
            return Ok(());
        };
        if up(&self.place(volume), &seen).is_none() {
            tracing::info!(session = ?seen.session, "ending a computer that was only half started");
            return self.end_one(volume, &seen, Duration::ZERO).await;
        }
        if seen.paused { self.engine.unpause(volume).await } else { Ok(()) }
    }

    /// One container that will not do as it should keeps nobody from the others: whoever wants something of it is told then. An
    /// engine that is away altogether is another matter, and so that is asked.
    async fn or_pass_over(&self, volume: VolumeId, done: Result<()>) -> Result<()> {
        let Err(fault) = done else { return Ok(()) };
        if matches!(fault, Fault::Away(_)) {
            self.engine.greet().await?;
        }
        tracing::warn!(%volume, %fault, "a container is not as it should be; the others are not kept waiting");
        Ok(())
    }

    /// Directories whose computer is not up any more.
    pub(crate) async fn clear_places(&self) -> Result<()> {
        for (place, record) in Place::all(&self.settings) {
            // Whoever holds it is at work there.
            let Some(_held) = self.locks.try_hold(record.volume) else { continue };
            let cleared = async {
                if !self.engine.look(record.volume, false).await?.is_some_and(|seen| seen.running) {
                    place.wipe().map_err(|e| local("clear up", e))?;
                }
                Ok(())
            };
            self.or_pass_over(record.volume, cleared.await).await?;
        }
        Ok(())
    }

    /// Ends all of this installation's computers, as the machine's administrator does by stopping Wharf.
    pub async fn stop_all(&self, grace: Duration) -> Result<()> {
        let up: Vec<_> = self.containers(None).await?.into_iter().filter(|c| c.up).collect();
        let ends = up.iter().map(|container| async {
            let _held = self.locks.hold(container.volume).await;
            match self.engine.look(container.volume, false).await? {
                Some(seen) => self.end_one(container.volume, &seen, grace).await,
                None => Ok(()),
            }
        });
        futures_util::future::join_all(ends).await.into_iter().collect()
    }
}

/// The record of exactly this start of the container; anything else is not known to run.
fn up(place: &Place, seen: &Seen) -> Option<Record> {
    place.load().filter(|r| r.started_at.as_deref() == Some(seen.started_at.as_str()))
}

/// Brings a layer's file system to the disk.
async fn sync(layer: std::path::PathBuf) -> Result<()> {
    let work = move || match std::fs::File::open(&layer) {
        Ok(layer) => rustix::fs::syncfs(layer).map_err(|e| local("bring the files to the disk", e)),
        // Removed meanwhile, or kept where this process cannot see it.
        Err(_) => Ok(()),
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| local("bring the files to the disk", e))?
}
