//! Jails that stand ready: started, nobody's, their volume still empty. A create takes one instead of waiting.
//!
//! Refuses to be in anybody's way: they are made when no request has come for a moment, one at a time. What was
//! handed to a session never comes back here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wharf_domain::image::ImageRef;
use wharf_domain::{JailId, Name, VolumeId};
use wharf_ports::runtime::{JailSpec, Source, VolumeSpec};

use super::record::{Phase, Record};
use super::{End, Jail, Jailer};
use crate::launch::write_names;
use crate::step::{At, Kind, Step};
use crate::sys;
use crate::sys::replace;

/// Quiet for this long means no burst is under way.
const QUIET: Duration = Duration::from_millis(20);
/// A burst that does not end is still followed by this many starts a second.
const AT_LEAST_EVERY: Duration = Duration::from_millis(250);
/// After a start that failed; the reason is in the log.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// More would be a mistake in a setting.
const MOST: u32 = 256;
const NAMELESS: &str = "warm";

pub(super) struct Warm {
    file: PathBuf,
    wanted: BTreeMap<Name, u32>,
    /// Last time a session's launch was served.
    last_use: Instant,
    not_before: Instant,
    /// Whether the pool may be off its numbers, and since when.
    unsettled: Option<Instant>,
}

impl Warm {
    /// The numbers asked for last, so that a restarted jailer keeps them.
    pub fn open(run_dir: &Path) -> Result<Self, Step> {
        let file = run_dir.join("warm.json");
        let wanted = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).at("read the warm pool's numbers")?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(Step::failed("read the warm pool's numbers", e)),
        };
        let now = Instant::now();
        Ok(Self { file, wanted, last_use: now, not_before: now, unsettled: Some(now) })
    }

    pub fn used(&mut self) {
        self.last_use = Instant::now();
        self.unsettle();
    }

    fn unsettle(&mut self) {
        self.unsettled.get_or_insert_with(Instant::now);
    }
}

/// What came of asking for a warm jail.
pub(super) enum Claim {
    Taken(JailId),
    NoneFits,
    /// The volume was the session's already when it failed: the jail has to be gone before another one starts on it.
    Spoiled(JailId),
}

impl Jailer {
    pub(super) fn keep_warm(&mut self, image: Name, count: u32) -> Result<(), Step> {
        if count > MOST {
            return Err(Step::refused(
                "keep warm",
                format!("{count} jails; at most {MOST} stand ready per image"),
            ));
        }
        if count > 0 && self.pool.newest_image(&image)?.is_none() {
            return Err(Step::missing(format!("image {image}")));
        }
        if count == 0 {
            self.warm.wanted.remove(&image);
        } else {
            self.warm.wanted.insert(image, count);
        }
        let text = serde_json::to_vec(&self.warm.wanted).at("write the warm pool's numbers")?;
        replace(&self.warm.file, &text)?;
        self.warm.unsettle();
        Ok(())
    }

    pub(super) fn image_changed(&mut self) {
        self.warm.unsettle();
    }

    fn ready(&self) -> impl Iterator<Item = &Jail> {
        self.jails.values().filter(|j| j.record.phase == Phase::Warm && j.end == End::Up)
    }

    /// Brings the pool one step nearer to its numbers when the time is right; answers when to ask again.
    pub(super) fn refill(&mut self, now: Instant) -> Option<Duration> {
        let short_since = self.warm.unsettled?;
        let quiet_at = self.warm.last_use + QUIET;
        let overdue_at = short_since + AT_LEAST_EVERY;
        let at = quiet_at.min(overdue_at).max(self.warm.not_before);
        if now < at {
            return Some(at - now);
        }
        match self.refill_one() {
            Ok(true) => {
                self.warm.unsettled = Some(Instant::now());
                // Whoever asked meanwhile comes first.
                Some(Duration::ZERO)
            }
            Ok(false) => {
                self.warm.unsettled = None;
                None
            }
            Err(error) => {
                tracing::warn!(%error, "could not start a warm jail");
                self.warm.not_before = Instant::now() + AFTER_FAILURE;
                Some(AFTER_FAILURE)
            }
        }
    }

    /// One jail too many ended or one missing started; false when all is as wanted.
    fn refill_one(&mut self) -> Result<bool, Step> {
        let mut newest = BTreeMap::new();
        for (name, count) in &self.warm.wanted {
            if let Some(image) = self.pool.newest_image(name)?
                && !self.doomed.contains(&image)
            {
                newest.insert(name.clone(), (image, *count as usize));
            }
        }
        let mut have: BTreeMap<Name, usize> = BTreeMap::new();
        let mut surplus = None;
        for jail in self.ready() {
            let name = &jail.record.image.name;
            let count = have.entry(name.clone()).or_default();
            *count += 1;
            let fits = newest
                .get(name)
                .is_some_and(|(image, wanted)| *image == jail.record.image && *count <= *wanted);
            if !fits {
                surplus = Some(jail.record.jail);
            }
        }
        if let Some(jail) = surplus {
            self.kill(jail);
            return Ok(true);
        }
        let missing =
            newest.into_iter().find(|(name, (_, wanted))| have.get(name).copied().unwrap_or(0) < *wanted);
        let Some((_, (image, _))) = missing else { return Ok(false) };
        self.start_warm(image)?;
        Ok(true)
    }

    fn start_warm(&mut self, image: ImageRef) -> Result<(), Step> {
        let resources = self.settings.warm;
        let volume = VolumeId::new();
        let spec =
            VolumeSpec { volume, image: image.clone(), disk_mib: resources.disk_mib, source: Source::Empty };
        let record = Record {
            jail: JailId::new(),
            phase: Phase::Starting,
            session: None,
            incarnation: 0,
            volume,
            image,
            resources,
            allow_root: true,
            warm: true,
            slot: self.free_slot()?,
            pid: 0,
            started: 0,
            boot: self.boot.clone(),
        };
        // The record of a half-made warm jail names its volume, but the volume comes first: a crash between the two
        // leaves an empty volume that no session knows, which the reconciler removes like any other.
        self.pool.prepare(&spec)?;
        self.start(record, NAMELESS, Phase::Warm).map(drop).inspect_err(|_| self.drop_warm_volume(volume))
    }

    /// Hands a warm jail to a session, if one fits. A failure on the way costs the jail, not the launch.
    pub(super) fn claim(&mut self, spec: &JailSpec) -> Claim {
        if !spec.allow_root {
            return Claim::NoneFits;
        }
        let oldest =
            self.ready().filter(|j| j.record.image == spec.volume.image).map(|j| j.record.jail).min();
        let Some(id) = oldest else { return Claim::NoneFits };
        match self.hand_over(id, spec) {
            Ok(()) => Claim::Taken(id),
            // The session has its volume from before: it starts cold on that one, and this jail stays ready.
            Err(error) if error.kind == Kind::InUse => Claim::NoneFits,
            Err(error) => {
                tracing::warn!(jail = %id, %error, "could not hand over a warm jail");
                self.kill(id);
                let taken = self.jails.get(&id).is_some_and(|j| j.record.session.is_some());
                if taken { Claim::Spoiled(id) } else { Claim::NoneFits }
            }
        }
    }

    fn hand_over(&mut self, id: JailId, spec: &JailSpec) -> Result<(), Step> {
        let run_dir = self.settings.run_dir.clone();
        let first_id = self.settings.first_id;
        let target = spec.volume.volume;
        let Some(jail) = self.jails.get_mut(&id) else { return Err(Step::failed("claim", "no such jail")) };
        let from = jail.record.volume;
        jail.record.phase = Phase::Claiming;
        jail.record.save(&run_dir)?;
        if let Err(error) = self.pool.rename(from, target) {
            jail.record.phase = Phase::Warm;
            jail.record.save(&run_dir)?;
            return Err(error);
        }
        // From here the volume is the session's, whatever becomes of this jail.
        jail.record.volume = target;
        jail.record.session = Some(spec.session);
        jail.record.incarnation = spec.incarnation;
        self.by_volume.remove(&from);
        self.by_volume.insert(target, id);
        self.by_session.insert(spec.session, id);
        let finish = || -> Result<(), Step> {
            self.pool.set_quota(target, spec.volume.disk_mib)?;
            jail.group.limit(&spec.resources)?;
            let pid = jail.record.pid;
            let root = std::fs::File::open(format!("/proc/{pid}/root")).at("open the jail's root")?;
            let uts = std::fs::File::open(format!("/proc/{pid}/ns/uts")).at("open the jail's host name")?;
            let hostname = spec.hostname.as_str();
            sys::in_uts_of(&uts, &self.own_uts, || Ok(rustix::system::sethostname(hostname.as_bytes())?))
                .at("set the host name")?;
            let root_inside = first_id + jail.record.slot * crate::launch::IDS;
            sys::with_file_ids(root_inside, root_inside, || write_names(&root, hostname))
        };
        finish()?;
        jail.record.resources = spec.resources;
        jail.record.phase = Phase::Running;
        jail.record.save(&run_dir)
    }

    /// Ends the jails that stand ready on an image; answers one of them while any is left.
    pub(super) fn end_warm_of(&mut self, image: &ImageRef) -> Option<&mut Jail> {
        let of: Vec<JailId> = self
            .jails
            .values()
            .filter(|j| j.record.session.is_none() && j.record.image == *image)
            .map(|j| j.record.jail)
            .collect();
        for jail in &of {
            self.kill(*jail);
        }
        self.warm.unsettle();
        of.first().and_then(|jail| self.jails.get_mut(jail))
    }
}
