//! What is open: tunnels and requests under way, judged again when what they were judged by changes, and counted while
//! they go on.
//!
//! One task for all of them. What is not allowed any more is cut, with the reason on its line; what a table cannot be asked
//! about just now goes on, and is looked at again. Calls of models are counted and never cut: they have limits of their own.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use wharf_domain::egress::Target;
use wharf_domain::{EgressId, Error, JailId, SessionId, SpaceId};
use wharf_guard::Ruling;
use wharf_ports::{Topic, Wake};

use crate::connections::Used;
use crate::gateway::Gateway;
use crate::guards::Leaving;
use crate::line::Line;
use crate::sessions::Session;

/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(50);
/// Between two looks while something is open, and what a count costs a line at the least.
const TICK: Duration = Duration::from_secs(1);
const APART: Duration = Duration::from_millis(250);
/// Everything is judged again that often: what a lost wake-up costs.
const NET: Duration = Duration::from_secs(10);
/// How long the sums may take to be written before the quota is looked at all the same.
const WRITTEN: Duration = Duration::from_secs(1);

/// What a line was allowed for.
pub(crate) struct Watched {
    pub jail: JailId,
    pub target: Target,
    /// What the guardrails were asked about it. None where that is asked of every request inside.
    pub leaving: Option<Leaving>,
    /// The rule that wanted somebody's yes, and got it.
    pub allowed: Option<Ruling>,
    /// Nobody reads what is inside.
    pub opaque: bool,
    /// The credential it carries.
    pub used: Option<Used>,
}

/// Lines that have not ended, and what has changed since they were last judged.
#[derive(Default)]
pub(crate) struct Open {
    lines: Mutex<HashMap<EgressId, Weak<Line>>>,
    changed: Mutex<Changed>,
    heard: AtomicU64,
    bell: Notify,
}

#[derive(Default)]
struct Changed {
    sessions: HashSet<SessionId>,
    spaces: HashSet<SpaceId>,
    all: bool,
}

impl Changed {
    fn concerns(&self, session: SessionId, space: SpaceId) -> bool {
        self.all || self.sessions.contains(&session) || self.spaces.contains(&space)
    }

    fn is_empty(&self) -> bool {
        !self.all && self.sessions.is_empty() && self.spaces.is_empty()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
    pub fn add(&self, id: EgressId, line: &Arc<Line>) {
        let mut lines = locked(&self.lines);
        lines.insert(id, Arc::downgrade(line));
        if lines.len() == 1 {
            self.ring();
        }
    }

    pub fn remove(&self, id: EgressId) {
        locked(&self.lines).remove(&id);
    }

    /// Looks soon.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// How many changes have been heard of. Taken before something is judged and given with it when it is watched: what came
    /// between is then not missed.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::SeqCst)
    }

    /// Takes note of a wake-up, after everything that is kept has been dropped for it.
    pub fn hear(&self, wake: Wake) {
        self.heard.fetch_add(1, Ordering::SeqCst);
        if locked(&self.lines).is_empty() {
            return;
        }
        {
            let mut changed = locked(&self.changed);
            match wake {
                Wake::Topic(Topic::Session(id)) => {
                    changed.sessions.insert(id);
                }
                Wake::Topic(Topic::Space(id)) => {
                    changed.spaces.insert(id);
                }
                Wake::Topic(_) => return,
                Wake::Missed => changed.all = true,
            }
        }
        self.ring();
    }

    /// A line is watched from now on, judged when that many changes had been heard of.
    pub fn watched(&self, session: SessionId, judged_at: u64) {
        if self.heard() != judged_at {
            locked(&self.changed).sessions.insert(session);
            self.ring();
        }
    }

    fn all(&self) -> Vec<Arc<Line>> {
        locked(&self.lines).values().filter_map(Weak::upgrade).collect()
    }

    /// Judges and counts for as long as it is polled.
    pub async fn run(&self, gateway: &Gateway) {
        let (mut net, mut counted) = (Instant::now(), Instant::now());
        loop {
            if locked(&self.lines).is_empty() {
                self.bell.notified().await;
            }
            tokio::select! {
                () = self.bell.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(TICK) => {}
            }
            let mut changed = std::mem::take(&mut *locked(&self.changed));
            if net.elapsed() >= NET {
                (net, changed.all) = (Instant::now(), true);
            }
            if !changed.is_empty()
                && let Err(error) = self.judge(gateway, &changed).await
            {
                tracing::debug!(%error, "open tunnels could not be judged again; soon they are");
                locked(&self.changed).all = true;
                tokio::time::sleep(TICK).await;
            }
            if counted.elapsed() >= APART {
                counted = Instant::now();
                self.count(gateway).await;
            }
        }
    }

    async fn judge(&self, gateway: &Gateway, changed: &Changed) -> Result<(), Error> {
        let mut sessions: HashMap<JailId, Option<Arc<Session>>> = HashMap::new();
        for line in self.all() {
            let Some(watched) = line.watched().filter(|_| !line.is_cut()) else { continue };
            if !changed.concerns(line.session(), line.space()) {
                continue;
            }
            let session = match sessions.get(&watched.jail) {
                Some(session) => session.clone(),
                None => {
                    let session = gateway.sessions.of(watched.jail).await?;
                    sessions.insert(watched.jail, session.clone());
                    session
                }
            };
            // A jail that is nobody's any more goes, and its socket with it.
            let Some(session) = session else { continue };
            if let Some(why) = against(gateway, &session, watched).await? {
                line.cut(why);
            }
        }
        Ok(())
    }

    /// Tells the log how far every line is. Where the space's quota is used up by it, ends what moves.
    async fn count(&self, gateway: &Gateway) {
        let mut moved = HashMap::new();
        for line in self.all() {
            if line.tell()
                && let Some(watched) = line.watched()
            {
                moved.entry(watched.jail).or_insert_with(Vec::new).push(Arc::downgrade(&line));
            }
        }
        let mut limited = Vec::new();
        for (jail, lines) in moved {
            if let Ok(Some(session)) = gateway.sessions.of(jail).await
                && session.egress.is_some()
            {
                limited.push((jail, lines));
            }
        }
        if limited.is_empty() {
            return;
        }
        let _ = tokio::time::timeout(WRITTEN, gateway.log.written()).await;
        for (jail, lines) in limited {
            if let Ok(Some(session)) = gateway.sessions.anew(jail).await
                && session.room().is_err()
            {
                lines.iter().filter_map(Weak::upgrade).for_each(|line| line.cut("quota"));
            }
        }
    }
}

/// Why it would not be allowed now.
async fn against(
    gateway: &Gateway,
    session: &Session,
    watched: &Watched,
) -> Result<Option<&'static str>, Error> {
    let Watched { target, leaving, allowed, opaque, used, .. } = watched;
    if session.policy.judge(target).is_err() {
        return Ok(Some("policy"));
    }
    let guards = &gateway.guards;
    if let Some(leaving) = leaving
        && !guards.still(session, target, leaving, allowed.as_ref()).await?
    {
        return Ok(Some("guardrail"));
    }
    if *opaque && guards.look_inside(session, target).await? {
        return Ok(Some("guardrail"));
    }
    if let Some(used) = used
        && !gateway.connections.still(session, target, used).await?
    {
        return Ok(Some("connection"));
    }
    Ok(None)
}
