//! Every error code has its line of documentation: it is what a client reads.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Finding, finding};

pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let shown = Path::new("crates/domain/src/error.rs");
    let text = std::fs::read_to_string(root.join(shown)).with_context(|| shown.display().to_string())?;
    Ok(undocumented(&text).into_iter().map(|(line, what)| finding(shown, line, what)).collect())
}

/// Lines of the `codes!` list that are not documented, and the list's absence.
pub fn undocumented(source: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let Some(begin) = lines.iter().position(|l| *l == "codes! {") else {
        return vec![(0, "there is no `codes! {` list to check".into())];
    };
    let mut out = Vec::new();
    let mut count = 0;
    for at in begin + 1..lines.len() {
        let line = lines[at];
        if line == "}" {
            break;
        }
        let Some((code, _)) = line.split_once(" = \"") else { continue };
        count += 1;
        let doc = lines[at - 1].strip_prefix("///").unwrap_or_default().trim();
        if doc.is_empty() {
            out.push((at + 1, format!("error code {code} has no line of documentation")));
        } else if !doc.ends_with('.') {
            out.push((at + 1, format!("the documentation of error code {code} is not a sentence")));
        }
    }
    if count == 0 {
        out.push((begin + 1, "the list of error codes is empty".into()));
    }
    out
}
