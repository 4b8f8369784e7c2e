//! Turns as the driver works on them: claim, append what the host says, end once.

use serde_json::Value;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;
use wharf_domain::session::TurnState;
use wharf_domain::{Error, SessionId, SpaceId, Time, TurnId};
use wharf_ports::Topic;

use super::{Task, Work, lost, outcome};
use crate::error::OrDomain as _;
use crate::sessions::create::text;
use crate::sessions::row::{self, MessageRow, message_columns};

/// What came of asking for the next message.
#[derive(Debug)]
pub enum Claimed {
    Turn(TurnWork),
    /// No message waits.
    Empty,
}

/// All that a driver needs to send a turn, or to read on in one.
#[derive(Clone, Debug)]
pub struct TurnWork {
    pub turn: TurnId,
    pub session: SessionId,
    pub space: SpaceId,
    pub token: i64,
    /// The user's message.
    pub seq: i64,
    pub content: Value,
    /// The host's number of the last event that is in the log.
    pub host_events: u64,
    /// The computer it was sent to first; `None` until it is sent.
    pub sent: Option<u64>,
    pub cancel: Option<String>,
    pub deadline: Time,
}

/// One thing the host said, for the log.
#[derive(Clone, Debug)]
pub struct Append {
    pub kind: &'static str,
    pub data: Value,
    /// A whole message of the agent: its blocks.
    pub message: Option<Entry>,
}

/// A message of an agent.
#[derive(Clone, Debug)]
pub struct Entry {
    pub agent: Option<String>,
    pub content: Value,
}

/// How a turn ended.
#[derive(Clone, Debug)]
pub struct TurnResult {
    pub state: TurnState,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub exit_code: Option<i32>,
    pub is_error: bool,
    pub usage: Option<Value>,
}

impl TurnResult {
    pub fn failed(reason: &str, detail: Option<String>) -> Self {
        Self {
            state: TurnState::Failed,
            reason: Some(reason.to_owned()),
            detail,
            exit_code: None,
            is_error: false,
            usage: None,
        }
    }

    pub fn cancelled(reason: &str) -> Self {
        Self { state: TurnState::Cancelled, ..Self::failed(reason, None) }
    }
}

impl Work {
    /// The oldest queued message becomes the running turn: state, number and event in one commit. A message to a
    /// session that waits for one is claimed by the commit that takes it (`session_post`).
    pub async fn claim_turn(&self, task: &Task) -> Result<Claimed, Error> {
        let row = sqlx::query("select * from turn_claim($1, $2, $3)")
            .bind(task.id().uuid())
            .bind(task.token)
            .bind(self.store.now().to_utc())
            .fetch_one(self.store.pool())
            .await
            .or_domain()?;
        match row.try_get::<&str, _>("outcome").or_domain()? {
            "claimed" => {
                self.changed(task.id(), task.session.space);
                let read = || -> Result<TurnWork, sqlx::Error> {
                    Ok(TurnWork {
                        turn: TurnId::from_uuid(row.try_get("turn_id")?),
                        session: task.id(),
                        space: task.session.space,
                        token: task.token,
                        seq: row.try_get("message_seq")?,
                        content: row.try_get("content")?,
                        host_events: 0,
                        sent: None,
                        cancel: None,
                        deadline: row::time(&row, "deadline")?,
                    })
                };
                read().map(Claimed::Turn).or_domain()
            }
            "empty" => Ok(Claimed::Empty),
            word => Err(outcome(task.id(), word)),
        }
    }

    /// Puts on disk which computer the turn is sent to, before that computer hears of it.
    pub async fn send_turn(&self, work: &mut TurnWork, incarnation: u64) -> Result<(), Error> {
        let sent = sqlx::query(
            "update turns t set sent_incarnation = $4 from sessions s
             where s.id = $1 and s.lease_token = $2 and t.session_id = s.id and t.id = $3 and t.state = 'running'
               and t.sent_incarnation is null",
        )
        .bind(work.session.uuid())
        .bind(work.token)
        .bind(work.turn.uuid())
        .bind(incarnation as i64)
        .execute(self.store.pool())
        .await
        .or_domain()?;
        if sent.rows_affected() == 0 {
            return Err(outcome(work.session, "not_ready"));
        }
        work.sent = Some(incarnation);
        Ok(())
    }

    /// Reads a running turn.
    pub async fn turn(&self, task: &Task, turn: TurnId) -> Result<TurnWork, Error> {
        let row = sqlx::query(
            "select t.seq, m.content, t.host_events, t.sent_incarnation, t.cancel, t.deadline_at
             from turns t join messages m on m.session_id = t.session_id and m.seq = t.seq
             where t.id = $1 and t.session_id = $2 and t.state = 'running'",
        )
        .bind(turn.uuid())
        .bind(task.id().uuid())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?
        .ok_or_else(|| Error::not_found("running turn", turn))?;
        let read = || -> Result<TurnWork, sqlx::Error> {
            Ok(TurnWork {
                turn,
                session: task.id(),
                space: task.session.space,
                token: task.token,
                seq: row.try_get("seq")?,
                content: row.try_get("content")?,
                host_events: row.try_get::<i64, _>("host_events")?.max(0) as u64,
                sent: row.try_get::<Option<i64>, _>("sent_incarnation")?.map(|n| n.max(0) as u64),
                cancel: row.try_get("cancel")?,
                deadline: row::time(&row, "deadline_at")?,
            })
        };
        read().or_domain()
    }

    /// Which of the session's agents a turn was addressed to.
    pub async fn turn_agent(&self, turn: TurnId) -> Result<Option<String>, Error> {
        sqlx::query_scalar("select agent from turns where id = $1")
            .bind(turn.uuid())
            .fetch_one(self.store.pool())
            .await
            .or_domain()
    }

    /// Messages before a number, newest last, as many as fit into `bytes`: for agents that ask for history.
    pub async fn history(
        &self,
        session: SessionId,
        before: i64,
        bytes: u64,
    ) -> Result<Vec<MessageRow>, Error> {
        let rows = sqlx::query(concat!(
            "select ",
            message_columns!(),
            " from (select m.*, sum(octet_length(content::text)) over (order by seq desc) as so_far
                    from (select * from messages where session_id = $1 and seq < $2 order by seq desc limit 1000) m) m
              join turns t on t.id = m.turn_id where m.so_far <= $3 order by m.seq"
        ))
        .bind(session.uuid())
        .bind(before)
        .bind(bytes as i64)
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        rows.iter().map(row::message).collect::<Result<_, _>>().or_domain()
    }

    /// Appends what the host said up to its event `host_events`, in one commit. Said twice it is written once: who
    /// appends names the event before the first, and another number there is refused as a lost lease.
    pub async fn append(
        &self,
        work: &TurnWork,
        after: u64,
        host_events: u64,
        said: &[Append],
    ) -> Result<(), Error> {
        let mut conn = self.store.pool().acquire().await.or_domain()?;
        self.write(&mut conn, work, after, host_events, said).await?;
        self.store.wake(Topic::SessionLog(work.session));
        Ok(())
    }

    /// Appends the last of what the host said and ends the turn, in one commit.
    pub async fn finish_turn(
        &self,
        work: &TurnWork,
        after: u64,
        host_events: u64,
        said: &[Append],
        result: &TurnResult,
    ) -> Result<(), Error> {
        if said.is_empty() {
            return self.end_turn(work.session, work.space, work.token, work.turn, result).await;
        }
        let mut tx = self.store.begin().await?;
        self.write(&mut tx, work, after, host_events, said).await?;
        self.end(&mut tx, work.session, work.token, work.turn, result).await?;
        tx.commit().await.or_domain()?;
        self.changed(work.session, work.space);
        Ok(())
    }

    async fn write(
        &self,
        conn: &mut PgConnection,
        work: &TurnWork,
        after: u64,
        host_events: u64,
        said: &[Append],
    ) -> Result<(), Error> {
        let mut kinds = Vec::with_capacity(said.len());
        let mut data = Vec::with_capacity(said.len());
        let mut content = Vec::with_capacity(said.len());
        let mut agents = Vec::with_capacity(said.len());
        for a in said {
            kinds.push(a.kind);
            data.push(text(&a.data)?);
            content.push(a.message.as_ref().map(|m| text(&m.content)).transpose()?);
            agents.push(a.message.as_ref().and_then(|m| m.agent.clone()));
        }
        let word: String = sqlx::query_scalar("select turn_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
            .bind(work.session.uuid())
            .bind(work.token)
            .bind(work.turn.uuid())
            .bind(after as i64)
            .bind(host_events as i64)
            .bind(&kinds)
            .bind(&data)
            .bind(&content)
            .bind(&agents)
            .bind(self.store.now().to_utc())
            .fetch_one(conn)
            .await
            .or_domain()?;
        if word == "appended" { Ok(()) } else { Err(lost(work.session)) }
    }

    /// Ends the turn, and the session is idle again. Ending one that has ended changes nothing.
    pub async fn end_turn(
        &self,
        session: SessionId,
        space: SpaceId,
        token: i64,
        turn: TurnId,
        result: &TurnResult,
    ) -> Result<(), Error> {
        let mut conn = self.store.pool().acquire().await.or_domain()?;
        self.end(&mut conn, session, token, turn, result).await?;
        self.changed(session, space);
        Ok(())
    }

    async fn end(
        &self,
        conn: &mut PgConnection,
        session: SessionId,
        token: i64,
        turn: TurnId,
        result: &TurnResult,
    ) -> Result<(), Error> {
        let clean = |t: &Option<String>| t.as_ref().map(|t| t.replace('\0', "\u{fffd}"));
        // `json_strip_nulls` reads strings, and PostgreSQL reads no U+0000.
        let usage = result.usage.as_ref().map(text).transpose()?.map(|t| t.replace("\\u0000", "\\ufffd"));
        let word: String =
            sqlx::query_scalar("select turn_end($1, $2, $3, $4, $5, $6, $7, $8, $9::text::json, $10)")
                .bind(session.uuid())
                .bind(token)
                .bind(turn.uuid())
                .bind(result.state.as_str())
                .bind(clean(&result.reason))
                .bind(clean(&result.detail))
                .bind(result.exit_code)
                .bind(result.is_error)
                .bind(usage)
                .bind(self.store.now().to_utc())
                .fetch_one(conn)
                .await
                .or_domain()?;
        if !matches!(word.as_str(), "ended" | "same") {
            return Err(outcome(session, &word));
        }
        Ok(())
    }

    /// Ends the running turn and all that wait: the session is being deleted.
    pub async fn end_all(&self, task: &Task, reason: &str) -> Result<(), Error> {
        let result = TurnResult::cancelled(reason);
        let turns: Vec<Uuid> = sqlx::query_scalar(
            "select id from turns where session_id = $1 and state in ('queued', 'running') order by seq",
        )
        .bind(task.id().uuid())
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        for turn in turns {
            self.end_turn(task.id(), task.session.space, task.token, TurnId::from_uuid(turn), &result)
                .await?;
        }
        Ok(())
    }
}
