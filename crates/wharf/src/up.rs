//! `wharf up` and `wharf serve`: which processes there are, and who they run as.
//!
//! Started as root, this process becomes the keeper of a jailer (root) and a control plane (the unprivileged user).
//! Started by anybody else, it is the control plane itself, without sessions. Refuses to run a second time on the
//! same data directory.

mod child;
mod keeper;
mod lock;
mod place;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, bail};
use wharf_chassis::Settings;
use wharf_chassis::settings::Role;

use crate::args::SettingsArgs;

pub use child::{Report, Reporter, enter};
pub use lock::Lock;
pub use place::{Account, PASSWORD_FILE};

#[derive(clap::Args)]
pub struct Args {
    /// Address and port of the API
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

#[derive(clap::Args)]
pub struct ServeArgs {
    /// What to run: server, operator, jailer; several with commas
    #[arg(long = "role", value_name = "ROLE,…", value_delimiter = ',', required = true)]
    roles: Vec<Role>,
    /// Address and port of the API
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

/// `wharf up`: all roles the settings name.
pub fn start(given: &SettingsArgs, args: &Args) -> Result<()> {
    run(given.load_with(args.listen, None)?.settings)
}

/// `wharf serve`: the roles named here.
pub fn serve(given: &SettingsArgs, args: &ServeArgs) -> Result<()> {
    run(given.load_with(args.listen, Some(&args.roles))?.settings)
}

/// Runs the roles of `settings` until a signal ends them.
fn run(settings: Settings) -> Result<()> {
    wharf_chassis::telemetry::init(&settings.log);
    let root = crate::is_root();
    let others = settings.roles.iter().any(|r| *r != Role::Jailer);
    if !root && settings.roles == BTreeSet::from([Role::Jailer]) {
        bail!("the jailer starts computers and must be root: run `sudo wharf serve --role jailer`");
    }
    place::check_machine(&settings)?;
    place::make_directories(&settings, None)?;
    // Held to the end of this function: it says that this data directory is in use.
    let _locks = Lock::take(&settings.data_dir, &settings.roles)?;
    if !root {
        as_ordinary_user(settings)
    } else if others || settings.uses_docker() {
        let account = Account::find_or_make(&settings)?;
        place::make_directories(&settings, Some(&account))?;
        keeper::run(&settings, &account)
    } else {
        let account = Account::find_or_make(&settings)?;
        crate::roles::jailer::run(&settings, &account, &Reporter::terminal(&settings))
    }
}

fn as_ordinary_user(mut settings: Settings) -> Result<()> {
    if settings.roles.remove(&Role::Jailer) {
        eprintln!(
            "wharf: started as {}, not root, so there is no jailer: sessions are unavailable, everything else works.\n\
             wharf: for sessions, run `sudo wharf up`.",
            place::user_name()
        );
    }
    let reporter = Reporter::terminal(&settings);
    crate::control::run(settings, reporter)
}
