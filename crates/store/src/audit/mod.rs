//! Who did what: entries are written by the transaction of the change and never changed afterwards.
//!
//! The application role may only insert and read; a job chains the entries by hash, so that what the owner of the
//! database alters shows (see [`chain`]).

pub(crate) mod chain;
pub(crate) mod list;

use std::sync::Mutex;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use wharf_domain::{SpaceId, Time};

use crate::caller::Caller;

pub use chain::Verdict;
pub use list::{AuditFilter, AuditRecord};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Allowed,
    Denied,
    Failed,
}

/// An entry on its way into the table; the field names are its columns.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    id: Uuid,
    principal_kind: &'static str,
    principal_id: Option<Uuid>,
    principal_name: String,
    impersonator_id: Option<Uuid>,
    impersonator_name: Option<String>,
    verb: String,
    resource: String,
    resource_id: Option<Uuid>,
    resource_name: Option<String>,
    pub(crate) space_id: Option<Uuid>,
    space_name: Option<String>,
    outcome: Outcome,
    address: Option<String>,
    request_id: Uuid,
    detail: Value,
}

impl Entry {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn of(
        caller: &Caller,
        space: Option<(SpaceId, &str)>,
        verb: &str,
        resource: &str,
        id: Option<Uuid>,
        name: Option<&str>,
        outcome: Outcome,
        detail: Value,
    ) -> Self {
        Self {
            id: Uuid::now_v7(),
            principal_kind: caller.identity.kind.as_str(),
            principal_id: Some(caller.identity.id.uuid()).filter(|id| !id.is_nil()),
            principal_name: caller.identity.name.clone(),
            impersonator_id: caller.impersonator.as_ref().map(|i| i.id.uuid()),
            impersonator_name: caller.impersonator.as_ref().map(|i| i.name.clone()),
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            resource_id: id,
            resource_name: name.map(str::to_owned),
            space_id: space.map(|(id, _)| id.uuid()),
            space_name: space.map(|(_, name)| name.to_owned()),
            outcome,
            address: caller.meta.address.map(|a| a.to_string()),
            request_id: caller.meta.request_id.uuid(),
            detail,
        }
    }

    pub(crate) fn note(&mut self, key: &str, value: Value) {
        if let Value::Object(map) = &mut self.detail {
            map.insert(key.to_owned(), value);
        }
    }
}

/// Bounds what a flood of denied calls can write: a burst, then a steady rate.
pub(crate) struct DenialBrake(Mutex<(f64, Time)>);

impl DenialBrake {
    const BURST: f64 = 1000.0;
    const PER_SECOND: f64 = 10.0;

    pub(crate) fn new(now: Time) -> Self {
        Self(Mutex::new((Self::BURST, now)))
    }

    pub(crate) fn admit(&self, now: Time) -> bool {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (tokens, last) = *state;
        let tokens = (tokens + now.since(last).as_secs_f64() * Self::PER_SECOND).min(Self::BURST);
        let admitted = tokens >= 1.0;
        *state = (if admitted { tokens - 1.0 } else { tokens }, now);
        admitted
    }
}
