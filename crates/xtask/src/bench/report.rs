//! Samples, percentiles, and the table they end in.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// Milliseconds of each sample.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, d: Duration) {
        self.0.push(d.as_secs_f64() * 1e3);
    }

    pub fn extend(&mut self, milliseconds: &[f64]) {
        self.0.extend_from_slice(milliseconds);
    }

    pub fn quantiles(&self) -> Result<Quantiles> {
        ensure!(!self.0.is_empty(), "no samples were taken");
        let mut v = self.0.clone();
        v.sort_by(f64::total_cmp);
        let at = |q: f64| v[((v.len() - 1) as f64 * q).round() as usize];
        Ok(Quantiles { p50: at(0.5), p99: at(0.99) })
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
}

impl Quantiles {
    /// What this takes beyond that, median by median.
    pub fn minus(self, other: Self) -> Self {
        Self { p50: self.p50 - other.p50, p99: self.p99 - other.p99 }
    }

    pub fn exactly(value: f64) -> Self {
        Self { p50: value, p99: value }
    }
}

#[derive(Serialize)]
pub struct Peer {
    pub name: String,
    pub p50: f64,
    pub p99: f64,
}

#[derive(Serialize)]
pub struct Row {
    #[serde(rename = "row")]
    pub name: String,
    pub unit: &'static str,
    pub ours: Quantiles,
    pub peer: Option<Peer>,
    /// Ours divided by the peer's, medians.
    pub ratio: Option<f64>,
    pub bar: String,
    /// `None`: a figure without a bar.
    pub met: Option<bool>,
}

impl Row {
    /// A latency row with a bar on the ratio of medians and, where one is given, on our own median.
    pub fn against(
        row: &str,
        ours: &Samples,
        peer_name: &str,
        peer: &Samples,
        most: f64,
        p50_ms: Option<f64>,
    ) -> Result<Self> {
        let (ours, peer) = (ours.quantiles()?, peer.quantiles()?);
        let ratio = ours.p50 / peer.p50;
        let bar = match p50_ms {
            Some(ms) => format!("ratio ≤ {most:.3} and p50 ≤ {ms:.1} ms"),
            None => format!("ratio ≤ {most:.3}"),
        };
        Ok(Self {
            name: row.to_owned(),
            unit: "ms",
            ours,
            peer: Some(Peer { name: peer_name.to_owned(), p50: peer.p50, p99: peer.p99 }),
            ratio: Some(ratio),
            bar,
            met: Some(ratio <= most && p50_ms.is_none_or(|ms| ours.p50 <= ms)),
        })
    }

    /// Beside a peer, without a bar.
    pub fn beside(row: &str, ours: &Samples, peer_name: &str, peer: &Samples) -> Result<Self> {
        let row = Self::against(row, ours, peer_name, peer, f64::INFINITY, None)?;
        Ok(Self { bar: "–".to_owned(), met: None, ..row })
    }

    pub fn at_most(row: &str, unit: &'static str, ours: Quantiles, most: f64) -> Self {
        Self {
            name: row.to_owned(),
            unit,
            ours,
            peer: None,
            ratio: None,
            bar: format!("≤ {most}"),
            met: Some(ours.p50 <= most),
        }
    }

    pub fn figure(row: &str, unit: &'static str, ours: Quantiles) -> Self {
        Self { name: row.to_owned(), unit, ours, peer: None, ratio: None, bar: "–".to_owned(), met: None }
    }
}

#[derive(Serialize)]
struct Machine {
    kernel: String,
    cpu: String,
    cores: usize,
    memory_mib: u64,
    filesystem: String,
}

fn machine() -> Result<Machine> {
    let read = |p: &str| std::fs::read_to_string(p).with_context(|| p.to_owned());
    let line = |text: &str, key: &str| {
        text.lines()
            .find(|l| l.starts_with(key))
            .and_then(|l| l.split_once(':'))
            .map(|(_, v)| v.trim().to_owned())
    };
    let meminfo = read("/proc/meminfo")?;
    let kib: u64 = line(&meminfo, "MemTotal").and_then(|v| v.split(' ').next()?.parse().ok()).unwrap_or(0);
    let mounts = read("/proc/mounts")?;
    let root = mounts.lines().find(|l| l.split(' ').nth(1) == Some("/")).and_then(|l| l.split(' ').nth(2));
    Ok(Machine {
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cpu: line(&read("/proc/cpuinfo")?, "model name").unwrap_or_default(),
        cores: std::thread::available_parallelism()?.get(),
        memory_mib: kib / 1024,
        filesystem: root.unwrap_or("unknown").to_owned(),
    })
}

/// Prints the table, writes `target/bench/<name>.json` and says whether every bar was met.
pub fn finish(name: &str, rows: &[Row]) -> Result<()> {
    ensure!(!rows.is_empty(), "no row was run");
    println!("\n{}", table(rows));
    let dir = Path::new("target/bench");
    std::fs::create_dir_all(dir)?;
    let file = dir.join(format!("{name}.json"));
    let body = serde_json::json!({ "machine": machine()?, "rows": rows });
    std::fs::write(&file, serde_json::to_vec_pretty(&body)?)?;
    let missed: Vec<&str> = rows.iter().filter(|r| r.met == Some(false)).map(|r| r.name.as_str()).collect();
    println!(
        "written to {}; bars missed: {}",
        file.display(),
        if missed.is_empty() { "none".to_owned() } else { missed.join(", ") }
    );
    Ok(())
}

/// As Markdown, so that it can stand in `docs/benchmarks.md` as printed.
fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| row | ours p50 / p99 | peer p50 / p99 | ratio | bar | met |\n|---|---|---|---|---|---|\n",
    );
    for r in rows {
        let peer = r
            .peer
            .as_ref()
            .map_or("–".to_owned(), |p| format!("{} {:.2} / {:.2} {}", p.name, p.p50, p.p99, r.unit));
        let ratio = r.ratio.map_or("–".to_owned(), |x| format!("{x:.4}"));
        let met = r.met.map_or("–", |m| if m { "yes" } else { "**no**" });
        let Quantiles { p50, p99 } = r.ours;
        out.extend([
            "| ",
            &r.name,
            &format!(" | {p50:.2} / {p99:.2} {} | {peer} | {ratio} | ", r.unit),
            &r.bar,
        ]);
        out.extend([" | ", met, " |\n"]);
    }
    out
}
