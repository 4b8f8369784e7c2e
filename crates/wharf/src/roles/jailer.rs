//! The jailer: root, single-threaded, no network. What it does lives in `wharf-jail`; here is what it is told.

use std::process::ExitCode;

use anyhow::Result;
use wharf_chassis::Settings;
use wharf_chassis::settings::VolumeDriver;
use wharf_jail::JailerSettings;
use wharf_jail::volume::{DriverChoice, PoolSettings};

use crate::up::{Account, Report, Reporter, enter};

/// Started by the keeper.
pub fn child() -> Result<ExitCode> {
    let settings = enter()?;
    let account = Account::find_or_make(&settings);
    Reporter::Keeper.outcome(account.and_then(|account| run(&settings, &account, &Reporter::Keeper)))
}

/// Until SIGTERM, and then until its jails have ended. Jails outlive a jailer that dies in any other way.
pub fn run(settings: &Settings, account: &Account, reporter: &Reporter) -> Result<()> {
    wharf_chassis::telemetry::init(&settings.log);
    let told = JailerSettings {
        control_uid: account.uid,
        control_gid: account.gid,
        cgroup_parent: settings.jailer.cgroup_prefix.clone(),
        first_id: settings.jailer.id_base,
        stop_jails_on_exit: true,
        ..JailerSettings::new(settings.run_dir(), pool(settings), settings.host_binary())
    };
    let mut told_keeper = Ok(());
    wharf_jail::jailer::run(told, || told_keeper = reporter.send(&Report::Ready { address: None }))?;
    told_keeper
}

fn pool(settings: &Settings) -> PoolSettings {
    PoolSettings {
        data_dir: settings.jail_dir(),
        loop_size_mib: settings.jailer.loop_size_mib,
        driver: match settings.jailer.volume_driver {
            VolumeDriver::Auto => DriverChoice::Auto,
            VolumeDriver::Btrfs => DriverChoice::Btrfs,
            VolumeDriver::Directory => DriverChoice::Directory,
        },
        waive_disk_limit: settings.jailer.waive_disk_limit,
    }
}
