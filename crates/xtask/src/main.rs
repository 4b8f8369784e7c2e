//! The project's own chores, in Rust so that they need nothing else: checks, generated files, demonstrations.

mod bench;
mod ci;
mod demo;
mod fuzz;
mod host;
mod sh;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of this repository")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check imports against ARCHITECTURE.md, file lengths, documentation of error codes, banned calls
    Tidy,
    /// Measure beside peers in the same run
    Bench(bench::Bench),
    /// Build the static wharf-host and put it beside the wharf binary
    Host(host::Host),
    /// The main job on real input, against release binaries
    Demo(demo::Args),
    /// Everything a change must pass, cheapest first
    Ci(ci::Args),
    /// Kill -9 at random under load, many rounds
    Soak(ci::Soak),
    /// Feed the parsers and the image importer with what nobody would send
    Fuzz(fuzz::Args),
    /// Write openapi/v1.json from the routes
    Openapi {
        /// Only say whether the committed document is fresh
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Tidy => tidy::run(),
        Task::Bench(bench) => bench::run(bench),
        Task::Host(args) => host::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Ci(args) => ci::run(&args),
        Task::Soak(args) => ci::soak(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Openapi { check } => ci::openapi(check),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
