//! The work itself, on the store.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use wharf_chassis::Settings;
use wharf_chassis::seal::{KeyFile, Keyring};
use wharf_domain::rbac::Verb;
use wharf_domain::{NameOrId, Plain};
use wharf_ports::clock::SystemClock;
use wharf_store::{Actor, PrincipalPatch, Store};

use super::Request;
use crate::control::{self, database};
use crate::up::Lock;

/// Secrets rewrapped in one transaction.
const BATCH: i64 = 500;

pub fn run(settings: &Settings, request: Request) -> Result<ExitCode> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let database = database::join(settings).await?;
        let result = with_store(settings, &database, request).await;
        database.stop().await;
        result
    })
}

async fn with_store(settings: &Settings, database: &database::Opened, request: Request) -> Result<ExitCode> {
    let keyring = Keyring::load_or_create(&control::key_file(settings))?;
    let bus = Arc::new(wharf_bus::Local::new());
    let store = Store::connect(database.config(), keyring, Arc::new(SystemClock), bus)
        .await
        .context("the database")?;
    let result = match request {
        Request::RotateKey => rotate(settings, database, &store).await,
        Request::VerifyAudit => verify(&store).await,
        Request::ResetPassword { user, password } => {
            let system = store.system(Actor::Setup);
            let mut scope = system.global().await?;
            let permit = scope.users().permit(&NameOrId::Name(user.clone()), Verb::Update).await?;
            let patch = PrincipalPatch { password: Some(Plain::new(password)), ..PrincipalPatch::default() };
            scope.users().update(&permit, patch, None).await?;
            scope.commit().await?;
            println!("the password of {user} is changed; all logins of {user} are ended");
            Ok(ExitCode::SUCCESS)
        }
    };
    store.close().await;
    result
}

/// New key first, then every secret's data key. The old keys go only when no control plane is running: one that runs
/// seals with the key it started with until it has seen a newer one. Interrupted anywhere it is repeated whole.
async fn rotate(settings: &Settings, database: &database::Opened, before: &Store) -> Result<ExitCode> {
    let path = control::key_file(settings);
    let id = KeyFile::rotate(&path)?;
    let keyring = Keyring::load_or_create(&path)?;
    // A store of its own: the one before holds the keys as they were.
    let store =
        Store::attach(database.config(), keyring, Arc::new(SystemClock), before.bus().clone()).await?;
    let keeper = store.system(Actor::Keeper);
    let mut rewrapped = 0;
    loop {
        let n = keeper.rewrap(BATCH).await?;
        rewrapped += n;
        if n == 0 {
            break;
        }
    }
    store.close().await;
    println!("key {id} is in force; {rewrapped} sealed values were put under it");
    let alone = settings.database_url.is_none()
        && Lock::wait(&settings.control_run_dir(), Duration::ZERO).await.is_ok();
    if alone {
        KeyFile::retire(&path)?;
    } else {
        println!("older keys stay in the key file; run this again while wharf is stopped to drop them");
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(store: &Store) -> Result<ExitCode> {
    let verdict = store.system(Actor::Chainer).verify_audit().await?;
    println!("{}", serde_json::to_string_pretty(&verdict)?);
    if !verdict.ok {
        bail!("the audit log is not what was written");
    }
    Ok(ExitCode::SUCCESS)
}
