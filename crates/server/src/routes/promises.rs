//! What a runtime cannot promise is refused when it is asked for, not when the computer is to start.
//!
//! A runtime that is away, or takes its time, is not waited for: the session waits for it, and what it refuses then is the
//! session's error.

use std::time::Duration;

use wharf_domain::quota::Resources;
use wharf_domain::{Code, Error};
use wharf_ports::runtime::Capabilities;
use wharf_store::sessions::SessionRow;

use crate::app::App;

/// A request holds a connection to the database meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);
const FIELD: &str = "resources.disk_mib";

async fn abilities(app: &App, runtime: &str) -> Option<Capabilities> {
    tokio::time::timeout(PATIENCE, app.runtimes.capabilities(runtime)).await.ok()?.ok()
}

/// The limits of a computer to be made.
pub(super) async fn limits(app: &App, runtime: &str, wanted: &Resources) -> Result<(), Error> {
    let Some(can) = abilities(app, runtime).await else { return Ok(()) };
    for (kept, field, what) in [
        (can.cpu_limit, "resources.cpu_millis", "CPU"),
        (can.memory_limit, "resources.memory_mib", "memory"),
        (can.pids_limit, "resources.pids", "processes"),
    ] {
        if !kept {
            let detail = format!(
                "a limit of {what} cannot be kept by the runtime {runtime} on this machine: it has no cgroup controller for it \
                 (cgroups: {}); `wharf doctor` says more",
                can.cgroups
            );
            return Err(Error::new(Code::Unsupported, detail).field(field));
        }
    }
    disk(&can, runtime, wanted.disk_mib)
}

fn disk(can: &Capabilities, runtime: &str, mib: u32) -> Result<(), Error> {
    if can.disk_limit || can.waives_disk_limit {
        return Ok(());
    }
    let part = if runtime == "native" { "jailer" } else { runtime };
    let detail = format!(
        "a disk limit of {mib} MiB cannot be kept by the runtime {runtime} on this machine (volumes: {}); have this image run \
         elsewhere with the setting `runtimes`, or accept sessions without a disk limit with `{part}.waive_disk_limit`",
        can.volumes
    );
    Err(Error::new(Code::Unsupported, detail).field(FIELD))
}

/// Another disk limit for a session that has one.
pub(super) async fn new_disk(app: &App, session: &SessionRow, mib: u32) -> Result<(), Error> {
    let Some(can) = abilities(app, &session.runtime).await else { return Ok(()) };
    disk(&can, &session.runtime, mib)?;
    if session.computer.is_none() || can.resizes_running || !can.disk_limit {
        return Ok(());
    }
    let detail = format!(
        "the runtime {} cannot change the disk limit of a session that runs; close it first",
        session.runtime
    );
    Err(Error::new(Code::Unsupported, detail).field(FIELD))
}
