//! Sessions: rows, messages, turns, the log, snapshots and images.
//!
//! What users may do hangs on a [`Scope`] ([`Sessions`], [`Snapshots`], [`Images`]); what the operator
//! does hangs on a lease ([`work::Work`]). A state is changed by one function in the database (`session_move`) and
//! by nothing else; what comes with a change (log, outbox, quota) is written in the same transaction.

mod change;
mod create;
mod desire;
mod images;
mod lineage;
mod log;
mod messages;
mod parts;
pub(crate) mod row;
mod snapshots;
mod uses;
mod wait;
pub mod work;

pub use change::SessionPatch;
pub use create::{Include, NewFork, NewSession, Source};
pub use desire::Ended;
pub use images::Images;
pub use lineage::{Lineage, LineageNode};
pub use log::LogPage;
pub use row::{
    Computer, Env, ImageRow, LogRow, MessageRow, Parent, Role, SessionRow, SnapshotRow, SnapshotState,
};
pub use snapshots::{NewSnapshot, SnapshotPatch, Snapshots};
pub use uses::{Use, Uses};

use sqlx::Row as _;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::session::State;
use wharf_domain::{Code, Error, Name, NameOrId, SessionId};

use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit};
use crate::scope::Scope;
use row::session_columns;

/// Sessions of the scope's space.
pub struct Sessions<'s>(pub(super) &'s mut Scope);

/// What a list of sessions is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    pub state: Option<State>,
    /// The agent's kind.
    pub agent: Option<String>,
}

/// Messages for this module's constraints; see [`crate::error`].
pub(crate) fn constraint(name: &str) -> Option<(Code, &'static str, &'static str)> {
    Some(match name {
        "sessions_name" => (
            Code::AlreadyExists,
            "name",
            "there is already a session of that name in the space; choose another",
        ),
        "snapshots_name" => {
            (Code::AlreadyExists, "name", "the session already has a snapshot of that name; choose another")
        }
        "sessions_space" => (
            Code::InUse,
            "space",
            "the space still holds sessions, or computers of deleted ones are being freed; delete them and try again",
        ),
        "snapshots_space" => (
            Code::InUse,
            "space",
            "the space still holds snapshots, or deleted ones are being freed; delete them and try again",
        ),
        _ => return None,
    })
}

impl Scope {
    pub fn sessions(&mut self) -> Sessions<'_> {
        Sessions(self)
    }
}

impl Sessions<'_> {
    /// Allows a verb on one session. Verbs that change something hold the row until the scope ends.
    ///
    /// With [`Verb::Delete`] and an id, a session that is deleted already is found too: deleting twice succeeds.
    pub async fn permit(
        &mut self,
        session: &NameOrId<SessionId>,
        verb: Verb,
    ) -> Result<Permit<SessionRow>, Error> {
        let row = self.find(session, verb).await?;
        self.0.judge(&session.to_string(), row, verb).await
    }

    pub(crate) async fn find(
        &mut self,
        session: &NameOrId<SessionId>,
        verb: Verb,
    ) -> Result<Option<SessionRow>, Error> {
        let space = self.0.space()?.id.uuid();
        let (id, name) = match session {
            NameOrId::Id(id) => (Some(id.uuid()), None),
            NameOrId::Name(name) => (None, Some(name.as_str())),
        };
        let sql = if holds_the_row(verb) {
            concat!(
                "select ",
                session_columns!(),
                " from sessions s where s.space_id = $1 and (s.id = $2 or (s.name = $3 and s.deleted_at is null)) \
                  and (s.deleted_at is null or $4) for update"
            )
        } else {
            concat!(
                "select ",
                session_columns!(),
                " from sessions s where s.space_id = $1 and (s.id = $2 or (s.name = $3 and s.deleted_at is null)) \
                  and (s.deleted_at is null or $4)"
            )
        };
        let row = sqlx::query(sql)
            .bind(space)
            .bind(id)
            .bind(name)
            .bind(verb == Verb::Delete && id.is_some())
            .fetch_optional(self.0.tx()?)
            .await
            .or_domain()?;
        row.as_ref().map(row::session).transpose().or_domain()
    }

    /// Allows making a session.
    pub async fn allow(&mut self, name: Option<&Name>) -> Result<Permit<New<SessionRow>>, Error> {
        self.0.allow_new::<SessionRow>(name.map(Name::as_str)).await
    }

    pub async fn list(
        &mut self,
        filter: &SessionFilter,
        page: &PageRequest,
    ) -> Result<Page<SessionRow>, Error> {
        let seen = self.0.listing(Resource::Sessions, Verb::List).await?;
        let space = self.0.space()?.id.uuid();
        let rows = sqlx::query(concat!(
            "select ",
            session_columns!(),
            " from sessions s where s.space_id = $1 and s.deleted_at is null and s.id > $2 \
              and ($3::text is null or s.state = $3) and ($4::text is null or s.agent->>'kind' = $4) \
              and s.labels @> $5 and s.labels ?& $6 and ($7::text[] is null or s.name = any($7)) \
              order by s.id limit $8"
        ))
        .bind(space)
        .bind(page.after())
        .bind(filter.state.map(State::as_str))
        .bind(filter.agent.as_deref())
        .bind(page.label_pairs())
        .bind(page.label_keys())
        .bind(seen.names())
        .bind(page.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(row::session).collect::<Result<Vec<_>, _>>().or_domain()?;
        Ok(page.page(rows, |s| s.id.uuid()))
    }

    /// The row as it is now, locked until the scope ends.
    pub(super) async fn lock(&mut self, id: SessionId) -> Result<SessionRow, Error> {
        let row = sqlx::query(concat!(
            "select ",
            session_columns!(),
            " from sessions s where s.id = $1 for update"
        ))
        .bind(id.uuid())
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?
        .ok_or_else(|| Error::not_found("session", id))?;
        row::session(&row).or_domain()
    }

    /// Whether the row holds its share of the running quotas.
    pub(super) async fn reserved(&mut self, id: SessionId) -> Result<bool, Error> {
        let row = sqlx::query("select running_reserved from sessions where id = $1")
            .bind(id.uuid())
            .fetch_one(self.0.tx()?)
            .await
            .or_domain()?;
        row.try_get("running_reserved").or_domain()
    }

    /// Event and audit entry of a change of a session.
    pub(super) fn note(&mut self, kind: &str, verb: Verb, s: &SessionRow, detail: serde_json::Value) {
        let name = Some(s.name.as_str());
        let data = serde_json::json!({
            "state": s.state, "desired": s.desired, "labels": s.labels, "reason": s.state_reason,
        });
        self.0.emit(
            Event::new(kind, Resource::Sessions, s.id.uuid(), name, s.resource_version, data)
                .in_space(s.space),
        );
        self.0.audit(verb, Resource::Sessions, Some(s.id.uuid()), name, detail);
        self.0.wake(wharf_ports::Topic::Session(s.id));
        self.0.wake(wharf_ports::Topic::SessionLog(s.id));
    }
}

/// Whether a permit for the verb locks the session until its scope ends.
fn holds_the_row(verb: Verb) -> bool {
    !matches!(verb, Verb::Get | Verb::List | Verb::Watch | Verb::Exec)
}

/// The error of a refused transition.
pub(super) fn refused(s: &SessionRow, to: &str, advice: &str) -> Error {
    Error::new(
        Code::InvalidState,
        format!("session {} is {} and cannot become {to}; {advice}", s.name, s.state.as_str()),
    )
}
