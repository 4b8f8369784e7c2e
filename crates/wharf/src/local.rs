//! What an operator of the machine does when the API is down, or must not have a part in it: rotate the keys secrets
//! are sealed with, reset a password, verify the audit chain.
//!
//! Works on the database itself, as the control plane's user and never as root: root starts a child as that user and
//! hands it settings and request over a pipe. Every change is audited like any other.

mod work;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::{ArgMatches, Args as _, FromArgMatches as _};
use serde::{Deserialize, Serialize};
use wharf_chassis::Settings;
use wharf_chassis::settings::{hand_over, take_over};
use wharf_domain::Name;

use crate::args::SettingsArgs;
use crate::image::BuildArgs;
use crate::up::{Account, PASSWORD_FILE};

#[derive(clap::Subcommand)]
pub enum KeyCommand {
    /// Make a new key-encryption key and seal every secret's key with it; the secrets themselves stay as they are
    Rotate,
}

#[derive(clap::Args)]
struct ResetPassword {
    /// Whose password
    user: Name,
    /// Read the new password from a file (`-` is stdin) instead of asking
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What the child is asked for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    RotateKey,
    VerifyAudit,
    ResetPassword { user: Name, password: String },
}

#[derive(Serialize, Deserialize)]
struct Handover {
    settings: serde_json::Value,
    request: Request,
}

/// Our verbs among the nouns of the API.
pub fn into_nouns(
    root: clap::Command,
    with: impl Fn(clap::Command, &'static str) -> clap::Command,
) -> clap::Command {
    let build = with(
        BuildArgs::augment_args(clap::Command::new("build")),
        "Make an image from a recipe, on this machine",
    );
    let reset = with(
        ResetPassword::augment_args(clap::Command::new("reset-password")),
        "Set a user's password on this machine, without the API; ends every login of the user",
    );
    let local = clap::Arg::new("local")
        .long("local")
        .action(clap::ArgAction::SetTrue)
        .help("Walk the database on this machine, without the API");
    root.mut_subcommand("image", |image| image.subcommand(build))
        .mut_subcommand("user", |user| user.subcommand(reset))
        .mut_subcommand("audit", |audit| {
            audit.mut_subcommand("verify", |verify| SettingsArgs::augment_args(verify.arg(local)))
        })
        .subcommand(clap::Command::new("local").hide(true))
}

/// Does what is ours of a noun; `None` where the API's own command is meant.
pub fn of_noun(noun: &str, matches: &ArgMatches, outer: &SettingsArgs) -> Result<Option<ExitCode>> {
    let Some((verb, sub)) = matches.subcommand() else { return Ok(None) };
    let given = || -> Result<SettingsArgs> {
        let mut given = SettingsArgs::from_arg_matches(sub)?;
        given.config = given.config.or_else(|| outer.config.clone());
        Ok(given)
    };
    match (noun, verb) {
        ("image", "build") => {
            crate::image::run(&BuildArgs::from_arg_matches(sub)?, &given()?.load()?.settings)?;
            Ok(Some(ExitCode::SUCCESS))
        }
        ("user", "reset-password") => {
            let args = ResetPassword::from_arg_matches(sub)?;
            let password = wharf_cli::prompt::new_password(
                &format!("New password of {}", args.user),
                args.password_file.as_deref(),
            )?;
            ask(&given()?, Request::ResetPassword { user: args.user, password }).map(Some)
        }
        ("audit", "verify") if sub.get_flag("local") => ask(&given()?, Request::VerifyAudit).map(Some),
        _ => Ok(None),
    }
}

pub fn key(command: &KeyCommand, given: &SettingsArgs) -> Result<ExitCode> {
    match command {
        KeyCommand::Rotate => ask(given, Request::RotateKey),
    }
}

/// As the control plane's user: here, when that is who we are; in a child, when we are root.
fn ask(given: &SettingsArgs, request: Request) -> Result<ExitCode> {
    let settings = given.load()?.settings;
    if !settings.keys_dir().try_exists().unwrap_or(true) {
        bail!(
            "there is no wharf in {}; give --data-dir, or start it once with `wharf up`",
            settings.data_dir.display()
        );
    }
    if !crate::is_root() {
        return work::run(&settings, request);
    }
    let Some(account) = Account::find(&settings.user)? else {
        bail!("there is no user {}; start wharf once, it makes it", settings.user);
    };
    let resets = matches!(&request, Request::ResetPassword { user, .. } if user.as_str() == "admin");
    let handover = Handover { settings: serde_json::from_slice(&hand_over(&settings)?)?, request };
    // Not by its path: that user may not be able to walk there.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("wharf");
    command.arg("local").stdin(Stdio::piped()).uid(account.uid).gid(account.gid).current_dir("/").env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let mut child = command.spawn().context("cannot start as the control plane's user")?;
    let bytes = serde_json::to_vec(&handover)?;
    child.stdin.take().context("no pipe to hand the request over")?.write_all(&bytes)?;
    let status = child.wait()?;
    if status.success() && resets {
        // Whoever could read the first password has no more use for it.
        let _ = std::fs::remove_file(settings.data_dir.join(PASSWORD_FILE));
    }
    Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)))
}

/// The child.
pub fn child() -> Result<ExitCode> {
    let handover: Handover = serde_json::from_reader(std::io::stdin().lock())
        .context("this is started by other commands of wharf")?;
    let settings: Settings = take_over(&serde_json::to_vec(&handover.settings)?)?;
    work::run(&settings, handover.request)
}
