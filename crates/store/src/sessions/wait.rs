//! Waiting for a session or a turn: wake-ups tell when to look, the tables tell what is.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use wharf_domain::{Error, SessionId};
use wharf_ports::{Topic, Wake};

use super::row::{self, MessageRow, SessionRow, message_columns, session_columns};
use crate::error::OrDomain as _;
use crate::permit::Permit;
use crate::store::Store;

/// Net for wake-ups that were lost.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Store {
    /// The session as soon as `enough` says so, or as it is when the time is over; `None` once it is gone.
    pub async fn wait_session(
        &self,
        permit: &Permit<SessionRow>,
        timeout: Duration,
        enough: impl Fn(&SessionRow) -> bool + Send,
    ) -> Result<Option<SessionRow>, Error> {
        let id = permit.row().id;
        let end = Instant::now() + timeout;
        let mut wakes = self.bus().subscribe();
        loop {
            let row = self.read_session(id).await?;
            if row.as_ref().is_none_or(&enough) || !next(&mut wakes, id, end).await {
                return Ok(row);
            }
        }
    }

    /// A user's message as soon as its turn has ended, or as it is when the time is over.
    pub async fn wait_turn(
        &self,
        permit: &Permit<SessionRow>,
        seq: i64,
        timeout: Duration,
    ) -> Result<MessageRow, Error> {
        let id = permit.row().id;
        let end = Instant::now() + timeout;
        let mut wakes = self.bus().subscribe();
        loop {
            let row = sqlx::query(concat!(
                "select ",
                message_columns!(),
                " from messages m join turns t on t.id = m.turn_id where m.session_id = $1 and m.seq = $2"
            ))
            .bind(id.uuid())
            .bind(seq)
            .fetch_optional(self.pool())
            .await
            .or_domain()?
            .ok_or_else(|| Error::not_found("message", seq))?;
            let message = row::message(&row).or_domain()?;
            if message.state.ended() || !next(&mut wakes, id, end).await {
                return Ok(message);
            }
        }
    }

    pub(super) async fn read_session(&self, id: SessionId) -> Result<Option<SessionRow>, Error> {
        let row = sqlx::query(concat!(
            "select ",
            session_columns!(),
            " from sessions s where s.id = $1 and s.deleted_at is null"
        ))
        .bind(id.uuid())
        .fetch_optional(self.pool())
        .await
        .or_domain()?;
        row.as_ref().map(row::session).transpose().or_domain()
    }
}

/// True when it is time to look again, false when the time is over.
async fn next(wakes: &mut wharf_ports::bus::Subscription, id: SessionId, end: Instant) -> bool {
    let net = Instant::now() + LOOK_AGAIN;
    loop {
        match timeout_at(net.min(end), wakes.next()).await {
            Ok(Some(Wake::Topic(Topic::Session(s) | Topic::SessionLog(s)))) if s == id => return true,
            Ok(Some(Wake::Topic(_))) => {}
            Ok(Some(Wake::Missed)) => return true,
            Ok(None) => {
                tokio::time::sleep_until(net.min(end)).await;
                return Instant::now() < end;
            }
            Err(_) => return Instant::now() < end,
        }
    }
}
