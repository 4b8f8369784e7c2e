//! A private PostgreSQL: found on the machine, made in the data directory, reached over a unix socket alone.
//!
//! It runs as a child of this (unprivileged) process and dies with it, whatever way this process dies; what an
//! earlier one left behind is recognised as ours and ended first. When PostgreSQL itself dies it is started again
//! while callers get `unavailable`. Refuses to run as root (PostgreSQL does), to listen on TCP, and to share a
//! directory with another running installation.

mod binaries;
mod files;
mod leftover;
mod supervise;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};

use crate::config::Database;
use supervise::Supervisor;

const OWNER: &str = "wharf_owner";
const APP: &str = "wharf_app";
const DATABASE: &str = "wharf";
const PORT: u16 = 5432;
/// Recovery after a crash reads at most `max_wal_size`; a machine under load takes its time.
const READY: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "no PostgreSQL {0} was found in /usr/lib/postgresql/*/bin or PATH; install it (apt install postgresql) or set database_url"
    )]
    NoBinaries(String),
    #[error("another wharf is running on {0}; stop it first, or use another data directory")]
    Taken(PathBuf),
    #[error("PostgreSQL refuses to run as root; start as an unprivileged user")]
    Root,
    #[error("{step}: {cause}")]
    Step { step: String, cause: String },
    #[error("PostgreSQL did not become ready: {reason}\n{log}")]
    NotReady { reason: String, log: String },
}

fn failed(step: impl Into<String>, cause: impl std::fmt::Display) -> ClusterError {
    ClusterError::Step { step: step.into(), cause: cause.to_string() }
}

/// Whom PostgreSQL runs as when this process is root (tests are, production is not).
#[derive(Clone, Copy, Debug)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Holds `data/`, `run/` (the socket), `postgres.log` and `lock`.
    pub dir: PathBuf,
    pub run_as: Option<RunAs>,
    /// Off only for tests: a crash of the machine may then lose or break everything.
    pub durable: bool,
    pub max_connections: u32,
    /// Memory of the machine to tune for; by default what the machine has.
    pub memory_mib: Option<u64>,
}

impl ClusterConfig {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), run_as: None, durable: true, max_connections: 100, memory_mib: None }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    /// How a store reaches the database `name` of this cluster.
    pub fn database(&self, name: &str) -> Database {
        Database::Socket {
            dir: self.run(),
            port: PORT,
            name: name.to_owned(),
            owner: OWNER.to_owned(),
            app: APP.to_owned(),
        }
    }

    fn as_owner(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.run())
            .port(PORT)
            .username(OWNER)
            .database(database)
    }
}

/// Where PostgreSQL's programs are, for who only wants to know.
pub fn find_programs() -> Result<PathBuf, ClusterError> {
    binaries::Binaries::find(None).map(|b| b.path(""))
}

/// Makes what is missing in the directory and answers the command that runs the server in the foreground:
/// for those who supervise it themselves.
pub fn prepare(config: &ClusterConfig) -> Result<Vec<String>, ClusterError> {
    let binaries = files::prepare(config)?;
    Ok(supervise::command(config, &binaries))
}

/// Waits until the server answers and makes the application role and the database where they are missing.
pub async fn ready(
    config: &ClusterConfig,
    mut dead: impl FnMut() -> Option<String>,
) -> Result<(), ClusterError> {
    let begun = Instant::now();
    let mut conn = loop {
        match PgConnection::connect_with(&config.as_owner("postgres")).await {
            Ok(conn) => break conn,
            Err(e) => {
                let reason = match dead() {
                    Some(reason) => reason,
                    None if begun.elapsed() > READY => e.to_string(),
                    None => {
                        // First query 38 ms after the start: a short nap is what the wait is made of.
                        tokio::time::sleep(Duration::from_millis(3)).await;
                        continue;
                    }
                };
                return Err(ClusterError::NotReady { reason, log: files::log_tail(&config.log()) });
            }
        }
    };
    let marker = config.dir.join("made");
    if !marker.exists() {
        make_database(&mut conn).await.map_err(|e| failed("make role and database", e))?;
        File::create(&marker).and_then(|f| f.sync_all()).map_err(|e| failed("note that they are made", e))?;
    }
    conn.close().await.map_err(|e| failed("first connection", e))
}

async fn make_database(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "do $$ begin
            if not exists (select from pg_roles where rolname = 'wharf_app') then create role wharf_app login; end if;
         end $$",
    )
    .execute(&mut *conn)
    .await?;
    let there: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(DATABASE)
        .fetch_one(&mut *conn)
        .await?;
    if !there {
        sqlx::raw_sql("create database wharf").execute(&mut *conn).await?;
    }
    Ok(())
}

/// The running cluster. Dropping it ends PostgreSQL at once (it recovers at the next start); [`Cluster::stop`] ends
/// it cleanly.
pub struct Cluster {
    config: ClusterConfig,
    supervisor: Arc<Supervisor>,
    /// Held for as long as the cluster is ours.
    _lock: File,
}

impl Cluster {
    pub async fn start(config: ClusterConfig) -> Result<Self, ClusterError> {
        if rustix::process::geteuid().is_root() && config.run_as.is_none() {
            return Err(ClusterError::Root);
        }
        let lock = lock(&config.dir)?;
        let prepared = config.clone();
        let command = tokio::task::spawn_blocking(move || {
            let command = prepare(&prepared)?;
            leftover::end(&prepared.data(), &prepared.run())?;
            Ok::<_, ClusterError>(command)
        })
        .await
        .map_err(|e| failed("prepare the cluster", e))??;
        let supervisor = Supervisor::start(&config, command)?;
        let cluster = Self { config, supervisor, _lock: lock };
        let supervisor = cluster.supervisor.clone();
        ready(&cluster.config, move || supervisor.first_death()).await?;
        cluster.supervisor.serve();
        Ok(cluster)
    }

    /// How the store reaches it.
    pub fn database(&self) -> Database {
        self.config.database(DATABASE)
    }

    /// Of the postmaster; `None` between a crash and the restart.
    pub fn pid(&self) -> Option<u32> {
        self.supervisor.pid()
    }

    /// Fast shutdown: running transactions are rolled back, everything committed is on disk. Close the store first.
    pub async fn stop(self) -> Result<(), ClusterError> {
        let supervisor = self.supervisor.clone();
        tokio::task::spawn_blocking(move || supervisor.stop(STOP))
            .await
            .map_err(|e| failed("stop PostgreSQL", e))?
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.supervisor.kill();
    }
}

fn lock(dir: &Path) -> Result<File, ClusterError> {
    std::fs::create_dir_all(dir).map_err(|e| failed(format!("make {}", dir.display()), e))?;
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| failed(format!("open {}", path.display()), e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ClusterError::Taken(dir.to_owned())),
        Err(std::fs::TryLockError::Error(e)) => Err(failed("lock the directory", e)),
    }
}
