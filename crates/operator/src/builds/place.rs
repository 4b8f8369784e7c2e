//! Where a build goes on once its package has been read: in the image it wants, with the limits it wants.
//!
//! What somebody named with the build wins over the package's limits; of an image that is neither theirs nor the package's nothing
//! is made: that is refused with what to name.

use wharf_domain::manifest::{Manifest, Place};
use wharf_domain::quota::Resources;
use wharf_domain::{Code, Error};
use wharf_store::sessions::SessionRow;

use super::Trouble;
use super::site::Site;
use crate::operator::Inner;

/// What is refused by quotas or for want of an image is the package's to change, or its space's.
fn refused(e: Error) -> Trouble {
    match e.code {
        Code::QuotaExceeded | Code::InvalidReference | Code::InvalidField | Code::Unsupported => {
            Trouble::Failed(format!("the package asks for a place it cannot have: {}", e.public))
        }
        _ => Trouble::Store(e),
    }
}

/// Whether the build can go on in this computer. Where not, it has another one from now on.
pub(super) async fn fits(
    inner: &Inner,
    site: &mut Site<'_>,
    row: &SessionRow,
    manifest: &Manifest,
) -> Result<bool, Trouble> {
    let Place { image, resources } = manifest.place();
    let asked = site.task.build.asked.clone();
    let image = image.unwrap_or_else(|| row.image.name.clone());
    if image != row.image.name && asked.image.is_some() {
        return Err(Trouble::Failed(format!(
            "the package wants to be built in image {image}, and {} was named with the build; name {image}, or none",
            row.image.name
        )));
    }
    let wanted = asked.resources.or(resources).over(row.resources);
    check(&wanted, &inner.settings.builds.max_resources)?;
    if image == row.image.name && wanted == row.resources {
        return Ok(true);
    }
    let here = image == row.image.name
        && (wanted.disk_mib == row.resources.disk_mib || resizes(inner, &row.runtime).await);
    if here {
        site.work.resize(site.task, wanted).await.map_err(refused)?;
        // The reconciler does the same; the commands shall not begin before.
        let runtime = inner.runtimes.get(&row.runtime).map_err(|e| Trouble::Broken(e.to_string()))?;
        let limited = runtime.set_limits(row.id, row.volume, &wanted).await;
        limited.map_err(|e| Trouble::Broken(format!("the limits it asks for could not be set: {e}")))?;
        site.say("wharf", &format!("it has {}\n", shown(&wanted))).await?;
        return Ok(true);
    }
    site.say("wharf", &format!("it goes on in image {image}, with {}\n", shown(&wanted))).await?;
    let runtime = inner.runtimes.name_for(&image).to_owned();
    site.work.replace(site.task, &image, &runtime, wanted).await.map_err(refused)?;
    Ok(false)
}

async fn resizes(inner: &Inner, runtime: &str) -> bool {
    inner.runtimes.capabilities(runtime).await.is_ok_and(|can| can.resizes_running)
}

fn check(r: &Resources, most: &Resources) -> Result<(), Trouble> {
    for (name, asked, most) in [
        ("cpu_millis", r.cpu_millis, most.cpu_millis),
        ("memory_mib", r.memory_mib, most.memory_mib),
        ("disk_mib", r.disk_mib, most.disk_mib),
        ("pids", r.pids, most.pids),
    ] {
        if asked > most {
            return Err(Trouble::Failed(format!(
                "build.resources.{name} is {asked}; a session of this server may have up to {most} (sessions.max_resources)"
            )));
        }
    }
    Ok(())
}

fn shown(r: &Resources) -> String {
    format!(
        "{} millis of CPU, {} MiB of memory, {} MiB of disk, {} processes",
        r.cpu_millis, r.memory_mib, r.disk_mib, r.pids
    )
}
