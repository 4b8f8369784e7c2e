//! The control plane: every role but the jailer, in one process that holds no privilege.
//!
//! Order: bind ports, so that a taken one shows before anything is changed; then the database, migrated or refused;
//! then the first administrator; then the roles. The way back is the same in reverse.

pub mod database;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::Mode;
use tokio::net::TcpListener;
use wharf_chassis::lifecycle::{Roles, on_signals};
use wharf_chassis::seal::Keyring;
use wharf_chassis::settings::Role;
use wharf_chassis::{Health, Settings};
use wharf_jail::NativeRuntime;
use wharf_ports::clock::SystemClock;
use wharf_ports::{Bus, Clock, Runtimes, SandboxRuntime};
use wharf_store::{Actor, Store};

use crate::roles;
use crate::up::{Lock, Report, Reporter, enter};

/// How long the control plane before this one may take to drain: its limit and a little.
const HANDOVER: Duration = Duration::from_secs(10);

/// The key-encryption keys.
pub fn key_file(settings: &Settings) -> PathBuf {
    settings.keys_dir().join("kek")
}

/// What the roles share.
pub struct Parts {
    pub settings: Arc<Settings>,
    pub store: Store,
    pub runtimes: Runtimes,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    pub health: Health,
}

/// Started by the keeper.
pub fn child() -> Result<ExitCode> {
    let settings = enter()?;
    // Nothing started from here on, PostgreSQL included, can gain what this process does not have.
    rustix::thread::set_no_new_privs(true)?;
    Reporter::Keeper.outcome(run(settings, Reporter::Keeper))
}

/// Runs until a signal, or until a role fails.
pub fn run(settings: Settings, reporter: Reporter) -> Result<()> {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    wharf_chassis::telemetry::init(&settings.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let _lock = Lock::wait(
            &settings.control_run_dir(),
            Duration::from_secs(settings.shutdown_seconds.into()) + HANDOVER,
        )
        .await?;
        serve(Arc::new(settings), &reporter).await
    });
    // A blocking call that does not return must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(settings: Arc<Settings>, reporter: &Reporter) -> Result<()> {
    let mut roles = Roles::default();
    on_signals(roles.stopper())?;
    let ports = Ports::bind(&settings).await?;
    let address = ports.api.as_ref().map(TcpListener::local_addr).transpose()?;

    let database = database::open(&settings).await?;
    let result = with_database(&settings, &database, ports, &mut roles, address, reporter).await;
    let result = match result {
        Ok(store) => {
            let ended = roles.run(Duration::from_secs(settings.shutdown_seconds.into())).await;
            store.close().await;
            ended.map_err(Into::into)
        }
        Err(error) => Err(error),
    };
    database.stop().await;
    result
}

async fn with_database(
    settings: &Arc<Settings>,
    database: &database::Opened,
    ports: Ports,
    roles: &mut Roles,
    address: Option<SocketAddr>,
    reporter: &Reporter,
) -> Result<Store> {
    let keyring = Keyring::load_or_create(&key_file(settings))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let bus: Arc<dyn Bus> = Arc::new(wharf_bus::Local::new());
    let store = Store::connect(database.config(), keyring, clock.clone(), bus.clone())
        .await
        .context("the database")?;
    let show = |first: &wharf_store::Bootstrapped| {
        let password = first.password.expose_str().unwrap_or_default().to_owned();
        let told = reporter.send(&Report::Admin { name: first.username.into(), password });
        told.map_err(|e| wharf_domain::Error::internal(e.to_string()))
    };
    store.system(Actor::Setup).bootstrap_shown(show).await?;

    let runtimes = runtimes(settings);
    let health = Health::default();
    let pinged = store.clone();
    health.require("database", move || {
        let store = pinged.clone();
        // The public half only: anybody may read this.
        async move { store.ping().await.map_err(|e| e.public) }
    });
    for runtime in runtimes.all() {
        let name = if runtime.name() == "native" { "jailer" } else { runtime.name() };
        let asked = runtime.clone();
        health.want(name, move || {
            let runtime = asked.clone();
            async move {
                runtime
                    .capabilities()
                    .await
                    .map(|_| ())
                    .map_err(|_| "it does not answer; sessions are unavailable".to_owned())
            }
        });
    }
    let parts = Parts { settings: settings.clone(), store: store.clone(), runtimes, bus, clock, health };
    if settings.has_role(Role::Operator) {
        roles.add("operator", roles::operator::run(&parts, roles.stop()));
    }
    if settings.has_role(Role::Gateway) {
        roles.add("gateway", roles::gateway::run(&parts, roles.stop()));
    }
    if let Some(listener) = ports.api {
        roles.add("server", roles::server::run(&parts, listener, ports.metrics, roles.stop()));
    }
    reporter.send(&Report::Ready { address })?;
    tracing::info!(address = address.map(tracing::field::display), "ready");
    Ok(store)
}

/// The native runtime, and those the settings name.
fn runtimes(settings: &Settings) -> Runtimes {
    let mut all: Vec<Arc<dyn SandboxRuntime>> = vec![Arc::new(NativeRuntime::new(settings.jailer_socket()))];
    if settings.uses_docker() {
        all.push(Arc::new(NativeRuntime::called("docker", settings.docker_socket())));
    }
    let by_image =
        settings.runtimes.iter().map(|(image, r)| (image.clone(), r.as_str().to_owned())).collect();
    Runtimes::new(all, settings.runtime.as_str().to_owned(), by_image)
}

/// Listeners bound before anything else.
struct Ports {
    api: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

impl Ports {
    async fn bind(settings: &Settings) -> Result<Self> {
        if !settings.has_role(Role::Server) {
            return Ok(Self { api: None, metrics: None });
        }
        let metrics = match settings.metrics_listen {
            Some(address) => Some(bind(address, "metrics_listen").await?),
            None => None,
        };
        Ok(Self { api: Some(bind(settings.listen, "listen").await?), metrics })
    }
}

async fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen at {address}; stop what has it, or give `{setting}` another address")
    })
}
