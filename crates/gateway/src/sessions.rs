//! Whose socket it is: the session of a jail, kept for a moment, and word to those who wait when it changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use wharf_domain::{Error, JailId, SessionId};
use wharf_ports::{Topic, Wake};
use wharf_store::{JailOwner, System};

use crate::kept::Kept;

/// How old what is kept may be: what a lost wake-up costs.
const FRESH: Duration = Duration::from_secs(1);
/// More than a machine runs.
const MOST: usize = 8192;

/// The session a request is from, as it was when the request came.
pub type Session = JailOwner;

pub(crate) struct Sessions {
    system: System,
    kept: Kept<JailId, Arc<Session>>,
    /// Who waits for an approval waits here for changes of its session.
    changes: Mutex<HashMap<SessionId, watch::Sender<()>>>,
}

impl Sessions {
    pub fn new(system: System) -> Self {
        let kept = Kept::of(system.store(), FRESH, MOST);
        Self { system, kept, changes: Mutex::default() }
    }

    /// As it is in the tables now.
    pub async fn anew(&self, jail: JailId) -> Result<Option<Arc<Session>>, Error> {
        self.kept.remove(&jail);
        self.of(jail).await
    }

    pub async fn of(&self, jail: JailId) -> Result<Option<Arc<Session>>, Error> {
        if let Some(session) = self.kept.get(&jail) {
            return Ok(Some(session));
        }
        let begun = self.kept.begin();
        let Some(owner) = self.system.jail_owner(jail).await? else {
            self.kept.remove(&jail);
            return Ok(None);
        };
        let session = Arc::new(owner);
        self.kept.put(begun, jail, session.clone());
        Ok(Some(session))
    }

    /// Marked as changed when the session may have.
    pub fn changes(&self, session: SessionId) -> watch::Receiver<()> {
        let mut changes = self.changing();
        if changes.len() >= MOST {
            changes.retain(|_, sender| sender.receiver_count() > 0);
        }
        changes.entry(session).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    /// Takes note of a wake-up.
    pub fn hear(&self, wake: Wake) {
        match wake {
            Wake::Topic(Topic::Session(id)) => {
                self.kept.forget(|_, s| s.session == id);
                self.tell(|changed| changed == id);
            }
            // A turn begins and ends here.
            Wake::Topic(Topic::SessionLog(id)) => self.kept.forget(|_, s| s.session == id),
            Wake::Topic(_) => {}
            Wake::Missed => {
                self.kept.forget(|_, _| true);
                self.tell(|_| true);
            }
        }
    }

    fn tell(&self, concerned: impl Fn(SessionId) -> bool) {
        self.changing().retain(|id, sender| {
            if concerned(*id) {
                sender.send_modify(|()| ());
            }
            sender.receiver_count() > 0
        });
    }

    fn changing(&self) -> MutexGuard<'_, HashMap<SessionId, watch::Sender<()>>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
