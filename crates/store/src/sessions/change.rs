//! Changes to a session that are no transition: name, limits, timeouts, labels, metadata, instructions.

use serde_json::{Map, Value, json};
use sqlx::types::Json;
use wharf_domain::egress::Policy;
use wharf_domain::quota::Resources;
use wharf_domain::rbac::Verb;
use wharf_domain::{Error, Labels, Name};

use super::Sessions;
use super::create::{check_metadata, check_text, running, text};
use super::row::{self, SessionRow, session_columns};
use crate::error::OrDomain as _;
use crate::permit::Permit;
use crate::quota::{self, Delta};

/// What a patch sets, merged by the server; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct SessionPatch {
    pub name: Option<Name>,
    /// A running session's computer gets them at once.
    pub resources: Option<Resources>,
    /// What it may reach.
    pub network: Option<Policy>,
    pub instructions: Option<Option<String>>,
    pub idle_timeout_seconds: Option<u32>,
    pub turn_timeout_seconds: Option<u32>,
    pub labels: Option<Labels>,
    pub metadata: Option<Map<String, Value>>,
}

impl Sessions<'_> {
    /// Needs a permit with [`Verb::Update`]. New limits are reserved here and applied by the reconciler.
    pub async fn update(
        &mut self,
        permit: &Permit<SessionRow>,
        patch: SessionPatch,
    ) -> Result<SessionRow, Error> {
        let was = self.lock(permit.row().id).await?;
        if let Some(r) = &patch.resources {
            r.validate()?;
            self.reserve_change(&was, *r).await?;
        }
        if let Some(network) = &patch.network {
            network.check()?;
        }
        check_text("instructions", patch.instructions.as_ref().and_then(|i| i.as_deref()))?;
        if let Some(m) = &patch.metadata {
            check_metadata(m)?;
        }
        let r = patch.resources.unwrap_or(was.resources);
        let found = sqlx::query(concat!(
            "with s as (
                update sessions set name = coalesce($2, name), cpu_millis = $3, memory_mib = $4, disk_mib = $5, pids = $6,
                    instructions = case when $7 then $8 else instructions end,
                    idle_timeout_seconds = coalesce($9, idle_timeout_seconds),
                    turn_timeout_seconds = coalesce($10, turn_timeout_seconds),
                    labels = coalesce($11, labels), metadata = coalesce($12::text::json, metadata),
                    network = coalesce($14::text::json, network),
                    resource_version = resource_version + 1, updated_at = $13
                where id = $1 returning *
             ) select ",
            session_columns!(),
            " from s"
        ))
        .bind(was.id.uuid())
        .bind(patch.name.as_ref().map(Name::as_str))
        .bind(r.cpu_millis as i32)
        .bind(r.memory_mib as i32)
        .bind(r.disk_mib as i32)
        .bind(r.pids as i32)
        .bind(patch.instructions.is_some())
        .bind(patch.instructions.flatten())
        .bind(patch.idle_timeout_seconds.map(|s| s as i32))
        .bind(patch.turn_timeout_seconds.map(|s| s as i32))
        .bind(patch.labels.map(Json))
        .bind(patch.metadata.as_ref().map(text).transpose()?)
        .bind(self.0.now().to_utc())
        .bind(patch.network.as_ref().map(text).transpose()?)
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let session = row::session(&found).or_domain()?;
        let mut detail = json!({});
        if was.name != session.name {
            detail["name_was"] = json!(was.name);
        }
        if was.resources != session.resources {
            detail["resources"] = json!(session.resources);
        }
        if was.network != session.network {
            detail["network"] = session.network.clone();
        }
        self.note("updated", Verb::Update, &session, detail);
        Ok(session)
    }

    async fn reserve_change(&mut self, was: &SessionRow, now: Resources) -> Result<(), Error> {
        let mut delta = Delta {
            disk_mib: i64::from(now.disk_mib) - i64::from(was.resources.disk_mib),
            ..Delta::default()
        };
        if self.reserved(was.id).await? {
            let (a, b) = (running(was.resources), running(now));
            delta.cpu_millis = b.cpu_millis - a.cpu_millis;
            delta.memory_mib = b.memory_mib - a.memory_mib;
        }
        quota::reserve(self.0.tx()?, was.space, delta).await
    }
}
