//! A shell script, read as far as it takes to say which commands it would run.
//!
//! Every command is found wherever it stands (behind `sudo`, in `$(…)`, in the text given to `bash -c`, in the body of a here
//! document that a shell reads) and however it is spelt (`r''m`, `\rm`, `$'\x72m'`, a variable or an alias with a known value).
//! Words that are only said are none: what `echo` prints, what `grep` looks for, what stands in a comment.
//!
//! Nothing is run, and nothing is refused: what cannot be known before it runs is named [`Command::unreadable`].

mod input;
mod parse;
mod redirect;
mod run;
mod word;
mod wrap;

use crate::glob::Tok;
use crate::paths::Path;

pub use run::direct;

/// How deep scripts may stand in scripts, and how much of one is read.
pub(crate) const DEPTH: usize = 12;
pub(crate) const COMMANDS: usize = 2000;
pub(crate) const SCRIPT_BYTES: usize = 512 * 1024;
/// Characters that are read at all, however often they are read again.
pub(crate) const STEPS: usize = 4 * 1024 * 1024;

/// One word, after everything a shell does to it.
pub type Word = Vec<Tok>;

/// One program that would be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// With its directory, where one is named.
    pub program: Word,
    pub args: Vec<Word>,
    /// Files it reads or writes because the shell opens them.
    pub redirects: Vec<Word>,
    /// Where it would run.
    pub cwd: Path,
    /// What it is, or what it is told to run, is known only when it runs.
    pub unreadable: bool,
}

/// Where a script begins.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub home: &'a str,
    pub cwd: &'a str,
}

impl Default for Place<'_> {
    fn default() -> Self {
        Self { home: "/home/agent", cwd: "/home/agent" }
    }
}

/// The commands of a script.
pub fn read(script: &str, place: Place<'_>) -> Vec<Command> {
    let mut state = run::State::new(place);
    state.script(script);
    state.commands
}
