//! `wharf doctor`: whether this machine can do what Wharf promises, and what to do where it cannot.
//!
//! Looks and changes nothing. Ends with 1 when something that must work does not.

mod checks;
#[cfg(test)]
mod tests;

use anyhow::Result;
use serde::Serialize;
use wharf_chassis::settings::Loaded;
use wharf_cli::output::{Cell, Format, Out, Show, Style};
use wharf_domain::Time;

#[derive(clap::Args)]
pub struct Args {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Something is less than it could be.
    Warn,
    /// Something that must work does not.
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub area: &'static str,
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    pub fn ok(area: &'static str, seen: impl Into<String>) -> Self {
        Self { area, verdict: Verdict::Ok, seen: seen.into(), remedy: None }
    }

    pub fn warn(area: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { area, verdict: Verdict::Warn, seen: seen.into(), remedy: Some(remedy.into()) }
    }

    pub fn fail(area: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { area, verdict: Verdict::Fail, seen: seen.into(), remedy: Some(remedy.into()) }
    }
}

impl Show for Finding {
    const HEAD: &'static [&'static str] = &["", "AREA", "SEEN", "WHAT TO DO"];

    fn row(&self, _now: Time) -> Vec<Cell> {
        let mark = match self.verdict {
            Verdict::Ok => Cell::new("ok"),
            Verdict::Warn => Cell::styled("warn", Style::Busy),
            Verdict::Fail => Cell::styled("FAIL", Style::Bad),
        };
        let cells = [self.area.to_owned(), self.seen.clone(), self.remedy.clone().unwrap_or_default()];
        std::iter::once(mark).chain(cells.into_iter().map(Cell::new)).collect()
    }

    fn name(&self) -> String {
        self.area.to_owned()
    }
}

/// Looks at everything; `Ok(false)` when something must be put right.
pub fn run(args: &Args, load: impl FnOnce() -> Result<Loaded>) -> Result<bool> {
    let findings = match load() {
        Ok(loaded) => checks::all(&loaded),
        Err(error) => vec![Finding::fail(
            "settings",
            format!("{error:#}"),
            "put it right; `wharf config schema` lists all",
        )],
    };
    // Not shortened to the terminal's width: what to do must be read to its end.
    let mut out = Out::stdout(args.output);
    out.width = None;
    out.list(&findings)?;
    Ok(findings.iter().all(|f| f.verdict != Verdict::Fail))
}
