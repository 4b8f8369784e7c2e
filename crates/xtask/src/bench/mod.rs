//! `cargo xtask bench …`: Wharf beside a peer measured in the same run on the same machine.
//!
//! Bars are ratios; absolute numbers are printed because people ask for them. A row or a peer that cannot be run
//! fails the bench: a missing number is not a good number. Every bench writes `target/bench/<name>.json`.

mod density;
mod docker;
mod fork;
mod gateway;
mod http;
mod ports;
mod report;
mod sessions;
mod turns;
mod wharf;

use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Create, exec, restore, fork, turns and density of sessions, beside Docker Engine and the bare syscalls
    Sessions(SessionsArgs),
    /// Requests, bytes and a model's stream through the gateway beside a direct connection; pictures and turns
    Gateway(GatewayArgs),
}

#[derive(Args, Clone)]
pub struct GatewayArgs {
    /// Samples of each row
    #[arg(long, default_value_t = 100)]
    pub samples: usize,
}

#[derive(Args, Clone)]
pub struct SessionsArgs {
    /// Samples of each latency row
    #[arg(long, default_value_t = 60)]
    pub samples: usize,
    /// Idle sessions of the density row
    #[arg(long, default_value_t = 200)]
    pub density: usize,
    /// Bytes of the session whose fork is measured, in MiB
    #[arg(long, default_value_t = 1024)]
    pub fork_mib: u64,
    /// Root filesystem archive of the image under test; built by `wharf image build base`
    #[arg(long)]
    pub archive: Option<std::path::PathBuf>,
    /// Only rows whose name contains this
    #[arg(long)]
    pub only: Option<String>,
}

pub fn run(bench: Bench) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match bench.what {
        What::Sessions(args) => runtime.block_on(sessions::run(args)),
        What::Gateway(args) => runtime.block_on(gateway::run(args)),
    }
}
