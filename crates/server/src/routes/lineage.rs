//! Where a session came from and what came of it.

use axum::extract::State;
use wharf_domain::rbac::Verb;
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::extract::{At, Auth, Json, SessionPath};
use crate::problem::Problem;

/// Get a session's ancestors and descendants
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/lineage", tag = "sessions",
    responses((status = 200, body = api::Lineage)))]
pub(crate) async fn get_lineage(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
) -> Result<Json<api::Lineage>, Problem> {
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Get).await?;
    let line = scope.sessions().lineage(&permit).await?;
    Ok(Json(api::Lineage {
        session: view::lineage_node(line.session),
        ancestors: line.ancestors.into_iter().map(view::lineage_node).collect(),
        descendants: line.descendants.into_iter().map(view::lineage_node).collect(),
    }))
}
