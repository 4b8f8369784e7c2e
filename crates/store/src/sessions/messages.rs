//! Messages: what users say is queued under the next number of the session's log, what agents say follows.

use serde_json::{Value, json};
use sqlx::Row as _;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::session::TurnState;
use wharf_domain::{Code, Error, SessionId, TurnId, limits};
use wharf_ports::Topic;

use super::create::text;
use super::row::{self, MessageRow, SessionRow, message_columns};
use super::{Sessions, refused};
use crate::error::OrDomain as _;
use crate::events::Event;
use crate::permit::Permit;
use crate::quota;

impl Sessions<'_> {
    /// Queues a message (a list of blocks), for one of the session's agents where `to` names it. One to a closed session restores it; one to a session in error is refused.
    ///
    /// Who may say something is the resource `messages`: ask [`Sessions::permit_messages`] first.
    pub async fn post_message(
        &mut self,
        permit: &Permit<SessionRow>,
        content: &Value,
        to: Option<&str>,
    ) -> Result<MessageRow, Error> {
        let message = self.post(permit.row(), content, to).await?;
        let s = permit.row();
        let name = Some(s.name.as_str());
        let detail = json!({"seq": message.seq, "turn": message.turn});
        self.0.audit(Verb::Create, Resource::Messages, Some(s.id.uuid()), name, detail.clone());
        self.0.emit(
            Event::new("created", Resource::Messages, s.id.uuid(), name, message.seq, detail)
                .in_space(s.space),
        );
        Ok(message)
    }

    pub(super) async fn post(
        &mut self,
        s: &SessionRow,
        content: &Value,
        to: Option<&str>,
    ) -> Result<MessageRow, Error> {
        let body = text(content)?;
        if body.len() > limits::MESSAGE_BYTES {
            return Err(Error::new(
                Code::TooLarge,
                format!(
                    "the message takes {} bytes; the limit MESSAGE_BYTES is {}: put larger things into files",
                    body.len(),
                    limits::MESSAGE_BYTES
                ),
            )
            .field("content"));
        }
        let turn = TurnId::new();
        let author = self.0.caller().identity().name.clone();
        let now = self.0.now();
        let row = sqlx::query("select * from session_post($1, $2, $3::text::json, $4, $5, $6, $7)")
            .bind(s.id.uuid())
            .bind(turn.uuid())
            .bind(body)
            .bind(to)
            .bind(&author)
            .bind(i64::from(limits::QUEUED_MESSAGES))
            .bind(now.to_utc())
            .fetch_one(self.0.tx()?)
            .await
            .or_domain()?;
        match row.try_get::<&str, _>("outcome").or_domain()? {
            "posted" => {}
            "error" => return Err(refused(s, "busy", "restore it before you send it a message")),
            "full" => {
                return Err(Error::new(
                    Code::QuotaExceeded,
                    format!(
                        "{} messages of this session wait, which is the limit QUEUED_MESSAGES; wait for its turns to end",
                        limits::QUEUED_MESSAGES
                    ),
                ));
            }
            _ => return Err(Error::not_found("session", &s.name)),
        }
        let seq = row.try_get("seq").or_domain()?;
        if row.try_get("reserve").or_domain()? {
            quota::reserve(self.0.tx()?, s.space, super::create::running(s.resources)).await?;
        }
        let started: bool = row.try_get("started").or_domain()?;
        self.0.wake(Topic::Session(s.id));
        self.0.wake(Topic::SessionLog(s.id));
        if started {
            self.0.wake(Topic::Space(s.space));
        }
        Ok(MessageRow {
            session: s.id,
            seq,
            role: row::Role::User,
            agent: to.map(str::to_owned),
            content: content.clone(),
            turn,
            state: if started { TurnState::Running } else { TurnState::Queued },
            reason: None,
            detail: None,
            usage: None,
            author: Some(author),
            created_at: now,
            started_at: started.then_some(now),
            ended_at: None,
        })
    }

    /// Allows a verb on the messages of a session: names in rules are names of sessions.
    pub async fn permit_messages(
        &mut self,
        session: &wharf_domain::NameOrId<SessionId>,
        verb: Verb,
    ) -> Result<Permit<SessionRow>, Error> {
        let row = self.find(session, verb).await?.map(Messages);
        let permit = self.0.judge(&session.to_string(), row, verb).await?;
        Ok(Permit::grant(permit.into_row().0, verb))
    }

    /// Messages after `after`, oldest first.
    pub async fn messages(
        &mut self,
        permit: &Permit<SessionRow>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<MessageRow>, Error> {
        let rows = sqlx::query(concat!(
            "select ",
            message_columns!(),
            " from (select m.*, sum(octet_length(content::text)) over (order by seq) as so_far from messages m
                    where session_id = $1 and seq > $2 order by seq limit $3) m
              join turns t on t.id = m.turn_id
              where m.so_far <= $4 or m.seq = (select min(seq) from messages where session_id = $1 and seq > $2)
              order by m.seq"
        ))
        .bind(permit.row().id.uuid())
        .bind(after)
        .bind(i64::from(limit.clamp(1, limits::PAGE_MAX)))
        .bind(super::log::PAGE_BYTES)
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        rows.iter().map(row::message).collect::<Result<_, _>>().or_domain()
    }

    pub async fn message(&mut self, permit: &Permit<SessionRow>, seq: i64) -> Result<MessageRow, Error> {
        let row = sqlx::query(concat!(
            "select ",
            message_columns!(),
            " from messages m join turns t on t.id = m.turn_id where m.session_id = $1 and m.seq = $2"
        ))
        .bind(permit.row().id.uuid())
        .bind(seq)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?
        .ok_or_else(|| Error::not_found("message", seq))?;
        row::message(&row).or_domain()
    }

    /// What the agent said in the turn of a user's message, oldest first.
    pub async fn replies(
        &mut self,
        permit: &Permit<SessionRow>,
        turn: TurnId,
    ) -> Result<Vec<MessageRow>, Error> {
        let rows = sqlx::query(concat!(
            "select ",
            message_columns!(),
            " from messages m join turns t on t.id = m.turn_id
              where m.session_id = $1 and m.turn_id = $2 and m.role = 'agent' order by m.seq"
        ))
        .bind(permit.row().id.uuid())
        .bind(turn.uuid())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        rows.iter().map(row::message).collect::<Result<_, _>>().or_domain()
    }
}

/// A session asked for because of its messages.
struct Messages(SessionRow);

impl crate::scope::Row for Messages {
    const KIND: &'static str = "session";
    const RESOURCE: Resource = Resource::Messages;
    fn uuid(&self) -> uuid::Uuid {
        self.0.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.0.name.as_str())
    }
}
