//! Approvals as people see and decide them. Names in rules are names of sessions.
//!
//! Decided once, by somebody with the verb `approve` who is not the agent's own hand: a service account that made the session or
//! wrote the message whose turn waits cannot approve what the agent asks for.

use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::guard::{ApprovalState, Phase};
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{ApprovalId, Code, Error, Name, NameOrId, SessionId, SpaceId, Time, TurnId};
use wharf_ports::Topic;

use crate::audit::Outcome;
use crate::caller::PrincipalKind;
use crate::error::OrDomain as _;
use crate::page::{Page, PageRequest};
use crate::permit::Permit;
use crate::scope::{Row, Scope};
use crate::spaces::{name, time, time_opt};

/// Something that waits, or waited, for a yes.
#[derive(Clone, Debug)]
pub struct Approval {
    pub id: ApprovalId,
    pub space: SpaceId,
    pub session: SessionId,
    pub session_name: Name,
    pub turn: Option<TurnId>,
    pub phase: Phase,
    pub state: ApprovalState,
    pub policy: Name,
    pub rule: u32,
    /// The rule's.
    pub reason: Option<String>,
    pub tool: Option<String>,
    /// In one line.
    pub summary: String,
    /// As much of it as is shown.
    pub subject: Value,
    pub requested_at: Time,
    pub expires_at: Time,
    pub decided_at: Option<Time>,
    pub decided_by: Option<String>,
    pub decision_reason: Option<String>,
    pub resource_version: i64,
    /// Who made the session, and who wrote the message whose turn waits.
    hands: [Option<String>; 2],
}

impl Row for Approval {
    const KIND: &'static str = "approval";
    const RESOURCE: Resource = Resource::Approvals;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.session_name.as_str())
    }
}

/// Which of a list.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApprovalFilter {
    pub state: Option<ApprovalState>,
    pub session: Option<SessionId>,
}

macro_rules! columns {
    () => {
        "select a.*, s.name as session_name, s.created_by, m.author
         from approvals a join sessions s on s.id = a.session_id
              left join turns t on t.id = a.turn_id
              left join messages m on m.session_id = t.session_id and m.seq = t.seq"
    };
}
pub(super) use columns;

pub struct Approvals<'s>(&'s mut Scope);

impl Scope {
    pub fn approvals(&mut self) -> Approvals<'_> {
        Approvals(self)
    }
}

impl Approvals<'_> {
    /// One of a session's. It is decided under the lock of the session's row, so it is not held here.
    pub async fn permit(
        &mut self,
        session: &NameOrId<SessionId>,
        id: ApprovalId,
        verb: Verb,
    ) -> Result<Permit<Approval>, Error> {
        let space = self.0.space()?.id;
        let row = sqlx::query(concat!(columns!(), " where a.id = $1 and a.space_id = $2"))
            .bind(id.uuid())
            .bind(space.uuid())
            .fetch_optional(self.0.tx()?)
            .await
            .or_domain()?;
        let row = row.as_ref().map(read).transpose()?.filter(|a| match session {
            NameOrId::Id(id) => a.session == *id,
            NameOrId::Name(name) => a.session_name == *name,
        });
        let asked = match &row {
            Some(_) => id.to_string(),
            // A right narrowed to names of sessions is asked with one.
            None => session.to_string(),
        };
        self.0.judge(&asked, row, verb).await.map_err(|e| match e.code {
            Code::NotFound => Error::not_found("approval", id),
            _ => e,
        })
    }

    /// A session whose approvals may be listed.
    pub async fn permit_session(&mut self, session: &NameOrId<SessionId>) -> Result<SessionId, Error> {
        let permit = self.0.sessions().permit_approvals(session, Verb::List).await?;
        Ok(permit.id)
    }

    /// Oldest first.
    pub async fn list(
        &mut self,
        filter: ApprovalFilter,
        page: &PageRequest,
    ) -> Result<Page<Approval>, Error> {
        let space = self.0.space()?.id;
        let visible = self.0.listing(Resource::Approvals, Verb::List).await?;
        let rows = sqlx::query(concat!(
            columns!(),
            " where a.space_id = $1 and a.id > $2 and ($3::text[] is null or s.name = any($3))
                and ($4::text is null or a.state = $4) and ($5::uuid is null or a.session_id = $5) and s.deleted_at is null
              order by a.id limit $6"
        ))
        .bind(space.uuid())
        .bind(page.after())
        .bind(visible.names())
        .bind(filter.state.map(ApprovalState::as_str))
        .bind(filter.session.map(SessionId::uuid))
        .bind(page.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(page.page(rows, |a| a.id.uuid()))
    }

    /// Says yes or no, once.
    pub async fn decide(
        &mut self,
        permit: &Permit<Approval>,
        allow: bool,
        reason: Option<&str>,
    ) -> Result<Approval, Error> {
        permit.demand(Verb::Approve)?;
        self.refuse_own_hand(permit).await?;
        let caller = self.0.caller();
        let by = match caller.impersonator() {
            Some(other) => format!("{} (as {})", other.name, caller.identity().name),
            None => caller.identity().name.clone(),
        };
        let state = if allow { ApprovalState::Allowed } else { ApprovalState::Denied };
        let now = self.0.now();
        let word: String = sqlx::query_scalar("select approval_settle($1, $2, $3, $4, $5)")
            .bind(permit.id.uuid())
            .bind(state.as_str())
            .bind(&by)
            .bind(reason)
            .bind(now.to_utc())
            .fetch_one(self.0.tx()?)
            .await
            .or_domain()?;
        let row = sqlx::query(concat!(columns!(), " where a.id = $1"))
            .bind(permit.id.uuid())
            .fetch_optional(self.0.tx()?)
            .await
            .or_domain()?
            .ok_or_else(|| Error::not_found("approval", permit.id))?;
        let approval = read(&row)?;
        if word == "settled" {
            return Err(Error::new(Code::InvalidState, settled(&approval)));
        }
        let (session, name) = (approval.session_name.as_str(), approval.state.as_str());
        let outcome = if approval.state == state { Outcome::Allowed } else { Outcome::Failed };
        let detail = json!({
            "decision": name, "reason": reason, "session": approval.session, "policy": approval.policy,
            "rule": approval.rule, "phase": approval.phase, "tool": approval.tool, "summary": approval.summary,
        });
        let id = Some(approval.id.uuid());
        self.0.audit_as(
            Verb::Approve.as_str(),
            Resource::Approvals.as_str(),
            id,
            Some(session),
            outcome,
            detail,
        );
        self.0.wake(Topic::Session(approval.session));
        self.0.wake(Topic::SessionLog(approval.session));
        self.0.wake(Topic::Space(approval.space));
        Ok(approval)
    }

    async fn refuse_own_hand(&mut self, approval: &Approval) -> Result<(), Error> {
        let caller = self.0.caller();
        let own = [Some(caller.identity()), caller.impersonator()].into_iter().flatten().any(|who| {
            who.kind == PrincipalKind::ServiceAccount
                && approval.hands.iter().flatten().any(|hand| *hand == who.name)
        });
        if !own {
            return Ok(());
        }
        let name = Some(approval.session_name.as_str());
        let id = Some(approval.id.uuid());
        let denied = self.0.denied(Resource::Approvals, Verb::Approve, id, name, None).await;
        Err(denied.unwrap_or_else(|| {
            Error::new(
                Code::Forbidden,
                "what a service account had an agent do it cannot approve itself; somebody else with the verb approve decides",
            )
        }))
    }
}

/// For who comes too late.
pub fn settled(a: &Approval) -> String {
    let at = a.decided_at.map(|t| format!(" at {t}")).unwrap_or_default();
    let by = a.decided_by.as_deref().map(|b| format!(" by {b}")).unwrap_or_default();
    match a.state {
        ApprovalState::Expired => format!("the approval ran out{at}, before anybody had decided"),
        ApprovalState::Cancelled => format!("the approval is not wanted any more: its turn ended{at}"),
        state => format!("the approval was {}{by}{at}; a decision is made once", state.as_str()),
    }
}

pub(super) fn read(row: &PgRow) -> Result<Approval, Error> {
    Ok(Approval {
        id: ApprovalId::from_uuid(row.try_get("id").or_domain()?),
        space: SpaceId::from_uuid(row.try_get("space_id").or_domain()?),
        session: SessionId::from_uuid(row.try_get("session_id").or_domain()?),
        session_name: name(row, "session_name")?,
        turn: row.try_get::<Option<Uuid>, _>("turn_id").or_domain()?.map(TurnId::from_uuid),
        phase: row.try_get::<&str, _>("phase").or_domain()?.parse().map_err(Error::internal)?,
        state: row.try_get::<&str, _>("state").or_domain()?.parse().map_err(Error::internal)?,
        policy: name(row, "policy")?,
        rule: row.try_get::<i32, _>("rule").or_domain()?.max(0) as u32,
        reason: row.try_get("reason").or_domain()?,
        tool: row.try_get("tool").or_domain()?,
        summary: row.try_get("summary").or_domain()?,
        subject: row.try_get("subject").or_domain()?,
        requested_at: time(row, "requested_at")?,
        expires_at: time(row, "expires_at")?,
        decided_at: time_opt(row, "decided_at")?,
        decided_by: row.try_get("decided_by").or_domain()?,
        decision_reason: row.try_get("decision_reason").or_domain()?,
        resource_version: row.try_get("resource_version").or_domain()?,
        hands: [row.try_get("created_by").or_domain()?, row.try_get("author").or_domain()?],
    })
}
