//! Guardrails as the gateway and the operator use them: a space's policies in their order, approvals asked for, looked at and run
//! out, and what was decided in the audit log.

use serde_json::{Value, json};
use uuid::Uuid;
use wharf_domain::guard::{ApprovalState, Phase};
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{ApprovalId, Code, Error, Name, SessionId, SpaceId, Time, limits};
use wharf_ports::Topic;

use super::approvals::{self, Approval};
use super::policies::{Policy, columns, read};
use crate::audit::{Entry, Outcome};
use crate::error::OrDomain as _;
use crate::scope::forbidden;
use crate::system::System;

/// What somebody is asked to allow.
#[derive(Clone, Debug)]
pub struct NewApproval {
    pub session: SessionId,
    pub space: SpaceId,
    /// The same for the same question.
    pub key: String,
    pub phase: Phase,
    pub policy: Name,
    pub rule: usize,
    pub reason: Option<String>,
    pub tool: Option<String>,
    pub summary: String,
    pub subject: Value,
    pub seconds: u32,
}

impl NewApproval {
    /// A key of who asks, and of what: another question is another approval, whatever the asker says.
    pub fn key_of(who: &str, asks: impl IntoIterator<Item: AsRef<[u8]>>) -> String {
        use sha2::{Digest as _, Sha256};
        let mut hash = Sha256::new();
        for part in asks {
            let part = part.as_ref();
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let who: String = who.chars().take(200).collect();
        format!("{who}:{}", hex::encode(hash.finalize()))
    }
}

/// What came of asking.
#[derive(Clone, Debug)]
pub enum Asked {
    /// It stands in the tables, and how.
    Approval(Box<Approval>),
    /// Too many of the session's wait.
    Full,
    /// The session is no more.
    Gone,
}

impl System {
    /// A space's policies, in the order they are asked.
    pub async fn live_policies(&self, space: SpaceId) -> Result<Vec<Policy>, Error> {
        if !self.caller.may(Some(space), Resource::Policies, Verb::List, None) {
            return Err(forbidden(Verb::List, Resource::Policies, None));
        }
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from policies where space_id = $1 order by priority, name"
        ))
        .bind(space.uuid())
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        rows.iter().map(read).collect()
    }

    /// Asks, or finds what was asked before.
    pub async fn ask_approval(&self, new: &NewApproval) -> Result<Asked, Error> {
        if !self.caller.may(Some(new.space), Resource::Approvals, Verb::Create, None) {
            return Err(forbidden(Verb::Create, Resource::Approvals, None));
        }
        let clean = |text: &str| text.replace('\0', "\u{fffd}");
        let subject = new.subject.to_string().replace("\\u0000", "\\ufffd");
        let (outcome, id): (String, Option<Uuid>) = sqlx::query_as(
            "select outcome, approval_id from approval_ask($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::json, $11, $12, $13)",
        )
        .bind(ApprovalId::new().uuid())
        .bind(new.session.uuid())
        .bind(clean(&new.key))
        .bind(new.phase.as_str())
        .bind(new.policy.as_str())
        .bind(new.rule as i32)
        .bind(new.reason.as_deref().map(clean))
        .bind(new.tool.as_deref().map(clean))
        .bind(clean(&new.summary))
        .bind(subject)
        .bind(new.seconds as i32)
        .bind(i64::from(limits::APPROVALS_PENDING))
        .bind(self.store.now().to_utc())
        .fetch_one(self.store.pool())
        .await
        .or_domain()?;
        let Some(id) = id else {
            return Ok(if outcome == "full" { Asked::Full } else { Asked::Gone });
        };
        if outcome == "asked" {
            self.wake_approval(new.session, new.space);
        }
        let found = self.approval(ApprovalId::from_uuid(id)).await?;
        Ok(found.map_or(Asked::Gone, |a| Asked::Approval(Box::new(a))))
    }

    /// An approval as it stands now.
    pub async fn approval(&self, id: ApprovalId) -> Result<Option<Approval>, Error> {
        let row = sqlx::query(concat!(approvals::columns!(), " where a.id = $1"))
            .bind(id.uuid())
            .fetch_optional(self.store.pool())
            .await
            .or_domain()?;
        row.as_ref().map(approvals::read).transpose()
    }

    /// Ends one whose time is over. One that was decided meanwhile stays as it was.
    pub async fn expire_approval(&self, approval: &Approval) -> Result<(), Error> {
        let word: String = sqlx::query_scalar("select approval_settle($1, $2, null, null, $3)")
            .bind(approval.id.uuid())
            .bind(ApprovalState::Expired.as_str())
            .bind(self.store.now().to_utc())
            .fetch_one(self.store.pool())
            .await
            .or_domain()?;
        if word == ApprovalState::Expired.as_str() {
            self.wake_approval(approval.session, approval.space);
            let (session, space) = (approval.session, approval.space);
            let detail = json!({
                "decision": word, "session": session, "policy": approval.policy, "rule": approval.rule,
                "phase": approval.phase, "tool": approval.tool, "summary": approval.summary,
            });
            self.guard_noted(
                space,
                Verb::Approve.as_str(),
                Resource::Approvals,
                &approval.session_name,
                detail,
            )
            .await?;
        }
        Ok(())
    }

    /// Ends those whose time is over, a batch at a time; answers when to look again.
    pub async fn expire_approvals(&self, batch: i64) -> Result<Option<Time>, Error> {
        let now = self.store.now();
        let due = sqlx::query(concat!(
            approvals::columns!(),
            " where a.state = 'pending' and a.expires_at <= $1 order by a.expires_at limit $2"
        ))
        .bind(now.to_utc())
        .bind(batch)
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        for row in &due {
            self.expire_approval(&approvals::read(row)?).await?;
        }
        if due.len() as i64 == batch {
            return Ok(Some(now));
        }
        let next: Option<chrono::DateTime<chrono::Utc>> =
            sqlx::query_scalar("select min(expires_at) from approvals where state = 'pending'")
                .fetch_one(self.store.pool())
                .await
                .or_domain()?;
        Ok(next.map(Into::into))
    }

    fn wake_approval(&self, session: SessionId, space: SpaceId) {
        for topic in [Topic::Session(session), Topic::SessionLog(session), Topic::Space(space)] {
            self.store.wake(topic);
        }
    }

    /// Writes into the audit log what the guardrails did. A flood of denials is braked there, and said so.
    pub async fn guard_noted(
        &self,
        space: SpaceId,
        verb: &str,
        resource: Resource,
        name: &Name,
        detail: Value,
    ) -> Result<(), Error> {
        let space_name: Option<String> = sqlx::query_scalar("select name from spaces where id = $1")
            .bind(space.uuid())
            .fetch_optional(self.store.pool())
            .await
            .or_domain()?;
        let Some(space_name) = space_name else {
            return Err(Error::new(Code::NotFound, "the space is no more"));
        };
        let at = Some((space, space_name.as_str()));
        let name = Some(name.as_str());
        let entry = Entry::of(&self.caller, at, verb, resource.as_str(), None, name, Outcome::Denied, detail);
        self.store.record_denial(entry).await
    }
}
