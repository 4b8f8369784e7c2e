//! The program `wharf-host`. See the library for what it does.

use std::process::ExitCode;

use wharf_host::{Options, run};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|a| a == "agent").is_some() {
        return wharf_agent::main(args);
    }
    if args.next_if(|a| a == "git-ssh").is_some() {
        return wharf_host::git_ssh::main(args);
    }
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err((text, code)) => {
            if code == 0 {
                print!("{text}");
            } else {
                eprint!("{text}");
            }
            return ExitCode::from(code as u8);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wharf-host: {e}");
            ExitCode::FAILURE
        }
    }
}
