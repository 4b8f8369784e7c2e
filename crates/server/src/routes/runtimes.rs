//! Where sessions run, and what of a session is kept there: an installation says what it does without.

use std::time::Duration;

use axum::extract::State;
use wharf_ports::runtime::Capabilities;
use wharf_wire::api;

use crate::app::App;
use crate::extract::{Auth, Json};

/// One that is up answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

fn promises(can: Capabilities) -> api::Promises {
    let waived = [
        ("disk_limit", !can.disk_limit && can.waives_disk_limit),
        ("root_is_nobody", !can.root_is_nobody && can.waives_user_namespaces),
    ];
    api::Promises {
        cpu_limit: can.cpu_limit,
        memory_limit: can.memory_limit,
        pids_limit: can.pids_limit,
        disk_limit: can.disk_limit,
        root_is_nobody: can.root_is_nobody,
        waived: waived.into_iter().filter(|(_, is)| *is).map(|(name, _)| name.to_owned()).collect(),
    }
}

/// List the runtimes
///
/// Where sessions run on this installation, and what of a session is kept there: which limits bite, and whether root inside is
/// nobody outside.
#[utoipa::path(get, path = "/v1/runtimes", tag = "server", responses((status = 200, body = api::Runtimes)))]
pub(crate) async fn list_runtimes(State(app): State<App>, _: Auth) -> Json<api::Runtimes> {
    let mut items = Vec::new();
    for runtime in app.runtimes.all() {
        let name = runtime.name();
        let said = tokio::time::timeout(PATIENCE, app.runtimes.capabilities(name)).await;
        let (kept, away) = match said {
            Ok(Ok(can)) => (Some(promises(can)), None),
            Ok(Err(fault)) => (None, Some(fault.to_string())),
            Err(_) => (None, Some(format!("it does not answer within {} s", PATIENCE.as_secs()))),
        };
        items.push(api::Runtime { name: name.to_owned(), promises: kept, away });
    }
    Json(api::Runtimes { items })
}
