//! The command line of Wharf: every noun of the public API as `wharf NOUN VERB`, and nothing that is not in that API.
//!
//! A library, so that the binary can put these commands beside its own (`up`, `serve`, `doctor`). It speaks to a server
//! through `wharf-client` only, keeps one file (see [`config`]), prints data on stdout and everything else on stderr.
//!
//! ```no_run
//! # async fn main_of_the_binary() -> std::process::ExitCode {
//! wharf_cli::complete(wharf_cli::command); // answers the shell's completion request and exits, if this is one
//! let matches = wharf_cli::command().get_matches();
//! wharf_cli::run(&matches).await
//! # }
//! ```

pub mod command;
pub mod complete;
pub mod config;
pub mod context;
pub mod exit;
pub mod output;
pub mod prompt;
pub mod show;
pub mod stdin;

use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _, Subcommand as _};

pub use command::Command;
pub use complete::complete;
pub use context::{Ctx, Globals};

const LONG_ABOUT: &str = "\
Wharf runs AI agents on a machine of your own: each session is an isolated computer with a durable conversation.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong use, 3 not found, 4 denied, \
5 conflict, 6 unavailable; `session exec` and `session shell` pass on the code of what they ran.";

const AFTER_HELP: &str = "\
First steps:
  wharf up                          start a server on this machine
  wharf login                       log in to it
  wharf session create demo --wait  make a session
  wharf session exec demo -- uname -a
  wharf session send demo 'echo hello'

Environment:
  WHARF_URL, WHARF_TOKEN, WHARF_SPACE  server, token and space to use instead of the context's
  NO_COLOR                             no colours";

/// The root command with every noun of the API. The binary adds its own subcommands to it.
///
/// The global options are accepted before the noun and anywhere behind it; commands the binary adds do not take them.
pub fn command() -> clap::Command {
    let root = clap::Command::new("wharf")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(AFTER_HELP)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(false);
    let globals: Vec<clap::Arg> =
        Globals::augment_args(clap::Command::new("")).get_arguments().cloned().collect();
    let root = Command::augment_subcommands(root)
        .mut_subcommands(|noun| noun.args(globals.iter().cloned().map(|a| a.global(true))));
    // Said last: what is flattened in brings its own words.
    Globals::augment_args(root)
        .about("A control plane for AI agents on a machine of your own")
        .long_about(LONG_ABOUT)
}

/// Runs what was asked for. Errors are printed; the answer is the exit code.
pub async fn run(matches: &clap::ArgMatches) -> ExitCode {
    match try_run(matches).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(report(&error)),
    }
}

/// Prints an error as every command does and answers its exit code, for the binary's own commands too.
pub fn report(error: &anyhow::Error) -> u8 {
    let code = exit::code(error);
    if code != 0 && error.downcast_ref::<exit::Silent>().is_none() {
        output::note(exit::describe(error));
    }
    code
}

async fn try_run(matches: &clap::ArgMatches) -> anyhow::Result<()> {
    let mut globals = Globals::from_arg_matches(matches)?;
    if let Some((_, noun)) = matches.subcommand() {
        globals = globals.or(Globals::from_arg_matches(noun)?);
    }
    let command = Command::from_arg_matches(matches)?;
    let ctx = Ctx::new(globals)?;
    command.run(&ctx).await
}
