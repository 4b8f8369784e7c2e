//! Looking around: what is up that should not be, what is not that should, what nobody knows, what may be forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wharf_chassis::Stop;
use wharf_domain::{Error, SessionId};
use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::{Fault, Inventory, Running};

use crate::operator::Inner;

/// Between two removals of old rows.
const PURGE_EVERY: Duration = Duration::from_mins(10);
const STOP_GRACE: Duration = Duration::from_secs(3);

/// What each runtime that answered holds.
type Held = Vec<(Arc<dyn SandboxRuntime>, Inventory)>;

fn away(fault: Fault) -> Error {
    Error::unavailable("the runtime", fault)
}

impl Inner {
    /// At the start: leases of the one before are free, images are known, and every session that is not at rest is
    /// looked at, with one look at the runtime for all of them.
    pub(crate) async fn first_look(self: &Arc<Self>) -> Result<(), Error> {
        let adopted = self.work.adopt().await?;
        if adopted > 0 {
            tracing::info!(adopted, "took over sessions of an earlier start");
        }
        let held = self.inventories().await?;
        let running = by_session(&held);
        for alive in self.work.alive().await? {
            if !held.iter().any(|(runtime, _)| runtime.name() == alive.runtime) {
                // Nothing is known of it: its first step is to ask.
                self.call(alive.id);
                continue;
            }
            let seen = running.get(&alive.id).map(|r| (*r).clone());
            let recorded = seen.as_ref().is_some_and(|r| r.incarnation == alive.incarnation);
            self.slots.with(alive.id, |s| s.seen(seen, recorded));
            self.call(alive.id);
        }
        self.free_leftovers(&held).await
    }

    /// What the runtimes hold, and their images as they have them now. One that is away is left out; all away is an error.
    async fn inventories(&self) -> Result<Held, Error> {
        let mut held = Vec::new();
        let mut missing = None;
        let asked =
            self.runtimes.all().iter().map(|runtime| async move { (runtime, runtime.inventory().await) });
        for (runtime, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok(inventory) => held.push((runtime.clone(), inventory)),
                Err(fault) => missing = Some((runtime.name(), fault)),
            }
        }
        if let Some((name, fault)) = missing {
            if held.is_empty() {
                return Err(away(fault));
            }
            tracing::debug!(runtime = name, %fault, "a runtime did not say what it holds");
        }
        for (runtime, inventory) in &held {
            self.images(runtime, inventory).await?;
        }
        Ok(held)
    }

    pub(crate) async fn look_around_forever(self: Arc<Self>, stop: Stop) {
        let mut purged = Instant::now();
        while stop.or_drain(tokio::time::sleep(self.settings.look_around)).await.is_some() {
            if let Err(error) = self.look_around().await {
                tracing::debug!(%error, "looking around failed; it is repeated");
            }
            if purged.elapsed() >= PURGE_EVERY {
                purged = Instant::now();
                match self.work.purge(self.settings.keep_deleted).await {
                    Ok(0) => {}
                    Ok(rows) => tracing::info!(rows, "removed rows of what was deleted long ago"),
                    Err(error) => tracing::warn!(%error, "old rows could not be removed"),
                }
                let retention = self.work.store().system(wharf_store::Actor::Retention);
                if let Err(error) = retention.sweep().await {
                    tracing::warn!(%error, "what is past its time could not be removed");
                }
            }
        }
        // The role ends when it is told to, not with this.
        std::future::pending::<()>().await;
    }

    async fn look_around(self: &Arc<Self>) -> Result<(), Error> {
        let held = self.inventories().await?;
        let running = by_session(&held);
        let alive = self.work.alive().await?;
        let known: HashSet<SessionId> = alive.iter().map(|a| a.id).collect();
        for a in alive {
            let answered = held.iter().any(|(runtime, _)| runtime.name() == a.runtime);
            // Somebody at work knows more than an inventory that was read a moment ago.
            let changed = self.slots.with(a.id, |s| {
                let seen = running.get(&a.id).map_or(0, |r| r.incarnation);
                let stale = answered && !s.working && s.driver.is_none() && seen != a.incarnation;
                if stale {
                    s.doubt();
                }
                stale || (!s.working && (s.token == 0 || (a.waiting && s.driver.is_none())))
            });
            if changed {
                self.call(a.id);
            }
        }
        // Up, although the session is at rest: a start that was cut short.
        for id in running.keys().filter(|id| !known.contains(*id)) {
            self.slots.with(*id, crate::slot::Slot::doubt);
            self.call(*id);
        }
        self.free_leftovers(&held).await
    }

    /// Ends and deletes what no row stands for.
    async fn free_leftovers(self: &Arc<Self>, held: &Held) -> Result<(), Error> {
        self.free_snapshots(None).await?;
        for (runtime, inventory) in held {
            self.free_leftovers_of(runtime, inventory).await?;
        }
        Ok(())
    }

    async fn free_leftovers_of(
        &self,
        runtime: &Arc<dyn SandboxRuntime>,
        inventory: &Inventory,
    ) -> Result<(), Error> {
        let Some(freed) = self.work.leftovers(inventory).await? else {
            tracing::error!(
                volumes = inventory.volumes.len(),
                "the runtime holds volumes and the database knows none of them; nothing is deleted: is it the right database?"
            );
            return Ok(());
        };
        for id in freed.sessions {
            tracing::info!(session = %id, "ending a computer nobody knows");
            runtime.stop(id, STOP_GRACE).await.map_err(away)?;
        }
        for volume in freed.volumes {
            tracing::info!(%volume, "deleting a volume nobody knows");
            if let Err(fault) = runtime.delete_volume(volume).await {
                tracing::warn!(%volume, %fault, "a leftover volume could not be deleted; it is tried again");
            }
        }
        for snapshot in freed.snapshots {
            tracing::info!(%snapshot, "deleting a snapshot nobody knows");
            if let Err(fault) = runtime.delete_snapshot(snapshot).await {
                tracing::warn!(%snapshot, %fault, "a leftover snapshot could not be deleted; it is tried again");
            }
        }
        Ok(())
    }

    /// Frees snapshots that were deleted and that no fork waits for.
    pub(crate) async fn free_snapshots(&self, of: Option<SessionId>) -> Result<(), Error> {
        for (id, runtime) in self.work.doomed_snapshots(of).await? {
            let freed = match self.runtimes.get(&runtime) {
                Ok(runtime) => runtime.delete_snapshot(id).await,
                Err(fault) => Err(fault),
            };
            match freed {
                Ok(()) | Err(Fault::Missing(_)) => self.work.snapshot_gone(id).await?,
                Err(fault) => {
                    tracing::info!(snapshot = %id, %fault, "a deleted snapshot could not be freed; it is tried again");
                }
            }
        }
        Ok(())
    }

    /// Images as the runtime has them now, and computers that stand ready of those that are new.
    async fn images(&self, runtime: &Arc<dyn SandboxRuntime>, inventory: &Inventory) -> Result<(), Error> {
        let mut images: Vec<_> = inventory.images.iter().map(|i| i.image.clone()).collect();
        images.sort_by(|a, b| (&a.name, &a.digest).cmp(&(&b.name, &b.digest)));
        if self.known_images.lock().unwrap_or_else(PoisonError::into_inner).get(runtime.name())
            == Some(&images)
        {
            return Ok(());
        }
        self.work.sync_images(runtime.name(), &inventory.images).await?;
        let mut all_warm = true;
        for (name, count) in &self.settings.warm {
            if !images.iter().any(|i| i.name == *name) {
                // It is made ready when it comes.
                continue;
            }
            if self.runtimes.name_for(name) != runtime.name() {
                continue;
            }
            match runtime.keep_warm(name, *count).await {
                Ok(()) => {}
                // It will not however often it is asked.
                Err(Fault::Refused(why)) => tracing::info!(image = %name, count, why, "sessions start cold"),
                Err(fault) => {
                    all_warm = false;
                    tracing::warn!(image = %name, count, %fault, "no computers stand ready; sessions start cold");
                }
            }
        }
        let mut known = self.known_images.lock().unwrap_or_else(PoisonError::into_inner);
        if all_warm {
            known.insert(runtime.name(), images);
        } else {
            known.remove(runtime.name());
        }
        Ok(())
    }
}

fn by_session(held: &Held) -> HashMap<SessionId, &Running> {
    held.iter().flat_map(|(_, inventory)| &inventory.running).map(|r| (r.session, r)).collect()
}
