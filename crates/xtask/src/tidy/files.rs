//! Length of files, their opening words, and words left for later.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::scan::layers;
use super::{Finding, finding};
use crate::sh;

pub const LONGEST: usize = 500;

/// Files git knows of or would add, relative to `root`.
pub fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = sh::program("git", &["ls-files", "--cached", "--others", "--exclude-standard"]);
    let out = sh::output(git.current_dir(root))?;
    let text = String::from_utf8(out).context("git ls-files")?;
    Ok(text.lines().map(PathBuf::from).filter(|p| root.join(p).is_file()).collect())
}

/// Tests may be as long as their story; the rest of `path` says where tests live.
pub fn is_test(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let dirs = path.parent().into_iter().flat_map(Path::components).map(|c| c.as_os_str().to_string_lossy());
    name == "tests.rs"
        || name.ends_with("_tests.rs")
        || dirs.into_iter().any(|d| matches!(&*d, "tests" | "benches" | "fuzz" | "examples" | "testkit"))
}

pub fn check(root: &Path, path: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let kind = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prose = matches!(&*kind, "rs" | "md" | "sh" | "sql" | "py") || matches!(&*name, "Makefile" | "run");
    if !prose {
        return Ok(findings);
    }
    let text = std::fs::read_to_string(root.join(path)).with_context(|| path.display().to_string())?;
    let rust = kind == "rs";
    if rust && !is_test(path) {
        let lines = text.lines().count();
        if lines > LONGEST {
            findings.push(finding(
                path,
                0,
                format!("{lines} lines; {LONGEST} is the most: split it by noun or by step"),
            ));
        }
        let opening = text.lines().find(|l| !l.trim().is_empty() && !l.starts_with("#!["));
        if !opening.is_some_and(|l| l.starts_with("//!")) {
            findings.push(finding(path, 1, "does not open with `//!` and why it exists"));
        }
    }
    let searched = if rust { layers(&text).comments } else { text };
    for (at, line) in searched.lines().enumerate() {
        for word in LATER {
            if has_word(line, word) {
                findings.push(finding(path, at + 1, format!("{word}: do it, or open an issue")));
            }
        }
    }
    Ok(findings)
}

const LATER: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];

fn has_word(line: &str, word: &str) -> bool {
    let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    line.match_indices(word).any(|(at, _)| {
        boundary(line[..at].chars().next_back()) && boundary(line[at + word.len()..].chars().next())
    })
}
