//! The table of session latencies: each row beside its peer, alternating so that both see the same machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::docker::{Docker, IMAGE, LIMITS};
use super::http::Http;
use super::report::{Row, Samples, finish};
use super::wharf::{SPACE, Wharf, session};
use super::{SessionsArgs, density, fork, ports, turns};

const CREATE: &str = "create → first output, warm";
const COLD: &str = "create → first output, cold";
const EXEC: &str = "exec `true` over HTTP";
const ON_DOCKER: &str = "on the Docker runtime";
const RESTORE: &str = "restore a closed session → first output";

pub async fn run(args: SessionsArgs) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the bench starts jails and Docker Engine: run it as root");
    let archive = args.archive.clone().map_or_else(|| find_archive("base"), Ok)?;
    let dir = PathBuf::from("target/bench/sessions");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let wants = |row: &str| args.only.as_deref().is_none_or(|o| row.contains(o));
    let docker = Docker::start(&dir.join("docker"))?;
    docker.import(&archive)?;
    let mut rows = Vec::new();

    let fsync = fsync(&dir, 200)?;
    let one = fsync.quantiles()?.p50;
    rows.push(Row::figure("one fsync (8 KiB write + fdatasync)", "ms", fsync.quantiles()?));
    if let Some(floor) = floor(&dir)? {
        rows.push(Row::figure(
            "floor: clone + overlay + pivot_root + exec, bare syscalls",
            "ms",
            floor.quantiles()?,
        ));
    }

    let wharf = Wharf::start(&dir, 0).await?;
    wharf.furnish(&archive).await?;
    if wants(COLD) {
        let (ours, peer) = create(&wharf, &docker, args.samples, Duration::ZERO).await?;
        rows.push(Row::against(COLD, &ours, "docker run", &peer, 1.0 / 15.0, Some(15.0 + one))?);
    }
    wharf.stop().await?;

    let wharf = Wharf::start(&dir, 3).await?;
    let ready = super::report::Quantiles::exactly(wharf.ready_in.as_secs_f64() * 1e3);
    rows.push(Row::at_most("`wharf up` on an existing data directory → ready", "ms", ready, 2000.0));
    if wants(CREATE) {
        let (ours, peer) = create(&wharf, &docker, args.samples, Duration::from_millis(120)).await?;
        rows.push(Row::against(CREATE, &ours, "docker run", &peer, 1.0 / 20.0, Some(5.0 + one))?);
    }
    if wants(EXEC) {
        let (ours, peer) = exec(&wharf, &docker, args.samples).await?;
        rows.push(Row::against(EXEC, &ours, "docker exec", &peer, 1.0 / 20.0, None)?);
    }
    if wants(RESTORE) {
        let (ours, peer) = restore(&wharf, &docker, args.samples).await?;
        rows.push(Row::against(RESTORE, &ours, "docker start + exec", &peer, 1.0 / 10.0, Some(15.0 + one))?);
    }
    if wants(fork::ROW) {
        rows.extend(fork::rows(&wharf, &dir, args.fork_mib).await?);
    }
    if wants(turns::ROW) {
        rows.extend(turns::rows(&wharf, &dir, args.samples).await?);
    }
    if wants(ports::ROW) {
        rows.extend(ports::rows(&wharf, args.samples).await?);
    }
    if wants(density::ROW) {
        rows.extend(density::rows(&wharf, args.density).await?);
    }
    wharf.stop().await?;
    if wants(ON_DOCKER) {
        rows.extend(on_docker(&dir.join("on-docker"), &archive, &docker, &args).await?);
    }
    finish("sessions", &rows)
}

/// The same requests with sessions on the engine the peer runs on: what Wharf adds to it, and what the native runtime saves.
/// Figures, no bars: the engine's time is not ours.
async fn on_docker(dir: &Path, archive: &Path, docker: &Docker, args: &SessionsArgs) -> Result<Vec<Row>> {
    let wharf = Wharf::on_docker(dir, &docker.socket()).await?;
    wharf.furnish(archive).await?;
    // An engine takes a good part of a second for each.
    let samples = args.samples.div_ceil(3);
    let mut rows = Vec::new();
    let (ours, peer) = create(&wharf, docker, samples, Duration::ZERO).await?;
    rows.push(Row::beside(&format!("{ON_DOCKER}: create → first output"), &ours, "docker run", &peer)?);
    let (ours, peer) = exec(&wharf, docker, samples).await?;
    rows.push(Row::beside(&format!("{ON_DOCKER}: exec `true` over HTTP"), &ours, "docker exec", &peer)?);
    let (ours, peer) = restore(&wharf, docker, samples).await?;
    rows.push(Row::beside(
        &format!("{ON_DOCKER}: restore → first output"),
        &ours,
        "docker start + exec",
        &peer,
    )?);
    rows.extend(fork::on_docker(&wharf, args.fork_mib).await?);
    wharf.stop().await?;
    Ok(rows)
}

/// Built by `wharf image build NAME`, wherever a demo or an installation left it.
pub fn find_archive(name: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("target/images")
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{name}-"))))
        .collect();
    found.sort_by_key(|p| p.metadata().and_then(|m| m.modified()).ok());
    found
        .pop()
        .with_context(|| format!("no archive of the image {name}: run `make demo` first, or give --archive"))
}

pub async fn first_output(http: &mut Http, name: &str) -> Result<()> {
    let out = http.post(&format!("{SPACE}/sessions/{name}/exec"), json!({ "argv": ["echo", "ok"] })).await?;
    ensure!(out["stdout"] == "ok\n" && out["exit_code"] == 0, "exec answered {out}");
    Ok(())
}

pub async fn make(http: &mut Http, name: &str) -> Result<Value> {
    let made = http.post(&format!("{SPACE}/sessions?wait=ready"), session(name)).await?;
    ensure!(made["state"] == "idle", "the session is not idle: {made}");
    Ok(made)
}

pub async fn delete(http: &mut Http, name: &str) -> Result<()> {
    http.call(hyper::Method::DELETE, &format!("{SPACE}/sessions/{name}"), None).await?;
    Ok(())
}

async fn create(
    wharf: &Wharf,
    docker: &Docker,
    samples: usize,
    pause: Duration,
) -> Result<(Samples, Samples)> {
    let mut http = wharf.http().await?;
    let (mut ours, mut peer) = (Samples::default(), Samples::default());
    for i in 0..samples {
        let name = format!("create-{i}");
        tokio::time::sleep(pause).await;
        let since = Instant::now();
        make(&mut http, &name).await?;
        first_output(&mut http, &name).await?;
        ours.push(since.elapsed());
        delete(&mut http, &name).await?;
        if i % 3 == 0 {
            let mut run = vec!["run", "--rm"];
            run.extend(LIMITS);
            run.extend([IMAGE, "echo", "ok"]);
            let since = Instant::now();
            ensure!(docker.run(&run)? == "ok", "docker run printed something else");
            peer.push(since.elapsed());
        }
    }
    Ok((ours, peer))
}

fn docker_up(docker: &Docker) -> Result<String> {
    let mut run = vec!["run", "-d"];
    run.extend(LIMITS);
    run.extend([IMAGE, "sleep", "infinity"]);
    docker.run(&run)
}

async fn exec(wharf: &Wharf, docker: &Docker, samples: usize) -> Result<(Samples, Samples)> {
    let mut http = wharf.http().await?;
    make(&mut http, "exec").await?;
    let container = docker_up(docker)?;
    let (mut ours, mut peer) = (Samples::default(), Samples::default());
    for i in 0..samples * 3 {
        let since = Instant::now();
        let out = http.post(&format!("{SPACE}/sessions/exec/exec"), json!({ "argv": ["true"] })).await?;
        ours.push(since.elapsed());
        ensure!(out["exit_code"] == 0, "exec answered {out}");
        if i % 6 == 0 {
            let since = Instant::now();
            docker.run(&["exec", &container, "true"])?;
            peer.push(since.elapsed());
        }
    }
    delete(&mut http, "exec").await?;
    docker.run(&["rm", "-f", &container])?;
    Ok((ours, peer))
}

async fn restore(wharf: &Wharf, docker: &Docker, samples: usize) -> Result<(Samples, Samples)> {
    let mut http = wharf.http().await?;
    make(&mut http, "restore").await?;
    let container = docker_up(docker)?;
    let (mut ours, mut peer) = (Samples::default(), Samples::default());
    for i in 0..samples {
        http.post(&format!("{SPACE}/sessions/restore/close"), json!({})).await?;
        until_closed(&mut http, "restore").await?;
        let since = Instant::now();
        // An exec on a closed session restores it: one request, as a user would make it.
        first_output(&mut http, "restore").await?;
        ours.push(since.elapsed());
        if i % 4 == 0 {
            docker.run(&["stop", "-t", "0", &container])?;
            let since = Instant::now();
            docker.run(&["start", &container])?;
            docker.run(&["exec", &container, "echo", "ok"])?;
            peer.push(since.elapsed());
        }
    }
    delete(&mut http, "restore").await?;
    docker.run(&["rm", "-f", &container])?;
    Ok((ours, peer))
}

async fn until_closed(http: &mut Http, name: &str) -> Result<()> {
    let since = Instant::now();
    while http.get(&format!("{SPACE}/sessions/{name}")).await?["state"] != "closed" {
        ensure!(since.elapsed() < Duration::from_secs(10), "{name} does not close");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// What one durable commit costs at the least on this disk, now.
pub fn fsync(dir: &Path, times: usize) -> Result<Samples> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(dir.join("fsync"))?;
    let mut samples = Samples::default();
    for i in 0..times {
        let since = Instant::now();
        file.write_all_at(&[7; 8192], (i * 8192) as u64)?;
        file.sync_data()?;
        samples.push(since.elapsed());
    }
    Ok(samples)
}

/// The C program beside this file does only what a sandbox cannot do without.
fn floor(dir: &Path) -> Result<Option<Samples>> {
    let program = dir.join("floor");
    let source = dir.join("floor.c");
    std::fs::write(&source, include_str!("floor.c"))?;
    let status = std::process::Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(&program)
        .arg(&source)
        .status()?;
    ensure!(status.success(), "the floor program does not compile");
    let out = std::process::Command::new(&program).arg(dir.join("floor.d")).arg("100").output()?;
    ensure!(out.status.success(), "floor: {}", String::from_utf8_lossy(&out.stderr));
    let mut samples = Samples::default();
    for line in String::from_utf8(out.stdout)?.lines() {
        samples.push(Duration::from_nanos(line.parse()?));
    }
    Ok(Some(samples))
}
