//! Rules the compiler does not know: who may import whom, how long a file may be, what may not be called.
//!
//! Reads the table of crates in ARCHITECTURE.md, so the page and the code cannot part. Reports every finding with
//! its place and what to do, and ends with an error when there is one.

mod calls;
mod codes;
mod files;
mod imports;
mod scan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::sh;

/// One thing to put right.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    path: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.what)
    }
}

fn finding(path: &Path, line: usize, what: impl Into<String>) -> Finding {
    Finding { path: path.to_owned(), line, what: what.into() }
}

pub fn run() -> Result<()> {
    let findings = check(&sh::root())?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        n => bail!("tidy: {n} finding{}", if n == 1 { "" } else { "s" }),
    }
}

/// All findings below `root`, sorted by place.
fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = imports::check(root)?;
    findings.extend(codes::check(root)?);
    for path in files::tracked(root)? {
        findings.extend(files::check(root, &path)?);
        if path.extension().is_some_and(|e| e == "rs") {
            findings.extend(calls::check(root, &path)?);
        }
    }
    findings.sort();
    Ok(findings)
}
