//! What a session's computer uses.

use axum::extract::State;
use wharf_domain::rbac::Verb;
use wharf_wire::api;

use super::fault::from_fault;
use crate::app::App;
use crate::extract::{At, Auth, Json, SessionPath};
use crate::problem::Problem;

/// Get what a session's computer uses
///
/// As the kernel counts it. Of a session that is closed only the disk is counted.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/stats", tag = "sessions",
    responses((status = 200, body = api::SessionStats)))]
pub(crate) async fn get_stats(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
) -> Result<Json<api::SessionStats>, Problem> {
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit(&at.session, Verb::Get).await?;
    // Not while a transaction is open: the runtime may take its time.
    drop(scope);
    let row = permit.row();
    let stats = if row.volume_made {
        let runtime = app.runtimes.get(&row.runtime).map_err(from_fault)?;
        runtime.stats(row.id, row.volume).await.map_err(from_fault)?
    } else {
        wharf_ports::runtime::Stats::default()
    };
    let mib = |n: u32| u64::from(n) * 1024 * 1024;
    let or = |n: u64, limit: u64| if n == 0 { limit } else { n };
    Ok(Json(api::SessionStats {
        state: row.state,
        cpu_usage_micros: stats.cpu_usage_micros,
        memory_bytes: stats.memory_bytes,
        memory_peak_bytes: stats.memory_peak_bytes,
        memory_limit_bytes: or(stats.memory_limit_bytes, mib(row.resources.memory_mib)),
        oom_kills: stats.oom_kills,
        pids: stats.pids,
        disk_bytes: stats.disk_bytes,
        disk_limit_bytes: or(stats.disk_limit_bytes, mib(row.resources.disk_mib)),
    }))
}
