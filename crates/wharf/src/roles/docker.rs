//! Who speaks to Docker Engine: root, since whoever may use the engine's socket is root anyway, and nothing else. What it does
//! lives in `wharf-runtime-docker`; here is what it is told.

use std::process::ExitCode;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use wharf_chassis::Settings;
use wharf_runtime_docker::{Settings as Told, broker};

use crate::up::{Account, Report, Reporter, enter};

/// Started by the keeper.
pub fn child() -> Result<ExitCode> {
    let settings = enter()?;
    let account = Account::find_or_make(&settings);
    Reporter::Keeper.outcome(account.and_then(|account| run(&settings, &account)))
}

/// Until SIGTERM, and then until its containers have ended. They outlive one that dies in any other way.
fn run(settings: &Settings, account: &Account) -> Result<()> {
    wharf_chassis::telemetry::init(&settings.log);
    let told = Told {
        control_uid: account.uid,
        control_gid: account.gid,
        waive_disk_limit: settings.docker.waive_disk_limit,
        waive_user_namespaces: settings.docker.waive_user_namespaces,
        ..Told::new(settings.docker_host(), settings.run_dir(), settings.docker_dir(), settings.host_binary())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut told_keeper = Ok(());
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        broker::run(told, || told_keeper = Reporter::Keeper.send(&Report::Ready { address: None }), stop)
            .await?;
        anyhow::Ok(())
    })?;
    told_keeper
}
