//! Looking around: what is up that should not be, what is not that should, what nobody knows, what may be forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wharf_chassis::Stop;
use wharf_domain::{Error, SessionId};
use wharf_ports::runtime::{Fault, Inventory, Running};

use crate::operator::Inner;

/// Between two removals of old rows.
const PURGE_EVERY: Duration = Duration::from_mins(10);
const STOP_GRACE: Duration = Duration::from_secs(3);

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
        let inventory = self.runtime.inventory().await.map_err(away)?;
        self.images(&inventory).await?;
        let running = by_session(&inventory);
        for alive in self.work.alive().await? {
            let seen = running.get(&alive.id).map(|r| (*r).clone());
            let recorded = seen.as_ref().is_some_and(|r| r.incarnation == alive.incarnation);
            self.slots.with(alive.id, |s| s.seen(seen, recorded));
            self.call(alive.id);
        }
        self.free_leftovers(&inventory).await
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
        let inventory = self.runtime.inventory().await.map_err(away)?;
        self.images(&inventory).await?;
        let running = by_session(&inventory);
        let alive = self.work.alive().await?;
        let known: HashSet<SessionId> = alive.iter().map(|a| a.id).collect();
        for a in alive {
            // Somebody at work knows more than an inventory that was read a moment ago.
            let changed = self.slots.with(a.id, |s| {
                let seen = running.get(&a.id).map_or(0, |r| r.incarnation);
                let stale = !s.working && s.driver.is_none() && seen != a.incarnation;
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
        self.free_leftovers(&inventory).await
    }

    /// Ends and deletes what no row stands for.
    async fn free_leftovers(self: &Arc<Self>, inventory: &Inventory) -> Result<(), Error> {
        self.free_snapshots(None).await?;
        let Some(freed) = self.work.leftovers(inventory).await? else {
            tracing::error!(
                volumes = inventory.volumes.len(),
                "the runtime holds volumes and the database knows none of them; nothing is deleted: is it the right database?"
            );
            return Ok(());
        };
        for id in freed.sessions {
            tracing::info!(session = %id, "ending a computer nobody knows");
            self.runtime.stop(id, STOP_GRACE).await.map_err(away)?;
        }
        for volume in freed.volumes {
            tracing::info!(%volume, "deleting a volume nobody knows");
            if let Err(fault) = self.runtime.delete_volume(volume).await {
                tracing::warn!(%volume, %fault, "a leftover volume could not be deleted; it is tried again");
            }
        }
        for snapshot in freed.snapshots {
            tracing::info!(%snapshot, "deleting a snapshot nobody knows");
            if let Err(fault) = self.runtime.delete_snapshot(snapshot).await {
                tracing::warn!(%snapshot, %fault, "a leftover snapshot could not be deleted; it is tried again");
            }
        }
        Ok(())
    }

    /// Frees snapshots that were deleted and that no fork waits for.
    pub(crate) async fn free_snapshots(&self, of: Option<SessionId>) -> Result<(), Error> {
        for id in self.work.doomed_snapshots(of).await? {
            match self.runtime.delete_snapshot(id).await {
                Ok(()) | Err(Fault::Missing(_)) => self.work.snapshot_gone(id).await?,
                Err(fault) => {
                    tracing::info!(snapshot = %id, %fault, "a deleted snapshot could not be freed; it is tried again");
                }
            }
        }
        Ok(())
    }

    /// Images as the runtime has them now, and computers that stand ready of those that are new.
    async fn images(&self, inventory: &Inventory) -> Result<(), Error> {
        let mut images: Vec<_> = inventory.images.iter().map(|i| i.image.clone()).collect();
        images.sort_by(|a, b| (&a.name, &a.digest).cmp(&(&b.name, &b.digest)));
        if self.known_images.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&images) {
            return Ok(());
        }
        self.work.sync_images(self.runtime.name(), &inventory.images).await?;
        let mut all_warm = true;
        for (name, count) in &self.settings.warm {
            if !images.iter().any(|i| i.name == *name) {
                // It is made ready when it comes.
                continue;
            }
            if let Err(fault) = self.runtime.keep_warm(name, *count).await {
                all_warm = false;
                tracing::warn!(image = %name, count, %fault, "no computers stand ready; sessions start cold");
            }
        }
        *self.known_images.lock().unwrap_or_else(PoisonError::into_inner) = all_warm.then_some(images);
        Ok(())
    }
}

fn by_session(inventory: &Inventory) -> HashMap<SessionId, &Running> {
    inventory.running.iter().map(|r| (r.session, r)).collect()
}
