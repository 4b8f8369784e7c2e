//! Fork of a session with much data beside copying the tree, flat in the size, and the stall of a running parent.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::http::Http;
use super::report::{Quantiles, Row, Samples};
use super::sessions::{delete, first_output, make};
use super::wharf::{SPACE, Wharf};

pub const ROW: &str = "fork";
/// Enough for a median; a copy of the tree takes seconds.
const TIMES: usize = 9;

pub async fn rows(wharf: &Wharf, dir: &Path, mib: u64) -> Result<Vec<Row>> {
    let mut http = wharf.http().await?;
    make(&mut http, "parent").await?;
    let small = forks(wharf, "parent", TIMES).await?;
    let files = small_files(mib);
    fill(&mut http, mib).await?;
    let large = forks(wharf, "parent", TIMES).await?;
    let copies = copies(dir, mib, files)?;
    let stalls = stalls(wharf).await?;
    delete(&mut http, "parent").await?;
    let (small, flat) = (small.quantiles()?, large.quantiles()?);
    Ok(vec![
        Row::against(
            &format!("fork of a running session with {mib} MiB → ready"),
            &large,
            "cp -a",
            &copies,
            1.0 / 20.0,
            None,
        )?,
        Row::at_most(
            "fork: full ÷ empty parent (flat in the size)",
            "×",
            Quantiles::exactly(flat.p50 / small.p50),
            2.0,
        ),
        Row::at_most("fork: stall of the running parent", "ms", stalls.quantiles()?, 15.0),
    ])
}

/// The same with sessions on Docker Engine, which copies what was written.
pub async fn on_docker(wharf: &Wharf, mib: u64) -> Result<Vec<Row>> {
    const FEW: usize = 3;
    let mut http = wharf.http().await?;
    make(&mut http, "parent").await?;
    let small = forks(wharf, "parent", TIMES).await?;
    fill(&mut http, mib).await?;
    let large = forks(wharf, "parent", FEW).await?;
    delete(&mut http, "parent").await?;
    Ok(vec![
        Row::figure(
            "on the Docker runtime: fork of an empty running session → ready",
            "ms",
            small.quantiles()?,
        ),
        Row::figure(&format!("on the Docker runtime: fork with {mib} MiB → ready"), "ms", large.quantiles()?),
    ])
}

/// A tenth in small files, the rest in one: what a checkout with its data looks like.
fn small_files(mib: u64) -> u64 {
    mib * 1024 / 10 / 50
}

async fn fill(http: &mut Http, mib: u64) -> Result<()> {
    let files = small_files(mib);
    let fill = format!(
        "set -e; mkdir -p data; head -c {}M /dev/urandom > data/big; for i in $(seq {files}); do \
         head -c 50K /dev/urandom > data/$i; done; sync",
        mib * 9 / 10
    );
    let out = http
        .post(&format!("{SPACE}/sessions/parent/exec"), json!({ "command": fill, "timeout_seconds": 300 }))
        .await?;
    ensure!(out["exit_code"] == 0, "filling the parent failed: {out}");
    Ok(())
}

async fn forks(wharf: &Wharf, parent: &str, times: usize) -> Result<Samples> {
    let mut http = wharf.http().await?;
    let mut samples = Samples::default();
    for i in 0..times {
        let name = format!("fork-{i}");
        let since = Instant::now();
        let made =
            http.post(&format!("{SPACE}/sessions/{parent}/fork?wait=ready"), json!({ "name": name })).await?;
        samples.push(since.elapsed());
        ensure!(made["state"] == "idle", "the fork is not ready: {made}");
        first_output(&mut http, &name).await?;
        delete(&mut http, &name).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(samples)
}

/// The same amount of data of the same shape, copied on the same disk.
fn copies(dir: &Path, mib: u64, files: u64) -> Result<Samples> {
    let from = dir.join("tree");
    std::fs::create_dir_all(&from)?;
    let fill = format!(
        "set -e; head -c {}M /dev/urandom > big; for i in $(seq {files}); do head -c 50K /dev/urandom > $i; done; sync",
        mib * 9 / 10
    );
    ensure!(
        Command::new("bash").args(["-c", &fill]).current_dir(&from).status()?.success(),
        "filling the tree failed"
    );
    let mut samples = Samples::default();
    for _ in 0..3 {
        let to = dir.join("copy");
        let since = Instant::now();
        ensure!(Command::new("cp").arg("-a").arg(&from).arg(&to).status()?.success(), "cp -a failed");
        samples.push(since.elapsed());
        std::fs::remove_dir_all(&to)?;
    }
    std::fs::remove_dir_all(&from)?;
    Ok(samples)
}

/// As the runtime reports it with each snapshot of a session that writes all the time.
async fn stalls(wharf: &Wharf) -> Result<Samples> {
    let mut http = wharf.http().await?;
    let mut samples = Samples::default();
    let load = json!({ "command": "while :; do head -c 1M /dev/urandom > load; sleep 0.01; done", "background": true });
    http.post(&format!("{SPACE}/sessions/parent/exec"), load).await?;
    for _ in 0..TIMES {
        let snapshot = http.post(&format!("{SPACE}/sessions/parent/snapshots?wait=ready"), json!({})).await?;
        let micros = snapshot["stall_micros"].as_u64().context("a snapshot reports its stall")?;
        samples.push(Duration::from_micros(micros));
    }
    Ok(samples)
}
