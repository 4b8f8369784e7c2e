//! The egress log of a session.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use wharf_domain::Error;
use wharf_domain::rbac::Verb;
use wharf_store::{EgressFilter, EgressRow, PageRequest};
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, Flag, Json, Query, SessionPath, bounded};
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct EgressQuery {
    /// Lines of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 200)]
    cursor: Option<String>,
    /// Only lines of this decision.
    #[param(value_type = Option<api::EgressDecision>)]
    decision: Option<api::EgressDecision>,
    /// Only lines of this host.
    #[param(max_length = 253)]
    host: Option<String>,
    /// Oldest first.
    #[param(value_type = Option<bool>)]
    ascending: Flag,
}

fn line(r: EgressRow) -> Result<api::EgressLine, Error> {
    Ok(api::EgressLine {
        id: r.id,
        kind: match r.kind.as_str() {
            "tunnel" => api::EgressKind::Tunnel,
            "model" => api::EgressKind::Model,
            _ => api::EgressKind::Request,
        },
        host: r.host,
        port: r.port,
        method: r.method,
        status: r.status,
        decision: match r.decision.as_str() {
            "allowed" => api::EgressDecision::Allowed,
            "denied" => api::EgressDecision::Denied,
            _ => api::EgressDecision::Failed,
        },
        reason: r.reason,
        connection: r.connection.map(|c| c.parse()).transpose()?,
        turn: r.turn,
        bytes_sent: r.bytes_sent,
        bytes_received: r.bytes_received,
        started_at: r.started_at,
        duration_ms: r.duration_ms,
    })
}

/// List what left a session
///
/// One line for each tunnel or request that came to the gateway, written when it ended. Newest first, unless `ascending`.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/egress", tag = "sessions", params(EgressQuery),
    responses((status = 200, body = api::Page<api::EgressLine>)))]
pub(crate) async fn list_egress(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<EgressQuery>,
) -> Result<Json<api::Page<api::EgressLine>>, Problem> {
    bounded("host", query.host.as_deref(), 253)?;
    let page = PageRequest::new(query.limit, query.cursor.as_deref(), None)?;
    let filter = EgressFilter {
        decision: query.decision.map(|d| {
            match d {
                api::EgressDecision::Allowed => "allowed",
                api::EgressDecision::Denied => "denied",
                api::EgressDecision::Failed => "failed",
            }
            .to_owned()
        }),
        host: query.host.map(|h| h.to_ascii_lowercase()),
        ascending: query.ascending.0,
    };
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit_egress(&at.session, Verb::List).await?;
    let lines = scope.egress(&permit, &filter, &page).await?;
    Ok(Json(view::try_page(lines, line)?))
}
