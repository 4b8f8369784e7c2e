//! One `wharf up` a data directory: an advisory lock that dies with its holder, naming the pid that has it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use wharf_chassis::settings::Role;

/// One each for the jailer and for the rest, so that two `wharf serve` may share a data directory.
const JAILER: &str = "wharf-jailer.lock";
const OTHERS: &str = "wharf.lock";
/// Held by the control plane, which outlives a killed keeper for as long as it drains.
const CONTROL: &str = "control-plane.lock";

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held, not read")] File);

impl Lock {
    /// Takes what the roles need, or says who has it.
    pub fn take(data_dir: &Path, roles: &BTreeSet<Role>) -> Result<Vec<Self>> {
        let jailer = roles.contains(&Role::Jailer).then_some(JAILER);
        let others = roles.iter().any(|r| *r != Role::Jailer).then_some(OTHERS);
        let take = |name| match Self::attempt(&data_dir.join(name))? {
            Ok(lock) => Ok(lock),
            Err(pid) => bail!(
                "{} is in use by `wharf` with pid {pid}; stop that one first, or give this one another --data-dir",
                data_dir.display(),
            ),
        };
        jailer.into_iter().chain(others).map(take).collect()
    }

    /// Waits for the one before to have drained.
    pub async fn wait(dir: &Path, limit: Duration) -> Result<Self> {
        let path = dir.join(CONTROL);
        let deadline = Instant::now() + limit;
        loop {
            match Self::attempt(&path)? {
                Ok(lock) => return Ok(lock),
                Err(pid) if Instant::now() >= deadline => {
                    bail!(
                        "the control plane before this one (pid {pid}) has not ended in {}s",
                        limit.as_secs()
                    )
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn attempt(path: &Path) -> Result<std::result::Result<Self, String>> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Ok(Self(file)))
            }
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)?;
                Ok(Err(pid.trim().to_owned()))
            }
            Err(errno) => Err(errno).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}
