//! Wake-ups between roles. A wake-up carries no truth: the tables decide, a lost one costs time and nothing else.

use tokio::sync::broadcast;
use wharf_domain::{BuildId, SessionId, SpaceId};

/// What a subscriber looks again for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The session's row changed or wants work: reconcilers and waiters look.
    Session(SessionId),
    /// The session's log grew: event streams look.
    SessionLog(SessionId),
    /// The space's event log grew: watchers look.
    Space(SpaceId),
    /// A build was asked for, begun, given up or ended: builders look.
    Build(BuildId),
    /// The build's log grew or ended: its readers look.
    BuildLog(BuildId),
    /// Something was written to the audit log: the chainer looks.
    Audit,
}

/// One wake-up, or word that some were missed (then look at everything).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    Topic(Topic),
    Missed,
}

/// Fan-out of wake-ups to every process that runs a role.
pub trait Bus: Send + Sync + 'static {
    /// Never blocks and never fails: a wake-up that cannot travel is replaced by the subscribers' slow poll.
    fn wake(&self, topic: Topic);
    fn subscribe(&self) -> Subscription;
}

pub struct Subscription(broadcast::Receiver<Topic>);

impl Subscription {
    pub fn new(rx: broadcast::Receiver<Topic>) -> Self {
        Self(rx)
    }

    /// The next wake-up; `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<Wake> {
        match self.0.recv().await {
            Ok(topic) => Some(Wake::Topic(topic)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Wake::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// A wake-up that is there already; `None` when there is none. What this process changed before is among them.
    pub fn try_next(&mut self) -> Option<Wake> {
        match self.0.try_recv() {
            Ok(topic) => Some(Wake::Topic(topic)),
            Err(broadcast::error::TryRecvError::Lagged(_)) => Some(Wake::Missed),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => None,
        }
    }
}
