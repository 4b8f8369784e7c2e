//! Approvals: what agents want to do that waits for somebody's yes.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use wharf_domain::guard::ApprovalState;
use wharf_domain::rbac::Verb;
use wharf_domain::{ApprovalId, Error};
use wharf_store::{Approval, ApprovalFilter, PageRequest};
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, Json, Keyed, Params, Query, SessionPath, SpacePath, bounded};
use crate::problem::Problem;

pub(crate) struct ApprovalPath {
    at: SessionPath,
    approval: ApprovalId,
}

impl FromPath for ApprovalPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SessionPath::from_path(p)?, approval: p.id("approval", "approval")? })
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApprovalQuery {
    /// Approvals of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 200)]
    cursor: Option<String>,
    /// Only those that stand so.
    state: Option<ApprovalState>,
}

impl ApprovalQuery {
    fn page(&self) -> Result<PageRequest, Error> {
        PageRequest::new(self.limit, self.cursor.as_deref(), None)
    }
}

fn show(a: Approval) -> api::Approval {
    api::Approval {
        id: a.id,
        session: a.session,
        session_name: a.session_name,
        turn: a.turn,
        phase: a.phase,
        state: a.state,
        policy: a.policy,
        rule: a.rule,
        reason: a.reason,
        tool: a.tool,
        summary: a.summary,
        subject: a.subject,
        requested_at: a.requested_at,
        expires_at: a.expires_at,
        decided_at: a.decided_at,
        decided_by: a.decided_by,
        decision_reason: a.decision_reason,
        resource_version: a.resource_version,
    }
}

/// List approvals of a space
///
/// Oldest first. What changes comes as events of the resource `approvals`, in the space's events and in the session's.
#[utoipa::path(get, path = "/v1/spaces/{space}/approvals", tag = "guardrails", params(ApprovalQuery),
    responses((status = 200, body = api::Page<api::Approval>)))]
pub(crate) async fn list_space_approvals(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<ApprovalQuery>,
) -> Result<Json<api::Page<api::Approval>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let filter = ApprovalFilter { state: query.state, session: None };
    Ok(Json(view::page(scope.approvals().list(filter, &page).await?, show)))
}

/// List approvals of a session
///
/// Oldest first.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/approvals", tag = "guardrails",
    params(ApprovalQuery), responses((status = 200, body = api::Page<api::Approval>)))]
pub(crate) async fn list_approvals(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<ApprovalQuery>,
) -> Result<Json<api::Page<api::Approval>>, Problem> {
    let page = query.page()?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let session = scope.approvals().permit_session(&at.session).await?;
    let filter = ApprovalFilter { state: query.state, session: Some(session) };
    Ok(Json(view::page(scope.approvals().list(filter, &page).await?, show)))
}

/// Get an approval
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/approvals/{approval}", tag = "guardrails",
    responses((status = 200, body = api::Approval)))]
pub(crate) async fn get_approval(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ApprovalPath>,
) -> Result<Json<api::Approval>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.approvals().permit(&at.at.session, at.approval, Verb::Get).await?;
    Ok(Json(show(permit.into_row())))
}

/// Allow or deny
///
/// Decided once: a second decision is refused with who decided before. A service account that made the session, or wrote the message
/// whose turn waits, cannot approve what the agent does for it. What ran out meanwhile comes back as `expired`.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/approvals/{approval}", tag = "guardrails",
    request_body = api::Decide, responses((status = 200, body = api::Approval)))]
pub(crate) async fn decide_approval(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ApprovalPath>,
    Keyed { key, body }: Keyed<api::Decide>,
) -> Result<Json<api::Approval>, Halt> {
    bounded("reason", body.reason.as_deref(), 1000)?;
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.approvals().permit(&at.at.session, at.approval, Verb::Approve).await?;
    let approval = show(scope.approvals().decide(&permit, body.allow, body.reason.as_deref()).await?);
    scope.commit_reply(200, &approval).await?;
    Ok(Json(approval))
}
