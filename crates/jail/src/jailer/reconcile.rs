//! At the start: what an earlier jailer left is adopted or removed.
//!
//! A jail is adopted when its record is complete and the process it names is that very process: pid, start time and
//! boot together. Everything else that carries our names (half-made jails, groups, sockets) goes.

use std::time::{Duration, Instant};

use wharf_domain::JailId;

use super::record::{self, Phase, Record};
use super::{End, Jail, Jailer};
use crate::step::{At, Step};
use crate::sys;

/// A directory that holds this file belongs to another runtime of the machine, which looks after it itself.
pub const FOREIGN: &str = "runtime.json";
/// Killed processes are gone in milliseconds; what is not by then is reported, and tried again at the next start.
const PATIENCE: Duration = Duration::from_secs(5);

impl Jailer {
    pub(super) fn reconcile(&mut self) -> Result<(), Step> {
        let directory = self.settings.run_dir.join("jails");
        for entry in std::fs::read_dir(&directory).at("look for jails")?.flatten() {
            let name = entry.file_name();
            if entry.path().extension().is_some_and(|e| e == record::MAKING) {
                // Nothing was put in it yet.
                let _ = std::fs::remove_dir(entry.path());
                continue;
            }
            let Some(id) = name.to_str().and_then(|n| n.parse::<JailId>().ok()) else { continue };
            if entry.path().join(FOREIGN).exists() {
                continue;
            }
            let record = Record::load(&entry.path());
            match &record {
                Ok(record) if record.jail == id && self.adopt(record)? => continue,
                Ok(_) => {}
                Err(error) => tracing::warn!(jail = %id, %error, "a jail without a readable state"),
            }
            self.clear(id);
            if let Ok(record) = record
                && record.warm
                && record.phase != Phase::Running
            {
                self.drop_warm_volume(record.volume);
            }
            self.wipe(id);
            tracing::info!(jail = %id, "removed what was left of a jail");
        }
        for name in self.cgroups.names() {
            let Ok(id) = name.parse::<JailId>() else { continue };
            if !self.jails.contains_key(&id) {
                self.clear(id);
                self.cgroups.forget(&name);
                tracing::info!(jail = %id, "removed the cgroups of no jail");
            }
        }
        Ok(())
    }

    fn adopt(&mut self, record: &Record) -> Result<bool, Step> {
        let whole = matches!(record.phase, Phase::Running | Phase::Warm);
        if !whole || record.boot != self.boot || self.slots.contains(&record.slot) {
            return Ok(false);
        }
        let Some(pid) = rustix::process::Pid::from_raw(record.pid) else { return Ok(false) };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
            return Ok(false);
        };
        // Read after the descriptor was had: from here on the pid cannot come to mean another process.
        if sys::start_time(record.pid) != Some(record.started) {
            return Ok(false);
        }
        let group = self.cgroups.group(&record.jail.to_string());
        // An earlier jailer may have died between freezing and thawing.
        group.thaw()?;
        let jail =
            Jail { record: record.clone(), pidfd, group, output: None, end: End::Up, waiting: Vec::new() };
        self.enter(jail)?;
        tracing::info!(jail = %record.jail, session = ?record.session, "adopted");
        Ok(true)
    }

    /// Kills whatever is in a jail's groups and removes them.
    pub(super) fn clear(&self, id: JailId) {
        let group = self.cgroups.group(&id.to_string());
        let begun = Instant::now();
        while !group.remove() {
            group.kill();
            if begun.elapsed() > PATIENCE {
                tracing::error!(jail = %id, left = ?group.processes(), "leftovers of a jail will not go");
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
