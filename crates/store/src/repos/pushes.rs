//! Letting a push in: its bytes are reserved and what it wants is written down before a ref moves, so that whoever comes
//! after a crash knows what to look for.

use serde_json::json;
use wharf_domain::rbac::Verb;
use wharf_domain::repo::RefUpdate;
use wharf_domain::{Code, Error, PrincipalId, PushId, TokenId};

use super::{Pusher, Repo, Repos};
use crate::audit::Outcome;
use crate::error::OrDomain as _;
use crate::permit::Permit;
use crate::quota::Delta;
use crate::spaces::to_json;

/// Refs that an audit entry names; the rest it counts.
const NAMED: usize = 100;

pub struct NewPush {
    pub id: PushId,
    pub updates: Vec<RefUpdate>,
    /// What came with it, still apart from the repository.
    pub bytes: u64,
    pub rewinds: bool,
    /// The installation's limit, for a repository without one of its own.
    pub max_bytes: u64,
}

fn of_refs(updates: &[RefUpdate]) -> serde_json::Value {
    json!({"refs": updates.iter().take(NAMED).collect::<Vec<_>>(), "count": updates.len()})
}

fn mib(bytes: u64) -> String {
    format!("{bytes} bytes ({:.1} MiB)", bytes as f64 / 1_048_576.0)
}

impl Repos<'_> {
    /// Reserves and writes down, or answers `quota_exceeded` with the quota's name, its limit and its use.
    pub async fn admit(&mut self, permit: &Permit<Repo>, push: &NewPush) -> Result<(), Error> {
        permit.demand(Verb::Update)?;
        let most = permit.max_bytes.unwrap_or(push.max_bytes);
        let after = permit.size_bytes.saturating_add(push.bytes);
        // What frees something is let in however full it is.
        if push.bytes > 0 && after > most {
            let advice = if permit.max_bytes.is_some() {
                "its max_bytes"
            } else {
                "its max_bytes (now the installation's git.max_repo_bytes)"
            };
            return Err(Error::new(
                Code::QuotaExceeded,
                format!(
                    "repository {} may hold {}: {} are in it and this push brings {}; push less, delete branches, or raise {advice}",
                    permit.name,
                    mib(most),
                    mib(permit.size_bytes),
                    mib(push.bytes),
                ),
            )
            .field("max_bytes"));
        }
        self.0.reserve(Delta { git_bytes: push.bytes as i64, ..Delta::default() }).await?;
        let by = self.0.caller().identity().name.clone();
        let pusher = Pusher::of(self.0.caller());
        sqlx::query(
            "with r as (update repos set bytes = bytes + $2 where id = $1)
             insert into repo_pushes (id, repo_id, updates, rewinds, pushed_by, created_at, principal, token, impersonator)
             values ($3, $1, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(permit.id.uuid())
        .bind(push.bytes as i64)
        .bind(push.id.uuid())
        .bind(to_json(&push.updates)?)
        .bind(push.rewinds)
        .bind(by)
        .bind(self.0.now().to_utc())
        .bind(pusher.principal.uuid())
        .bind(pusher.token.map(TokenId::uuid))
        .bind(pusher.impersonator.map(PrincipalId::uuid))
        .execute(self.0.tx()?)
        .await
        .or_domain()?;
        let mut detail = of_refs(&push.updates);
        detail["bytes"] = json!(push.bytes);
        let (id, name) = (permit.id.uuid(), permit.name.to_string());
        self.0.audit_as("push", "repos", Some(id), Some(&name), Outcome::Allowed, detail);
        Ok(())
    }

    /// Bytes that a push may bring, as it looks now.
    pub async fn room_left(&mut self, permit: &Permit<Repo>, max_bytes: u64) -> Result<u64, Error> {
        let own = permit.max_bytes.unwrap_or(max_bytes).saturating_sub(permit.size_bytes);
        let space = self.0.space()?;
        let (id, Some(most)) = (space.id, space.quotas.git_bytes) else { return Ok(own) };
        let used: i64 = sqlx::query_scalar("select git_bytes from space_usage where space_id = $1")
            .bind(id.uuid())
            .fetch_one(self.0.tx()?)
            .await
            .or_domain()?;
        Ok(own.min(most.saturating_sub(used as u64)))
    }

    /// Notes a push that was not let in, and why.
    pub fn refused(&mut self, permit: &Permit<Repo>, updates: &[RefUpdate], why: &str) {
        let mut detail = of_refs(updates);
        detail["reason"] = json!(why);
        let (id, name) = (permit.id.uuid(), permit.name.to_string());
        self.0.audit_as("push", "repos", Some(id), Some(&name), Outcome::Denied, detail);
    }
}
