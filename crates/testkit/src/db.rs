//! A database of its own for each test, copied from a template that was migrated once.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use wharf_chassis::seal::Keyring;
use wharf_domain::Plain;
use wharf_ports::{Bus, Clock};
use wharf_store::{Database, Store, StoreConfig};

use crate::TestClock;
use crate::cluster::{Shared, join};

/// Dropped with the value, whether the test passed or not.
pub struct TestDb {
    name: String,
    options: PgConnectOptions,
    config: StoreConfig,
    keys: tempfile::TempDir,
    pub clock: TestClock,
    pub bus: Arc<wharf_bus::Local>,
    shared: Shared,
}

impl TestDb {
    pub async fn new() -> Self {
        Self::make().await.unwrap_or_else(|e| panic!("no test database: {e:?}"))
    }

    async fn make() -> Result<Self> {
        let shared = join().await?;
        let keys = tempfile::tempdir()?;
        let template = template(&shared).await?;
        let name = format!("t_{}", uuid::Uuid::now_v7().simple());
        let options = owner(&shared, "postgres");
        let mut conn = PgConnection::connect_with(&options).await?;
        sqlx::query(AssertSqlSafe(format!("create database {name} template {template}")))
            .execute(&mut conn)
            .await?;
        conn.close().await?;
        let mut config = StoreConfig::new(shared.config.database(&name));
        config.pool = 12;
        config.bridge = false;
        let (clock, bus) = (TestClock::default(), Arc::new(wharf_bus::Local::new()));
        Ok(Self { name, options, config, keys, clock, bus, shared })
    }

    /// The store of this database. Several are several processes as far as the database can tell.
    pub async fn store(&self) -> Store {
        self.store_with(self.config.clone(), self.bus.clone()).await
    }

    /// With a configuration and a bus of the test's own.
    pub async fn store_with(&self, config: StoreConfig, bus: Arc<dyn Bus>) -> Store {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        Store::attach(config, self.keyring(), clock, bus).await.unwrap_or_else(|e| panic!("no store: {e}"))
    }

    pub fn config(&self) -> StoreConfig {
        self.config.clone()
    }

    /// The key file of this database's secrets.
    pub fn key_path(&self) -> std::path::PathBuf {
        self.keys.path().join("key")
    }

    pub fn keyring(&self) -> Keyring {
        Keyring::load_or_create(&self.key_path()).unwrap_or_else(|e| panic!("no keyring: {e}"))
    }

    /// A `database_url` for processes that tests start. The user must be one the cluster lets in by name: the one
    /// of this process.
    pub fn url(&self) -> Plain {
        let Database::Socket { dir, port, name, owner, .. } = &self.config.database else {
            unreachable!("test databases are reached by socket")
        };
        let dir = dir.display().to_string().replace('/', "%2F");
        Plain::new(format!("postgres://{owner}@{dir}:{port}/{name}"))
    }

    /// A connection as the owner of everything: for tampering that the application role cannot do.
    pub async fn owner(&self) -> PgConnection {
        let options = owner(&self.shared, &self.name);
        PgConnection::connect_with(&options).await.unwrap_or_else(|e| panic!("no owner connection: {e}"))
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (options, name) = (self.options.clone(), self.name.clone());
        // A runtime of its own: this one may be ending.
        let _ = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let mut conn = PgConnection::connect_with(&options).await?;
                sqlx::query(AssertSqlSafe(format!("drop database if exists {name} with (force)")))
                    .execute(&mut conn)
                    .await?;
                conn.close().await?;
                anyhow::Ok(())
            })
        })
        .join();
    }
}

fn owner(shared: &Shared, database: &str) -> PgConnectOptions {
    let Database::Socket { dir, port, owner, .. } = shared.config.database(database) else {
        unreachable!("test databases are reached by socket")
    };
    PgConnectOptions::new_without_pgpass().socket(dir).port(port).username(&owner).database(database)
}

/// Named by what is in the migrations, so that a changed schema is a new template.
async fn template(shared: &Shared) -> Result<String> {
    let digest = Sha256::digest(wharf_store::schema_fingerprint().as_bytes());
    let name = format!("template_{}", hex::encode(&digest[..8]));
    let mut conn = PgConnection::connect_with(&owner(shared, "postgres")).await?;
    // Test processes take turns: one makes it.
    sqlx::query("select pg_advisory_lock(7217)").execute(&mut conn).await?;
    let there: bool = sqlx::query_scalar(
        "select exists (select from pg_database where datname = $1 and datallowconn = false)",
    )
    .bind(&name)
    .fetch_one(&mut conn)
    .await?;
    if !there {
        sqlx::query(AssertSqlSafe(format!("drop database if exists {name}"))).execute(&mut conn).await?;
        sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut conn).await?;
        let mut config = StoreConfig::new(shared.config.database(&name));
        config.bridge = false;
        let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
        Store::migrate(&config, clock.now())
            .await
            .map_err(|e| anyhow::anyhow!("{e}"))
            .context("migrate the template")?;
        // Closed to connections: copying needs it unused, and this marks it whole.
        sqlx::query(AssertSqlSafe(format!("alter database {name} allow_connections false")))
            .execute(&mut conn)
            .await?;
    }
    sqlx::query("select pg_advisory_unlock(7217)").execute(&mut conn).await?;
    conn.close().await?;
    Ok(name)
}
