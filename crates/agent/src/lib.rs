//! The built-in agent `computer-use`: a model with a shell, an editor, files, a screen and MCP servers.
//!
//! A process of its own, started by `wharf-host` as the user `agent` and spoken to in the lines of
//! [`wharf_wire::host::agent`]: whatever happens to it, the first process of the session goes on. It holds no key: the gateway adds
//! it. What it was told and did is in its [`journal`] before anybody hears of it, so that the next process goes on where this one
//! ended, and runs no tool twice.

pub mod block;
pub mod cancel;
pub mod compact;
pub mod guard;
pub mod history;
pub mod http;
pub mod images;
pub mod journal;
pub mod model;
pub mod out;
mod prompt;
pub mod screen;
pub mod serve;
pub mod sse;
pub mod talk;
pub mod tools;
mod turn;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Names another gateway's socket; for tests.
const GATEWAY_SOCKET: &str = "WHARF_GATEWAY_SOCKET";

const HELP: &str = "\
wharf-host agent: the built-in agent `computer-use`

Speaks JSON lines on its standard streams with the wharf-host that starts it; there is nothing to be done with it by hand.
";

/// `wharf-host agent`, with what comes behind.
pub fn main(mut args: impl Iterator<Item = String>) -> ExitCode {
    match args.next().as_deref() {
        None => {}
        Some("--help" | "-h") => {
            return match std::io::stdout().write_all(HELP.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Some(other) => {
            eprintln!("wharf-host agent: there is no option {other}; see --help");
            return ExitCode::from(2);
        }
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/home/agent"), PathBuf::from);
    let gateway =
        std::env::var_os(GATEWAY_SOCKET).map_or_else(|| PathBuf::from(http::GATEWAY), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
    let served = runtime.and_then(|runtime| {
        let served = runtime.block_on(serve::serve(home, gateway));
        // A read of standard input may still wait in its thread.
        runtime.shutdown_background();
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wharf-host agent: {e}");
            ExitCode::FAILURE
        }
    }
}
