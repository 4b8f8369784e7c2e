//! Runs the fuzz targets for a while, each for its share of the time. They need a nightly compiler and nothing else:
//! the flags are the ones cargo-fuzz gives, whose layout `fuzz/` keeps for whoever has it.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::sh::{self, program};

#[derive(clap::Args)]
pub struct Args {
    /// How long all targets together may take
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this target; all without it
    target: Option<String>,
}

/// libFuzzer's coverage instrumentation and the address sanitizer.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Zsanitizer=address -Cdebug-assertions \
    -Ccodegen-units=1";

#[derive(serde::Deserialize)]
struct Manifest {
    bin: Vec<Target>,
}

#[derive(serde::Deserialize)]
struct Target {
    name: String,
}

pub fn run(args: &Args) -> Result<()> {
    let dir = sh::root().join("fuzz");
    let text = fs::read_to_string(dir.join("Cargo.toml")).context("cannot read fuzz/Cargo.toml")?;
    let manifest: Manifest = toml::from_str(&text).context("cannot read fuzz/Cargo.toml")?;
    let names: Vec<String> = manifest.bin.into_iter().map(|target| target.name).collect();
    let chosen: Vec<&String> =
        names.iter().filter(|name| args.target.as_ref().is_none_or(|wanted| wanted == *name)).collect();
    if chosen.is_empty() {
        bail!("no such target; there are {}", names.join(", "));
    }
    // A sanitizer needs the target named, or build scripts would be instrumented too.
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = program(
        "cargo",
        &[
            "+nightly",
            "build",
            "--release",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--target",
            &host,
            "--bins",
        ],
    );
    build.env("RUSTFLAGS", FLAGS).env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    sh::run(&mut build).context("fuzzing needs a nightly compiler: rustup toolchain install nightly")?;
    let share = (args.seconds / chosen.len() as u64).max(1);
    for name in chosen {
        let (corpus, artifacts) = (format!("fuzz/corpus/{name}"), format!("fuzz/artifacts/{name}/"));
        for path in [&corpus, &artifacts] {
            fs::create_dir_all(sh::root().join(path)).with_context(|| format!("cannot create {path}"))?;
        }
        sh::run(&mut program(
            &format!("fuzz/target/{host}/release/{name}"),
            &[
                &format!("-max_total_time={share}"),
                &format!("-artifact_prefix={artifacts}"),
                "-timeout=10",
                "-rss_limit_mb=1024",
                "-print_final_stats=1",
                &corpus,
            ],
        ))
        .with_context(|| format!("{name} found something; the input is in {artifacts}"))?;
    }
    Ok(())
}
