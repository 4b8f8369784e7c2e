//! The one binary: the commands of the API (from `wharf-cli`) beside the ones that run on the machine itself.
//!
//! Decides nothing: it reads the command line and calls the file that does it.

mod args;
mod config;
mod control;
mod doctor;
mod image;
mod local;
mod roles;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args as _, FromArgMatches as _, Subcommand as _};

use args::SettingsArgs;

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn main() -> ExitCode {
    wharf_cli::complete(command);
    let matches = command().get_matches();
    match dispatch(&matches) {
        Ok(code) => code,
        Err(error) => ExitCode::from(wharf_cli::report(&error).max(1)),
    }
}

/// The whole command line: the API's nouns, and ours put beside and into them.
pub fn command() -> clap::Command {
    // A struct's own documentation would stand where the command's belongs, so that is said last.
    let with = |command: clap::Command, about: &'static str| {
        SettingsArgs::augment_args(command).about(about).long_about(None)
    };
    let new = clap::Command::new;
    let root = wharf_cli::command()
        .arg(
            clap::arg!(--config <FILE> "Settings to use instead of <data_dir>/wharf.toml")
                .value_parser(clap::value_parser!(std::path::PathBuf))
                .hide(true),
        )
        .subcommand(with(up::Args::augment_args(new("up")), "Run everything on this machine"))
        .subcommand(with(up::ServeArgs::augment_args(new("serve")), "Run some roles on this machine"))
        .subcommand(
            with(config::ConfigCommand::augment_subcommands(new("config")), "Look at the settings")
                .subcommand_required(true),
        )
        .subcommand(with(
            doctor::Args::augment_args(new("doctor")),
            "See whether this machine can run Wharf, and what to do if not",
        ))
        .subcommand(
            with(
                local::KeyCommand::augment_subcommands(new("key")),
                "The keys secrets are sealed with, on this machine",
            )
            .subcommand_required(true),
        )
        .subcommand(clap::Command::new("git-hook").hide(true).arg(clap::arg!(<NAME> "The hook")))
        .subcommand(clap::Command::new("jailer").hide(true))
        .subcommand(clap::Command::new("docker-runtime").hide(true))
        .subcommand(clap::Command::new("control-plane").hide(true))
        .subcommand(clap::Command::new("openapi").hide(true).about("Print the OpenAPI document"));
    local::into_nouns(root, with)
}

fn dispatch(matches: &ArgMatches) -> Result<ExitCode> {
    let (name, sub) = matches.subcommand().unwrap_or(("", matches));
    let mut given = SettingsArgs::default();
    if sub.try_contains_id("data_dir").is_ok() {
        given = SettingsArgs::from_arg_matches(sub)?;
    }
    given.config = given.config.or_else(|| matches.get_one::<String>("config").map(Into::into));
    match name {
        "up" => up::start(&given, &up::Args::from_arg_matches(sub)?)?,
        "serve" => up::serve(&given, &up::ServeArgs::from_arg_matches(sub)?)?,
        "git-hook" => {
            return Ok(wharf_git::hook::run(sub.get_one::<String>("NAME").map_or("", String::as_str)));
        }
        "jailer" => return roles::jailer::child(),
        "docker-runtime" => return roles::docker::child(),
        "control-plane" => return control::child(),
        "config" => config::run(&config::ConfigCommand::from_arg_matches(sub)?, || given.load())?,
        "doctor" => {
            let healthy = doctor::run(&doctor::Args::from_arg_matches(sub)?, || given.load())?;
            return Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        "key" => return local::key(&local::KeyCommand::from_arg_matches(sub)?, &given),
        "local" => return local::child(),
        "openapi" => println!("{}", serde_json::to_string_pretty(&wharf_server::document())?),
        _ => match local::of_noun(name, sub, &given)? {
            Some(code) => return Ok(code),
            None => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                return Ok(runtime.block_on(wharf_cli::run(matches)));
            }
        },
    }
    Ok(ExitCode::SUCCESS)
}
