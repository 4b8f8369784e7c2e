//! The door: a pool nobody else sees, the clock, the keys and the bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use wharf_chassis::seal::Keyring;
use wharf_domain::{Error, NameOrId, SpaceId, Time};
use wharf_ports::{Bus, Clock, Topic};

use crate::access::keys::KeyCache;
use crate::audit::{DenialBrake, Entry};
use crate::caller::Caller;
use crate::config::StoreConfig;
use crate::error::OrDomain as _;
use crate::notify::Bridge;
use crate::scope::Scope;
use crate::system::{Actor, System};

/// How long a connection rests before it ends: past the pauses of somebody at work, so that no call of theirs opens one.
const SPARE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pool: PgPool,
    pub(crate) keyring: Keyring,
    clock: Arc<dyn Clock>,
    bus: Arc<dyn Bus>,
    bridge: Option<Bridge>,
    pub(crate) keys: KeyCache,
    pub(crate) remembered: crate::access::remembered::Remembered,
    pub(crate) touched: crate::access::tokens::Touched,
    pub(crate) uses: crate::sessions::Uses,
    pub(crate) certificates: crate::gateway::authority::Certificates,
    brake: DenialBrake,
    suppressed: AtomicU64,
}

impl Store {
    /// Migrates (or refuses a newer schema), then opens the pool as the application role.
    pub async fn connect(
        config: StoreConfig,
        keyring: Keyring,
        clock: Arc<dyn Clock>,
        bus: Arc<dyn Bus>,
    ) -> Result<Self, Error> {
        Self::migrate(&config, clock.now()).await?;
        Self::attach(config, keyring, clock, bus).await
    }

    /// Brings the schema up to date and does no more.
    pub async fn migrate(config: &StoreConfig, now: Time) -> Result<(), Error> {
        crate::migrate::run(config, now).await
    }

    /// Opens the pool on a schema that another process has brought up to date.
    pub async fn attach(
        config: StoreConfig,
        keyring: Keyring,
        clock: Arc<dyn Clock>,
        bus: Arc<dyn Bus>,
    ) -> Result<Self, Error> {
        let pool = PgPoolOptions::new()
            .max_connections(config.pool)
            .acquire_timeout(config.acquire_timeout)
            // Every one costs PostgreSQL several MiB; those a burst opened end soon after it.
            .idle_timeout(SPARE)
            // A broken connection shows itself at the first statement, and callers may retry: no ping each time.
            .test_before_acquire(false)
            // One that has rested may have died with its server: that is worth a ping.
            .before_acquire(|conn, meta| {
                Box::pin(async move {
                    if meta.idle_for > Duration::from_secs(1) {
                        conn.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(config.app("wharf")?)
            .await
            .or_domain()?;
        let bridge =
            if config.bridge { Some(Bridge::start(config.app("wharf-wake")?, bus.clone())) } else { None };
        let store = Self(Arc::new(Inner {
            pool,
            keyring,
            brake: DenialBrake::new(clock.now()),
            clock,
            bus,
            bridge,
            keys: KeyCache::default(),
            remembered: crate::access::remembered::Remembered::default(),
            touched: crate::access::tokens::Touched::default(),
            uses: crate::sessions::Uses::default(),
            certificates: crate::gateway::authority::Certificates::default(),
            suppressed: AtomicU64::new(0),
        }));
        store.ensure_signing_key().await?;
        Ok(store)
    }

    pub fn now(&self) -> Time {
        self.0.clock.now()
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    /// A transaction. Begun in a task of its own: a caller that goes away between BEGIN and its answer would otherwise
    /// leave a connection in the pool that is inside a transaction nobody ends, and what others write there is lost.
    pub(crate) async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, Error> {
        let pool = self.pool().clone();
        tokio::spawn(async move { pool.begin().await }).await.map_err(Error::internal)?.or_domain()
    }

    /// Answers whether the database can be reached: for `/readyz`.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("select 1").execute(self.pool()).await.or_domain()?;
        Ok(())
    }

    /// A transaction as the caller in a space; 404 where the caller may not know of it.
    pub async fn scope(&self, caller: &Caller, space: &NameOrId<SpaceId>) -> Result<Scope, Error> {
        Scope::begin(self, caller).await?.enter(space).await
    }

    /// A transaction as the caller for what lives in no space: users, roles, bindings, audit, spaces themselves.
    pub async fn global(&self, caller: &Caller) -> Result<Scope, Error> {
        Scope::begin(self, caller).await
    }

    /// The way in for background work.
    pub fn system(&self, actor: Actor) -> System {
        System::new(self.clone(), actor)
    }

    /// Whether other processes change the same database: their wake-ups come a moment after their commits.
    pub fn shared(&self) -> bool {
        self.0.bridge.is_some()
    }

    /// The bus, for those who wait for wake-ups.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.0.bus
    }

    pub(crate) fn wake(&self, topic: Topic) {
        self.0.bus.wake(topic);
        if let Some(bridge) = &self.0.bridge {
            bridge.tell(topic);
        }
    }

    /// Writes a denial in a transaction of its own. A flood is braked; the next entry says how many were left out.
    pub(crate) async fn record_denial(&self, mut entry: Entry) -> Result<(), Error> {
        if !self.0.brake.admit(self.now()) {
            self.0.suppressed.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let left_out = self.0.suppressed.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            entry.note("denials_left_out", left_out.into());
        }
        let mut conn = self.pool().acquire().await.or_domain()?;
        crate::events::write(&mut conn, &[entry], &[], self.now()).await?;
        self.wake(Topic::Audit);
        Ok(())
    }

    /// Waits for running statements and closes every connection.
    pub async fn close(&self) {
        if let Some(bridge) = &self.0.bridge {
            bridge.stop();
        }
        self.0.pool.close().await;
    }
}
