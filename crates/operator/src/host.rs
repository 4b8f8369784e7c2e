//! What the operator asks of a session's `wharf-host`: a port, so that crashes can be simulated on both of its sides.

use std::path::Path;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use wharf_domain::{Code, SessionId, TurnId};
use wharf_wire::host::Identity;
use wharf_wire::host::turn::{SetupRequest, TurnEvent, TurnRequest};

/// Why a host did not do it.
#[derive(Debug, thiserror::Error)]
pub enum HostFault {
    /// It could not be reached, or the connection broke: what became of the request is not known.
    #[error("the session's host is away: {0}")]
    Away(String),
    /// It answered, and said no.
    #[error("the session's host refused: {detail}")]
    Refused { code: Code, detail: String },
}

pub type Result<T> = std::result::Result<T, HostFault>;
/// Ends after `done`, or with a fault.
pub type Events = BoxStream<'static, Result<TurnEvent>>;

#[async_trait]
pub trait HostPort: Send + Sync + 'static {
    /// Tells a new computer who it is. The same identity again is success.
    async fn identify(&self, socket: &Path, identity: &Identity) -> Result<()>;

    /// Whether the host answers, and for this session.
    async fn alive(&self, socket: &Path, session: SessionId) -> Result<()>;

    /// Runs the setup script, or hands back how it went.
    async fn setup(&self, socket: &Path, request: &SetupRequest) -> Result<Events>;

    /// Starts a turn, or hands back what it said after event `after`: the id decides which.
    async fn turn(&self, socket: &Path, request: &TurnRequest, after: u64) -> Result<Events>;

    /// What the host said in a turn after event `after`; `None` when it does not know the turn, which it then does not run.
    async fn attach(&self, socket: &Path, turn: TurnId, after: u64) -> Result<Option<Events>>;

    /// Ends a turn; one that has ended stays as it was.
    async fn cancel(&self, socket: &Path, turn: TurnId) -> Result<()>;

    /// Ends whatever turn runs there other than this one: the leftover of a cancel that did not arrive.
    async fn cancel_others(&self, socket: &Path, turn: TurnId) -> Result<()>;

    /// Writes what programs wrote to the volume.
    async fn sync(&self, socket: &Path) -> Result<()>;
}
