//! What idle sessions cost: memory of their cgroups and processes, and of the control plane beside them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::report::{Quantiles, Row};
use super::sessions::{delete, make};
use super::wharf::Wharf;

pub const ROW: &str = "density";

/// Long enough that work every ten and every thirty seconds is counted as often as it happens.
const IDLE: Duration = Duration::from_secs(60);

pub async fn rows(wharf: &Wharf, count: usize) -> Result<Vec<Row>> {
    let mut http = wharf.http().await?;
    let before = tree(wharf.pid())?;
    let available = mem_available()?;
    for i in 0..count {
        make(&mut http, &format!("idle-{i}")).await?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let taken = available.saturating_sub(mem_available()?);
    let busy = cpu_seconds(wharf.pid())?;
    tokio::time::sleep(IDLE).await;
    let cpu = (cpu_seconds(wharf.pid())? - busy) / IDLE.as_secs_f64() * 100.0;
    let after = tree(wharf.pid())?;
    let hosts: Vec<&Process> = after.values().filter(|p| p.name.starts_with("wharf-host")).collect();
    ensure!(hosts.len() >= count, "{} hosts run for {count} sessions", hosts.len());
    let host_kib: u64 = hosts.iter().map(|p| p.pss_kib).sum();
    let control_kib: u64 =
        after.values().filter(|p| !p.name.starts_with("wharf-host")).map(|p| p.pss_kib).sum();
    ensure!(!before.is_empty(), "no process of the control plane was found");
    for i in 0..count {
        delete(&mut http, &format!("idle-{i}")).await?;
    }
    let mib = |kib: u64| Quantiles::exactly(kib as f64 / 1024.0);
    Ok(vec![
        Row::at_most(
            &format!("density: {count} idle sessions, memory the machine lost, each"),
            "MiB",
            mib(taken / count as u64),
            4.0,
        ),
        Row::figure("density: wharf-host, PSS each", "MiB", mib(host_kib / hosts.len() as u64)),
        Row::at_most("density: control plane with PostgreSQL, PSS", "MiB", mib(control_kib), 150.0),
        Row::at_most("density: CPU of everything while idle", "%", Quantiles::exactly(cpu), 0.5),
    ])
}

struct Process {
    name: String,
    pss_kib: u64,
}

/// All descendants of `root`, itself included.
fn tree(root: u32) -> Result<BTreeMap<u32, Process>> {
    let mut found = BTreeMap::new();
    for pid in descendants(root)? {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let pss_kib = rollup
            .lines()
            .find_map(|l| l.strip_prefix("Pss:"))
            .and_then(|v| v.trim().split(' ').next()?.parse().ok())
            .unwrap_or(0);
        found.insert(pid, Process { name, pss_kib });
    }
    Ok(found)
}

fn descendants(root: u32) -> Result<Vec<u32>> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        if let Some(fields) = stat(pid) {
            parents.insert(pid, fields.0);
        }
    }
    let of_root = |mut pid: u32| {
        while pid != root {
            match parents.get(&pid) {
                Some(&p) if p != 0 => pid = p,
                _ => return false,
            }
        }
        true
    };
    Ok(parents.keys().copied().filter(|&p| of_root(p)).collect())
}

/// Parent and clock ticks used.
fn stat(pid: u32) -> Option<(u32, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((
        rest.get(1)?.parse().ok()?,
        rest.get(11)?.parse::<u64>().ok()? + rest.get(12)?.parse::<u64>().ok()?,
    ))
}

fn cpu_seconds(root: u32) -> Result<f64> {
    let ticks: u64 = descendants(root)?.into_iter().filter_map(|p| stat(p).map(|s| s.1)).sum();
    Ok(ticks as f64 / 100.0)
}

/// Once the page cache is empty: what other rows left in it would otherwise be given back meanwhile and hide the sessions.
fn mem_available() -> Result<u64> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("empty the page cache")?;
    let text = std::fs::read_to_string("/proc/meminfo")?;
    text.lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|v| v.trim().split(' ').next()?.parse().ok())
        .context("MemAvailable")
}
