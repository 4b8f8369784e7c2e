//! [`HostPort`] over the host's unix socket.
//!
//! A client is made per call: an idle session keeps no connection and no task in the operator.

use std::path::Path;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use wharf_chassis::host_client::{self, HostClient, HostError};
use wharf_domain::{Code, SessionId, TurnId};
use wharf_wire::host::Identity;
use wharf_wire::host::turn::{SetupRequest, TurnEvent, TurnRequest};

use crate::host::{Events, HostFault, HostPort, Result};

/// Hosts as the jailer's sockets reach them.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpHost;

fn fault(e: HostError) -> HostFault {
    match e {
        HostError::Refused(f) => HostFault::Refused { code: f.code, detail: f.detail },
        other => HostFault::Away(other.to_string()),
    }
}

fn events(events: host_client::Events<TurnEvent>) -> Events {
    stream::unfold(Some(events), |events| async {
        let mut events = events?;
        match events.next().await? {
            Ok(event) => Some((Ok(event), Some(events))),
            Err(e) => Some((Err(fault(e)), None)),
        }
    })
    .boxed()
}

#[async_trait]
impl HostPort for HttpHost {
    async fn identify(&self, socket: &Path, identity: &Identity) -> Result<()> {
        HostClient::new(socket).claim(identity).await.map(drop).map_err(fault)
    }

    async fn alive(&self, socket: &Path, session: SessionId) -> Result<()> {
        let health = HostClient::new(socket).health().await.map_err(fault)?;
        match health.session {
            Some(s) if s == session => Ok(()),
            other => Err(HostFault::Refused {
                code: Code::InvalidState,
                detail: format!("the host serves {other:?}, not {session}"),
            }),
        }
    }

    async fn setup(&self, socket: &Path, request: &SetupRequest) -> Result<Events> {
        HostClient::new(socket).setup(request, 0).await.map(events).map_err(fault)
    }

    async fn turn(&self, socket: &Path, request: &TurnRequest, after: u64) -> Result<Events> {
        HostClient::new(socket).turn(request, after).await.map(events).map_err(fault)
    }

    async fn attach(&self, socket: &Path, turn: TurnId, after: u64) -> Result<Option<Events>> {
        match HostClient::new(socket).turn_events(turn, after).await {
            Ok(stream) => Ok(Some(events(stream))),
            Err(e) if e.code() == Code::NotFound => Ok(None),
            Err(e) => Err(fault(e)),
        }
    }

    async fn cancel(&self, socket: &Path, turn: TurnId) -> Result<()> {
        match HostClient::new(socket).cancel_turn(turn).await {
            Ok(_) => Ok(()),
            // It never arrived there, so there is nothing to end.
            Err(e) if e.code() == Code::NotFound => Ok(()),
            Err(e) => Err(fault(e)),
        }
    }

    async fn cancel_others(&self, socket: &Path, turn: TurnId) -> Result<()> {
        let client = HostClient::new(socket);
        let running = client.turns().await.map_err(fault)?.running;
        match running.and_then(|key| key.parse::<TurnId>().ok()) {
            Some(other) if other != turn => client.cancel_turn(other).await.map(drop).map_err(fault),
            _ => Ok(()),
        }
    }

    async fn sync(&self, socket: &Path) -> Result<()> {
        HostClient::new(socket).sync().await.map_err(fault)
    }
}
