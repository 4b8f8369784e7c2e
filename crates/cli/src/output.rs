//! What a command prints: data on stdout in the format asked for, everything else on stderr.
//!
//! Text of the server is data, not terminal control: escape and control characters are shown, never sent.

pub mod describe;
pub mod format;
pub mod progress;
pub mod table;

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use serde::Serialize;
use wharf_domain::Time;

pub use table::{Cell, Style};

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people; fits the terminal.
    #[default]
    Table,
    /// For programs: one value, or an array for a list. What streams is one value a line.
    Json,
    /// The same as YAML.
    Yaml,
    /// Names only, one a line.
    Name,
}

/// How a thing of the API looks in a table.
pub trait Show: Serialize {
    /// Column heads.
    const HEAD: &'static [&'static str];

    /// One cell for each head.
    fn row(&self, now: Time) -> Vec<Cell>;

    /// What `-o name` prints: enough to name it to another command.
    fn name(&self) -> String;
}

/// Where output goes and how it looks there.
#[derive(Clone)]
pub struct Out {
    pub format: Format,
    pub colour: bool,
    /// Columns of the terminal; `None` when it is not one, and then nothing is shortened.
    pub width: Option<usize>,
    clock: fn() -> Time,
}

/// Now: for ages, and for when a login ends.
pub fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Out {
    /// For this process's stdout. Colour only on a terminal that is not `dumb`, and never with `NO_COLOR`.
    pub fn stdout(format: Format) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            format,
            colour: terminal && colour_wanted(),
            width: terminal.then(width).flatten(),
            clock: now,
        }
    }

    /// For tests: a fixed time, no terminal.
    pub fn fixed(format: Format, width: Option<usize>, clock: fn() -> Time) -> Self {
        Self { format, colour: false, width, clock }
    }

    pub fn now(&self) -> Time {
        (self.clock)()
    }

    /// A list in the format asked for.
    pub fn list_text<T: Show>(&self, items: &[T]) -> anyhow::Result<String> {
        Ok(match self.format {
            Format::Table => {
                let now = self.now();
                table::render(
                    T::HEAD,
                    &items.iter().map(|i| i.row(now)).collect::<Vec<_>>(),
                    self.width,
                    self.colour,
                )
            }
            Format::Json => json(items)?,
            Format::Yaml => yaml(items)?,
            Format::Name => items.iter().map(|i| plain(&i.name()) + "\n").collect(),
        })
    }

    pub fn list<T: Show>(&self, items: &[T]) -> anyhow::Result<()> {
        print(self.list_text(items)?.as_bytes())
    }

    /// One thing, all of it.
    pub fn one_text<T: Show>(&self, item: &T) -> anyhow::Result<String> {
        Ok(match self.format {
            Format::Table => describe::render(item, self.now(), self.colour)?,
            Format::Json => json(item)?,
            Format::Yaml => yaml(item)?,
            Format::Name => plain(&item.name()) + "\n",
        })
    }

    pub fn one<T: Show>(&self, item: &T) -> anyhow::Result<()> {
        print(self.one_text(item)?.as_bytes())
    }

    /// One thing that was made or changed: a row for people, the thing itself for programs.
    pub fn made<T: Show>(&self, item: &T) -> anyhow::Result<()> {
        if self.format == Format::Table { self.list(std::slice::from_ref(item)) } else { self.one(item) }
    }

    /// Something that has no name and no row of its own.
    pub fn value<T: Serialize>(&self, item: &T) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Table | Format::Name => describe::render(item, self.now(), self.colour)?,
            Format::Json => json(item)?,
            Format::Yaml => yaml(item)?,
        };
        print(text.as_bytes())
    }

    /// One more of a list that goes on: a row, or one value a line.
    pub fn more_text<T: Show>(&self, item: &T, widths: &mut table::Widths) -> anyhow::Result<String> {
        Ok(match self.format {
            Format::Table => widths.row(&item.row(self.now()), self.width, self.colour),
            Format::Json => serde_json::to_string(item)? + "\n",
            Format::Yaml => "---\n".to_owned() + &yaml(item)?,
            Format::Name => plain(&item.name()) + "\n",
        })
    }
}

fn json<T: Serialize + ?Sized>(item: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(item).context("the answer cannot be written as JSON")? + "\n")
}

fn yaml<T: Serialize + ?Sized>(item: &T) -> anyhow::Result<String> {
    serde_norway::to_string(item).context("the answer cannot be written as YAML")
}

/// Writes to stdout and flushes. A closed pipe is an error that ends the command quietly.
pub fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// A remark for people, on stderr.
pub fn note(text: impl AsRef<str>) {
    let mut err = std::io::stderr().lock();
    // Nobody reads stderr: nothing to be done about it.
    drop(writeln!(err, "{}", plain(text.as_ref())));
}

/// Text without what a terminal would obey: control characters other than newline and tab are shown escaped.
pub fn plain(text: &str) -> String {
    if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return text.to_owned();
    }
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests;
