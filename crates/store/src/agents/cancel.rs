//! The end of a build that somebody does not want any more.

use serde_json::json;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::session::Desired;
use wharf_domain::{Code, Error, NameOrId};
use wharf_ports::Topic;

use super::builds::{Build, BuildState, Builds, build_columns, read};
use crate::error::OrDomain as _;
use crate::events::Event;
use crate::permit::Permit;
use crate::spaces::to_json;

impl Builds<'_> {
    /// Ends a build that is not at its end; one that was cancelled before stays so. Whoever works on it loses it here and its
    /// computer goes, which takes no right on that: it was made for the build.
    pub async fn cancel(&mut self, permit: &Permit<Build>) -> Result<Build, Error> {
        permit.demand(Verb::Update)?;
        let id = permit.id;
        let reason = format!("cancelled by {}", self.0.caller().identity().name);
        let now = self.0.now().to_utc();
        let row = sqlx::query(concat!(
            "with b as (
                update builds set state = 'cancelled', reason = $2, ended_at = $3, lease_until = null,
                    lease_token = lease_token + 1, blob_id = null
                where id = $1 and state in ('queued', 'running') returning *
             ), l as (
                insert into build_log (build_id, n, stream, text, at)
                select b.id, coalesce((select max(n) from build_log l where l.build_id = b.id), 0) + 1, 'wharf', $2 || chr(10), $3
                from b on conflict do nothing
             ) select ",
            build_columns!(),
            " from b join agents a on a.id = b.agent_id"
        ))
        .bind(id.uuid())
        .bind(&reason)
        .bind(now)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let called = Some(permit.agent.as_str());
        let Some(row) = row else {
            if permit.state == BuildState::Cancelled {
                self.0.audit(Verb::Update, Resource::Builds, Some(id.uuid()), called, json!({"again": true}));
                return Ok(permit.row().clone());
            }
            let detail =
                format!("build {id} is at its end ({}): there is nothing to cancel", permit.state.as_str());
            return Err(Error::new(Code::InvalidState, detail));
        };
        let build = read(&row)?;
        self.0.emit(Event::new("cancelled", Resource::Builds, id.uuid(), called, 2, to_json(&build)?));
        let detail = json!({"state": "cancelled", "session": build.session});
        self.0.audit(Verb::Update, Resource::Builds, Some(id.uuid()), called, detail);
        let computer = self.0.sessions().find(&NameOrId::Id(build.session), Verb::Delete).await?;
        if let Some(row) = computer {
            let permit = Permit::grant(row, Verb::Delete);
            self.0.sessions().desire(&permit, Desired::Deleted).await?;
        }
        self.0.wake(Topic::Build(id));
        self.0.wake(Topic::BuildLog(id));
        Ok(build)
    }
}
