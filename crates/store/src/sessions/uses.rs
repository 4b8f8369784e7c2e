//! Who uses a session's computer right now, so that it is not closed under them.
//!
//! Every use holds a guard. Nothing is written while a use is short: once a second the sessions used since then are
//! written in one statement, which nobody waits for. Losing the last second of it in a crash closes a session a second
//! early. While a use lasts, `in_use_until` is pushed ahead of the clock; a server that dies stops pushing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wharf_domain::SessionId;

use crate::error::OrDomain as _;
use crate::store::Store;

const TICK: Duration = Duration::from_secs(1);
/// Far enough ahead that a missed tick or two do not matter.
const AHEAD: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Seen {
    /// Guards alive now.
    open: usize,
    /// Used since the last write.
    dirty: bool,
}

#[derive(Default)]
struct State {
    seen: HashMap<SessionId, Seen>,
    ticking: bool,
}

/// The uses of one process.
#[derive(Clone, Default)]
pub struct Uses(Arc<Mutex<State>>);

/// One use; over when dropped.
pub struct Use {
    uses: Uses,
    session: SessionId,
}

impl Store {
    /// A command, terminal, transfer or port connection begins; it ends with the guard. Must be called inside the
    /// async runtime.
    pub fn begin_use(&self, session: SessionId) -> Use {
        let uses = self.0.uses.clone();
        let start = {
            let mut state = uses.lock();
            let seen = state.seen.entry(session).or_default();
            seen.open += 1;
            seen.dirty = true;
            !std::mem::replace(&mut state.ticking, true)
        };
        if start {
            tokio::spawn(tick(self.clone(), uses.clone()));
        }
        Use { uses, session }
    }

    /// Writes what has not been written; for a graceful end.
    pub async fn flush_uses(&self) {
        let uses = self.0.uses.clone();
        write(self, &uses).await;
    }
}

impl Uses {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(seen) = self.uses.lock().seen.get_mut(&self.session) {
            seen.open -= 1;
            seen.dirty = true;
        }
    }
}

async fn tick(store: Store, uses: Uses) {
    loop {
        tokio::time::sleep(TICK).await;
        write(&store, &uses).await;
        let mut state = uses.lock();
        state.seen.retain(|_, s| s.open > 0 || s.dirty);
        if state.seen.is_empty() {
            state.ticking = false;
            return;
        }
    }
}

async fn write(store: &Store, uses: &Uses) {
    let (mut ids, mut open) = (Vec::new(), Vec::new());
    for (id, seen) in &mut uses.lock().seen {
        if seen.dirty || seen.open > 0 {
            ids.push(id.uuid());
            open.push(seen.open > 0);
            seen.dirty = false;
        }
    }
    if ids.is_empty() {
        return;
    }
    let now = store.now();
    let written = sqlx::query(
        "update sessions s set last_used_at = greatest(s.last_used_at, $3),
            in_use_until = case when u.open then $4 end
         from (select set_config('synchronous_commit', 'off', true)) c,
            unnest($1::uuid[], $2::boolean[]) as u(id, open)
         where s.id = u.id",
    )
    .bind(&ids)
    .bind(&open)
    .bind(now.to_utc())
    .bind(now.plus(AHEAD).to_utc())
    .execute(store.pool())
    .await
    .or_domain();
    if let Err(error) = written {
        tracing::debug!(%error, "the last use of sessions was not written; the next tick writes it");
        let mut state = uses.lock();
        for id in ids {
            state.seen.entry(SessionId::from_uuid(id)).or_default().dirty = true;
        }
    }
    // No wake-up: an operator that waits for the old deadline looks when it comes, finds the new one and waits on.
}
