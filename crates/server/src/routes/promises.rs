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
const DISK: &str = "resources.disk_mib";

async fn abilities(app: &App, runtime: &str) -> Option<Capabilities> {
    tokio::time::timeout(PATIENCE, app.runtimes.capabilities(runtime)).await.ok()?.ok()
}

fn refuse(field: &str, detail: String) -> Result<(), Error> {
    Err(Error::new(Code::Unsupported, detail).field(field))
}

/// A computer to be made: every limit of it, and what root inside is.
pub(super) async fn computer(
    app: &App,
    runtime: &str,
    resources: &Resources,
    allow_root: bool,
) -> Result<(), Error> {
    let Some(can) = abilities(app, runtime).await else { return Ok(()) };
    limits(&can, runtime, resources)?;
    if !allow_root || can.root_is_nobody || can.waives_user_namespaces {
        return Ok(());
    }
    refuse(
        "allow_root",
        format!(
            "root inside would be root of the machine: the runtime {runtime} has no user namespaces here; start the session \
             without root (allow_root: false), have this image run elsewhere with the setting `runtimes`, or accept it with \
             `{runtime}.waive_user_namespaces`"
        ),
    )
}

fn limits(can: &Capabilities, runtime: &str, r: &Resources) -> Result<(), Error> {
    let lines = [
        (can.cpu_limit, "cpu_millis", format!("CPU limit of {} thousandths of a core", r.cpu_millis)),
        (can.memory_limit, "memory_mib", format!("memory limit of {} MiB", r.memory_mib)),
        (can.pids_limit, "pids", format!("limit of {} processes", r.pids)),
    ];
    for (kept, name, what) in lines {
        if !kept {
            let detail = format!(
                "a {what} cannot be kept by the runtime {runtime} on this machine (cgroups: {}); `wharf doctor` says what is \
                 missing, and the setting `runtimes` has this image run elsewhere",
                can.cgroups
            );
            return refuse(&format!("resources.{name}"), detail);
        }
    }
    if can.disk_limit || can.waives_disk_limit {
        return Ok(());
    }
    let part = if runtime == "native" { "jailer" } else { runtime };
    let detail = format!(
        "a disk limit of {} MiB cannot be kept by the runtime {runtime} on this machine (volumes: {}); have this image run \
         elsewhere with the setting `runtimes`, or accept sessions without a disk limit with `{part}.waive_disk_limit`",
        r.disk_mib, can.volumes
    );
    refuse(DISK, detail)
}

/// Other limits for a session that has some.
pub(super) async fn new_limits(app: &App, session: &SessionRow, new: &Resources) -> Result<(), Error> {
    if *new == session.resources {
        return Ok(());
    }
    let Some(can) = abilities(app, &session.runtime).await else { return Ok(()) };
    limits(&can, &session.runtime, new)?;
    let same = new.disk_mib == session.resources.disk_mib;
    if same || session.computer.is_none() || can.resizes_running || !can.disk_limit {
        return Ok(());
    }
    let detail = format!(
        "the runtime {} cannot change the disk limit of a session that runs; close it first",
        session.runtime
    );
    refuse(DISK, detail)
}

#[cfg(test)]
mod tests;
