//! Finds PostgreSQL on the machine.

use std::path::{Path, PathBuf};

use super::{ClusterError, failed};

const OLDEST: u32 = 15;

#[derive(Clone, Debug)]
pub(super) struct Binaries {
    dir: PathBuf,
    major: u32,
}

impl Binaries {
    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }

    pub(super) fn major(&self) -> u32 {
        self.major
    }

    /// The newest, or exactly `wanted` where a data directory was made by it.
    pub(super) fn find(wanted: Option<u32>) -> Result<Self, ClusterError> {
        let fits = |b: &Self| b.major >= OLDEST && wanted.is_none_or(|w| w == b.major);
        let newest = |found: Vec<Self>| found.into_iter().filter(fits).max_by_key(|b| b.major);
        // PATH is asked second: it costs running the program to learn its version.
        newest(debian()).or_else(|| newest(in_path())).ok_or_else(|| {
            ClusterError::NoBinaries(wanted.map_or_else(|| format!("{OLDEST} or newer"), |w| w.to_string()))
        })
    }
}

fn whole(dir: &Path) -> bool {
    ["postgres", "initdb"].iter().all(|p| dir.join(p).is_file())
}

fn debian() -> Vec<Binaries> {
    let Ok(entries) = std::fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|e| {
            let major = e.file_name().to_str()?.parse().ok()?;
            let dir = e.path().join("bin");
            whole(&dir).then_some(Binaries { dir, major })
        })
        .collect()
}

fn in_path() -> Vec<Binaries> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|d| whole(d))
        .filter_map(|dir| {
            let out = std::process::Command::new(dir.join("postgres")).arg("--version").output().ok()?;
            let text = String::from_utf8(out.stdout).ok()?;
            // "postgres (PostgreSQL) 16.2 (…)"
            let major = text.split(' ').nth(2)?.split('.').next()?.parse().ok()?;
            Some(Binaries { dir, major })
        })
        .collect()
}

/// Major version a data directory was made by; `None` where there is none yet.
pub(super) fn made_by(data: &Path) -> Result<Option<u32>, ClusterError> {
    let path = data.join("PG_VERSION");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|e| failed(format!("read {}", path.display()), e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(format!("read {}", path.display()), e)),
    }
}
