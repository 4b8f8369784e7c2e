//! What every change must pass, cheapest first. Stops at the first failure unless asked to go on.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::sh::{self, cargo, have, program};
use crate::tidy;

#[derive(clap::Args)]
pub struct Args {
    /// Run all steps and report every failure
    #[arg(long)]
    keep_going: bool,
    /// Leave out the tests
    #[arg(long)]
    no_tests: bool,
}

struct Step {
    name: &'static str,
    run: fn() -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "tidy", run: tidy::run },
    Step { name: "fmt", run: || sh::run(&mut cargo(&["fmt", "--all", "--check"])) },
    Step {
        name: "clippy",
        run: || {
            sh::run(&mut cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ]))
        },
    },
    Step { name: "deny", run: deny },
    Step { name: "build", run: || sh::run(&mut cargo(&["build", "--workspace", "--locked"])) },
    Step { name: "host", run: || sh::run(&mut cargo(&["xtask", "host"])) },
    Step { name: "image", run: image },
    Step { name: "openapi", run: || openapi(true) },
    Step { name: "test", run: test },
    Step {
        name: "doc",
        run: || {
            sh::run(
                cargo(&["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"])
                    .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"),
            )
        },
    },
];

pub fn run(args: &Args) -> Result<()> {
    let mut times = Vec::new();
    let mut failed = Vec::new();
    for step in STEPS.iter().filter(|s| !(args.no_tests && s.name == "test")) {
        eprintln!("── {} ──", step.name);
        let begun = Instant::now();
        let result = (step.run)();
        times.push((step.name, begun.elapsed(), result.is_ok()));
        if let Err(error) = result {
            eprintln!("{}: {error:#}", step.name);
            failed.push(step.name);
            if !args.keep_going {
                break;
            }
        }
    }
    eprintln!("── summary ──");
    for (name, time, ok) in times {
        eprintln!("{name:<10} {:>7.1}s {}", time.as_secs_f64(), if ok { "ok" } else { "FAILED" });
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Licences, advisories and doubles, where cargo-deny is installed. It takes minutes to compile, which a run
/// on two cores cannot spare: CI machines that have it use it, and the step says so when it did not run.
fn deny() -> Result<()> {
    if have("cargo-deny") {
        sh::run(&mut cargo(&["deny", "--all-features", "check", "bans", "licenses", "sources"]))
    } else {
        eprintln!("cargo-deny is not installed: licences and doubles were not checked");
        Ok(())
    }
}

/// The images' archives, kept between runs: what people do on a computer is tested on what they do it on. The desktop is
/// large (a gigabyte and a half unpacked), so it is built only where the run requires it.
fn image() -> Result<()> {
    let required = std::env::var("WHARF_TEST_REQUIRE").unwrap_or_default();
    let desktop = required.split(',').any(|r| r.trim() == "desktop-image").then_some("desktop");
    for name in std::iter::once("base").chain(desktop) {
        let mut build = cargo(&["run", "--quiet", "--locked", "--package", "wharf", "--"]);
        sh::run(build.args(["image", "build", name, "--cache", "target/images", "--no-import"]))?;
    }
    Ok(())
}

fn test() -> Result<()> {
    if have("cargo-nextest") {
        sh::run(&mut cargo(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]))?;
        sh::run(&mut cargo(&["test", "--workspace", "--locked", "--doc", "--quiet"]))
    } else {
        bail!("cargo-nextest is not installed; `make setup` installs it")
    }
}

#[derive(clap::Args)]
pub struct Soak {
    /// How often something is killed where sessions are in jails
    #[arg(long, default_value_t = 300)]
    rounds: u32,
    /// How often where they are on Docker Engine
    #[arg(long, default_value_t = 60)]
    docker_rounds: u32,
    /// Make the choices of an earlier run again: the seed of its first round
    #[arg(long)]
    seed: Option<u64>,
}

/// The crash test of the whole system with more rounds; its output has every round's seed.
pub fn soak(args: &Soak) -> Result<()> {
    sh::run(&mut cargo(&["xtask", "host"]))?;
    for (runtime, rounds, needs) in
        [("native", args.rounds, "jail,postgres"), ("docker", args.docker_rounds, "jail,postgres,docker")]
    {
        if rounds == 0 {
            continue;
        }
        let filter = format!("test(/no_kill_at_any_time.*::{runtime}$/)");
        let mut test =
            cargo(&["nextest", "run", "--locked", "--profile", "soak", "--package", "wharf", "-E", &filter]);
        test.env("WHARF_CRASH_ROUNDS", rounds.to_string()).env("WHARF_TEST_REQUIRE", needs);
        if let Some(seed) = args.seed {
            test.env("WHARF_CRASH_SEED", seed.to_string());
        }
        sh::run(&mut test)?;
    }
    Ok(())
}

/// The OpenAPI document as the binary serves it, beside the committed one.
pub fn openapi(check: bool) -> Result<()> {
    let fresh =
        sh::output(&mut cargo(&["run", "--quiet", "--locked", "--package", "wharf", "--", "openapi"]))?;
    let path = sh::root().join("openapi/v1.json");
    let committed = std::fs::read(&path).unwrap_or_default();
    if committed == fresh {
        return Ok(());
    }
    if check {
        let _ = program("git", &["--no-pager", "diff", "--stat", "openapi"]).status();
        bail!("openapi/v1.json is not what the routes say; run `cargo xtask openapi` and commit it");
    }
    std::fs::write(&path, fresh).with_context(|| format!("cannot write {}", path.display()))
}
