//! The audit log.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use wharf_domain::{Code, Error, NameOrId, RequestId, SpaceId, Time};
use wharf_store::audit::{AuditFilter, AuditRecord};
use wharf_wire::api;

use crate::app::App;
use crate::extract::{Auth, Flag, Json, OptionalJson, Query, bounded};
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Entries of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 200)]
    cursor: Option<String>,
    /// Only entries of this principal, acting or impersonating: its name.
    #[param(max_length = 63)]
    principal: Option<String>,
    /// Only this verb.
    #[param(max_length = 63)]
    verb: Option<String>,
    /// Only this kind of thing.
    #[param(max_length = 63)]
    resource: Option<String>,
    /// Only things of this name.
    #[param(max_length = 255)]
    name: Option<String>,
    /// Only this space, by name or id.
    #[param(value_type = Option<String>, max_length = 63, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    space: Option<String>,
    /// Only this outcome.
    #[param(value_type = Option<api::AuditOutcome>)]
    outcome: Option<api::AuditOutcome>,
    /// Only entries at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Time>,
    /// Only entries before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Time>,
    /// Only entries of this request.
    #[param(value_type = Option<String>, format = Uuid)]
    request_id: Option<RequestId>,
    /// Oldest first.
    #[param(value_type = Option<bool>)]
    ascending: Flag,
}

fn entry(r: AuditRecord) -> api::AuditEntry {
    let principal = |kind: &str, name: &str| {
        if kind == "anonymous" { "anonymous".to_owned() } else { format!("{kind}/{name}") }
    };
    api::AuditEntry {
        id: r.id,
        at: r.at,
        principal: principal(&r.principal_kind, &r.principal),
        impersonator: r.impersonator.map(|name| principal("user", &name)),
        verb: r.verb,
        resource: r.resource,
        name: r.name.or_else(|| r.resource_id.map(|id| id.to_string())),
        space: r.space.or_else(|| r.space_id.map(|id| id.to_string())),
        outcome: match r.outcome.as_str() {
            "allowed" => api::AuditOutcome::Allowed,
            "denied" => api::AuditOutcome::Denied,
            _ => api::AuditOutcome::Failed,
        },
        address: r.address,
        request_id: r.request_id.map(|id| id.to_string()),
        detail: r.detail,
        chain: r.chain,
        hash: r.hash,
    }
}

/// List audit entries
///
/// Newest first, unless `ascending`.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditQuery),
    responses((status = 200, body = api::Page<api::AuditEntry>)))]
pub(crate) async fn list_audit(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    Query(query): Query<AuditQuery>,
) -> Result<Json<api::Page<api::AuditEntry>>, Problem> {
    bounded("principal", query.principal.as_deref(), 63)?;
    bounded("verb", query.verb.as_deref(), 63)?;
    bounded("resource", query.resource.as_deref(), 63)?;
    bounded("name", query.name.as_deref(), 255)?;
    let space = match &query.space {
        None => None,
        Some(text) => {
            let at: NameOrId<SpaceId> = text.parse().map_err(|e: Error| e.field("space"))?;
            let scope = app.store.scope(&caller, &at).await?;
            scope.space_id()
        }
    };
    let outcome = query.outcome.map(|o| match o {
        api::AuditOutcome::Allowed => "allowed",
        api::AuditOutcome::Denied => "denied",
        api::AuditOutcome::Failed => "failed",
    });
    if query.since.zip(query.until).is_some_and(|(since, until)| since > until) {
        return Err(Error::new(Code::InvalidField, "since lies after until").field("since").into());
    }
    let filter = AuditFilter {
        principal: query.principal,
        verb: query.verb,
        resource: query.resource,
        name: query.name,
        space,
        outcome: outcome.map(str::to_owned),
        since: query.since,
        until: query.until,
        request_id: query.request_id.map(RequestId::uuid),
        limit: query.limit,
        cursor: query.cursor,
        ascending: query.ascending.0,
    };
    let page = app.store.global(&caller).await?.audit_list(&filter).await?;
    let items = page.items.into_iter().map(entry).collect();
    Ok(Json(api::Page { items, next_cursor: page.next_cursor }))
}

/// Verify the audit log
///
/// Walks the whole chain: takes as long as the log is long.
#[utoipa::path(post, path = "/v1/audit/verify", tag = "audit", request_body = api::Empty,
    responses((status = 200, body = api::AuditVerification)))]
pub(crate) async fn verify_audit(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    OptionalJson(_): OptionalJson<api::Empty>,
) -> Result<Json<api::AuditVerification>, Problem> {
    let verdict = app.store.global(&caller).await?.verify_audit().await?;
    Ok(Json(api::AuditVerification {
        ok: verdict.ok,
        entries: verdict.checked,
        unchained: verdict.unchained,
        head: verdict.head,
        fault: verdict
            .first_bad
            .map(|b| format!("entry {} (place {}, at {}): {}", b.entry, b.n, b.at, b.reason)),
    }))
}
