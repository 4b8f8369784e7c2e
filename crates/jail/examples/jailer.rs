//! A jailer on its own, as the integration tests run it: settings as JSON in the first argument.

use std::path::PathBuf;

use wharf_jail::volume::{DriverChoice, PoolSettings};
use wharf_jail::{JailerSettings, jailer};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    run_dir: PathBuf,
    data_dir: PathBuf,
    host_binary: PathBuf,
    cgroup_parent: String,
    first_id: u32,
    control_uid: u32,
    stop_jails_on_exit: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("debug").init();
    let given = std::env::args().nth(1).ok_or("settings as JSON, please")?;
    let given: Arguments = serde_json::from_str(&given)?;
    let pool = PoolSettings {
        data_dir: given.data_dir,
        loop_size_mib: Some(3072),
        driver: DriverChoice::Auto,
        waive_disk_limit: false,
    };
    let settings = JailerSettings {
        cgroup_parent: given.cgroup_parent,
        first_id: given.first_id,
        control_uid: given.control_uid,
        stop_jails_on_exit: given.stop_jails_on_exit,
        ..JailerSettings::new(given.run_dir, pool, given.host_binary)
    };
    jailer::run(settings, || ())?;
    Ok(())
}
