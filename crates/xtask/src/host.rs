//! Builds `wharf-host` as it is shipped: one static file that runs in any session, whatever its image holds.
//!
//! A target directory of its own, so that its flags do not throw away what everybody else has built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

const TARGET: &str = "x86_64-unknown-linux-gnu";

#[derive(clap::Args)]
pub struct Host {
    /// Optimised, as in a release
    #[arg(long)]
    release: bool,
}

pub fn run(args: &Host) -> Result<()> {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let profile = if args.release { "release" } else { "debug" };
    let own = target.join("host");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(&workspace)
        .args(["build", "--package", "wharf-host", "--bin", "wharf-host-dev", "--target", TARGET])
        .args(["--config", &format!("target.{TARGET}.rustflags=[\"-Ctarget-feature=+crt-static\"]")])
        // Small where size is memory: this is mapped once per session.
        .args(["--config", "profile.release.opt-level=\"s\"", "--config", "profile.release.lto=true"])
        .args(["--config", "profile.release.codegen-units=1", "--config", "profile.release.strip=true"])
        .arg("--target-dir")
        .arg(&own)
        .env_remove("RUSTFLAGS");
    if args.release {
        cargo.arg("--release");
    }
    if !cargo.status().context("cargo did not start")?.success() {
        bail!("wharf-host did not build");
    }
    let built = own.join(TARGET).join(profile).join("wharf-host-dev");
    let copy = target.join(profile).join("wharf-host");
    std::fs::create_dir_all(target.join(profile))?;
    // A new file: the old one may be running.
    let fresh = copy.with_extension("new");
    std::fs::copy(&built, &fresh).with_context(|| format!("copying {}", built.display()))?;
    std::fs::rename(&fresh, &copy).with_context(|| format!("replacing {}", copy.display()))?;
    println!("{}", copy.display());
    Ok(())
}
