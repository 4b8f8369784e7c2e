//! Imports between our crates, and external crates with an owner, against the table of ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{Finding, finding};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// `None`: everything.
    pub ours: Option<BTreeSet<String>>,
    pub owns: BTreeSet<String>,
}

/// The table whose second last column is headed `may import (ours)`.
pub fn table(markdown: &str) -> Result<BTreeMap<String, Row>> {
    let mut rows = BTreeMap::new();
    let mut inside = false;
    for line in markdown.lines() {
        let Some(cells) = cells(line) else {
            inside = false;
            continue;
        };
        if cells.iter().any(|c| c == "may import (ours)") {
            inside = true;
            continue;
        }
        if !inside || cells.iter().all(|c| c.chars().all(|c| c == '-')) {
            continue;
        }
        let [name, _, ours, owns] = cells.as_slice() else {
            bail!("ARCHITECTURE.md: a row of the crate table has not four cells: {line}");
        };
        let ours = (ours != "everything").then(|| words(ours));
        rows.insert(name.trim_matches('`').to_owned(), Row { ours, owns: words(owns) });
    }
    if rows.is_empty() {
        bail!("ARCHITECTURE.md has no table with the column `may import (ours)`");
    }
    Ok(rows)
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(|c| c.trim().to_owned()).collect())
}

fn words(cell: &str) -> BTreeSet<String> {
    cell.split(',')
        .map(|w| w.trim().trim_matches('`').trim_matches('*').to_owned())
        .filter(|w| !w.is_empty() && w != "–" && w != "-")
        .collect()
}

pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let page = Path::new("ARCHITECTURE.md");
    let rows = table(&std::fs::read_to_string(root.join(page)).context("ARCHITECTURE.md")?)?;
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let dir = entry?.path();
        let manifest = dir.join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shown = Path::new("crates").join(&name).join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest)?;
        let Some(row) = rows.get(&name) else {
            findings.push(finding(&shown, 0, "this crate has no row in ARCHITECTURE.md's table"));
            continue;
        };
        let toml: toml::Table = text.parse().with_context(|| shown.display().to_string())?;
        for import in dependencies(&toml) {
            let line = text.lines().position(|l| l.starts_with(&import)).map_or(0, |n| n + 1);
            if let Some(problem) = refusal(&name, row, &import, &rows) {
                findings.push(finding(&shown, line, problem));
            }
        }
        seen.insert(name);
    }
    for name in rows.keys().filter(|n| !seen.contains(*n)) {
        findings.push(finding(page, 0, format!("the table names crate `{name}`, and there is none")));
    }
    Ok(findings)
}

/// Names under `[dependencies]`, for any target. Development dependencies do not ship and are free.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let of = |table: &toml::Table| -> Vec<String> {
        ["dependencies", "build-dependencies"]
            .iter()
            .filter_map(|key| table.get(*key)?.as_table())
            .flat_map(|t| t.keys().cloned())
            .collect()
    };
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let mut all = of(manifest);
    all.extend(targets.into_iter().flat_map(|t| t.values().filter_map(toml::Value::as_table).flat_map(of)));
    all
}

fn refusal(name: &str, row: &Row, import: &str, rows: &BTreeMap<String, Row>) -> Option<String> {
    if let Some(ours) = import.strip_prefix("wharf-") {
        let allowed = row.ours.as_ref().is_none_or(|set| set.contains(ours));
        let testkit = ours == "testkit" && name != "xtask";
        return (!allowed || testkit).then(|| {
            format!("`{name}` may not import `{ours}`: the table in ARCHITECTURE.md does not have it")
        });
    }
    let owners: Vec<&str> =
        rows.iter().filter(|(_, r)| r.owns.contains(import)).map(|(n, _)| n.as_str()).collect();
    let free = owners.is_empty() || owners.contains(&name);
    (!free).then(|| format!("`{import}` belongs to {} alone", owners.join(", ")))
}
