//! What a shell would do with each command: which programs start which, what variables hold, where it stands.

use std::collections::HashMap;

use base64::Engine as _;

use super::parse::Parser;
use super::word::unescape;
use super::wrap::{self, Inner};
use super::{COMMANDS, Command, DEPTH, Place, SCRIPT_BYTES, STEPS, Word};
use crate::glob::{self, Tok};
use crate::paths::{self, Path};

/// Bytes of what a command is known to print.
const OUTPUT: usize = 16 * 1024;

/// What flows into a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Stdin {
    #[default]
    None,
    Known(String),
    /// Something another command says.
    Piped,
    File,
}

/// One command with what belongs to it.
#[derive(Debug, Default)]
pub(super) struct Simple {
    pub words: Vec<Word>,
    pub assigns: Vec<String>,
    pub redirects: Vec<Word>,
    pub stdin: Stdin,
    /// One of the words is what another command says.
    pub unread: bool,
}

impl Simple {
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
            && self.redirects.is_empty()
            && self.assigns.is_empty()
            && self.stdin == Stdin::None
    }

    /// A builtin whose arguments set variables.
    pub fn declares(&self) -> bool {
        let word = self.words.first().and_then(|w| glob::literal(w));
        matches!(word.as_deref(), Some("export" | "declare" | "local" | "readonly" | "typeset"))
    }
}

/// What a parenthesis gives back.
pub(super) struct Kept {
    vars: HashMap<String, Vec<Word>>,
    cwd: Path,
}

pub struct State {
    pub commands: Vec<Command>,
    pub(super) home: String,
    vars: HashMap<String, Vec<Word>>,
    aliases: HashMap<String, String>,
    /// `$0` and on; `None` inside of functions, where nobody knows.
    positional: Option<Vec<Word>>,
    cwd: Path,
    depth: usize,
    steps: usize,
}

fn says(words: &[Word]) -> Option<Vec<String>> {
    words.iter().map(|w| glob::literal(w)).collect()
}

impl State {
    pub(super) fn new(place: Place<'_>) -> Self {
        let root = Path::new();
        let mut vars = HashMap::new();
        for (name, value) in [
            ("HOME", place.home),
            ("PWD", place.cwd),
            ("IFS", " "),
            ("USER", "agent"),
            ("SHELL", "/bin/bash"),
        ] {
            vars.insert(name.to_owned(), vec![glob::word(value)]);
        }
        Self {
            commands: Vec::new(),
            home: place.home.to_owned(),
            vars,
            aliases: HashMap::new(),
            positional: Some(vec![glob::word("bash")]),
            cwd: paths::read(place.cwd, &root, place.home),
            depth: 0,
            steps: 0,
        }
    }

    pub(super) fn enter(&mut self) -> bool {
        let may = self.depth < DEPTH;
        self.depth += usize::from(may);
        may
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Reads a script; answers what it would print, where that is known.
    pub(super) fn script(&mut self, text: &str) -> Option<String> {
        self.steps = self.steps.saturating_add(text.len());
        if text.len() > SCRIPT_BYTES || self.steps > STEPS || !self.enter() {
            self.push(Vec::new(), Vec::new(), Vec::new(), true);
            return None;
        }
        let output = Parser::new(text).run(self);
        self.leave();
        output
    }

    /// `$(…)`: a shell of its own.
    pub(super) fn substitute(&mut self, text: &str) -> Option<String> {
        let kept = self.keep();
        let output = self.script(text);
        self.back(kept);
        output
    }

    pub(super) fn keep(&self) -> Kept {
        Kept { vars: self.vars.clone(), cwd: self.cwd.clone() }
    }

    pub(super) fn back(&mut self, kept: Kept) {
        (self.vars, self.cwd) = (kept.vars, kept.cwd);
    }

    pub(super) fn function(&mut self) {
        self.positional = None;
    }

    pub(super) fn known(&self, name: &str) -> Option<Vec<Word>> {
        self.vars.get(name).cloned()
    }

    pub(super) fn value(&self, name: &str) -> Vec<Word> {
        self.known(name).unwrap_or_else(|| vec![vec![Tok::Unknown]])
    }

    pub(super) fn set(&mut self, name: &str, values: Vec<Word>) {
        // What one script can make this hold is bounded.
        let places: usize = values.iter().map(Vec::len).sum();
        let values =
            if places > OUTPUT || self.vars.len() > 1000 { vec![vec![Tok::Unknown]] } else { values };
        self.vars.insert(name.to_owned(), values);
    }

    pub(super) fn positional(&self, c: char) -> Vec<Word> {
        let Some(all) = &self.positional else { return vec![vec![Tok::Unknown]] };
        match c.to_digit(10) {
            Some(n) => all.get(n as usize).cloned().into_iter().collect(),
            None => all.get(1..).unwrap_or_default().to_vec(),
        }
    }

    pub(super) fn alias(&self, raw: &str) -> Option<String> {
        self.aliases.get(raw).cloned()
    }

    fn push(&mut self, program: Word, args: Vec<Word>, redirects: Vec<Word>, unreadable: bool) {
        if self.commands.len() < COMMANDS {
            self.commands.push(Command { program, args, redirects, cwd: self.cwd.clone(), unreadable });
        } else if let Some(last) = self.commands.last_mut() {
            last.unreadable = true;
        }
    }

    /// The last command cannot be followed.
    fn lost(&mut self) -> Option<String> {
        if let Some(last) = self.commands.last_mut() {
            last.unreadable = true;
        }
        None
    }

    pub(super) fn simple(&mut self, simple: Simple) -> Option<String> {
        let Simple { words, redirects, stdin, unread, .. } = simple;
        if words.is_empty() {
            if !redirects.is_empty() {
                self.push(Vec::new(), Vec::new(), redirects, false);
            }
            return None;
        }
        let writes = !redirects.is_empty();
        let output = self.start(words, redirects, &stdin, unread);
        // What goes into a file does not come out.
        output.filter(|o| !writes && o.len() <= OUTPUT)
    }

    /// A program with its arguments, and the programs it starts.
    fn start(
        &mut self,
        words: Vec<Word>,
        redirects: Vec<Word>,
        stdin: &Stdin,
        unread: bool,
    ) -> Option<String> {
        let mut words = words.into_iter();
        let program = words.next()?;
        let args: Vec<Word> = words.collect();
        let unknown = program.is_empty() || program.contains(&Tok::Unknown);
        self.push(program.clone(), args.clone(), redirects, unknown);
        let path = glob::literal(&program)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        if let Some(inner) = wrap::inner(name, &args) {
            return self.wrapped(inner, &args, stdin, unread);
        }
        let said = says(&args);
        match name {
            "cd" | "pushd" => {
                let to = args.iter().find(|a| a.first() != Some(&Tok::Ch('-')));
                self.cwd = match to {
                    Some(to) => paths::resolve(to, &self.cwd),
                    None => paths::read(&self.home, &Path::new(), ""),
                };
                let parts: Vec<String> = self.cwd.iter().map(|s| glob::shown(s)).collect();
                let now = format!("/{}", parts.join("/"));
                self.set("PWD", vec![glob::word(&now)]);
            }
            "alias" => {
                for text in args.iter().filter_map(|a| glob::literal(a)) {
                    if let Some((name, value)) = text.split_once('=') {
                        self.aliases.insert(name.to_owned(), value.to_owned());
                    }
                }
            }
            "set" => {
                let from = args.iter().position(|a| glob::literal(a).as_deref() == Some("--"));
                if let (Some(from), Some(all)) = (from, &mut self.positional) {
                    all.truncate(1);
                    all.extend_from_slice(&args[from + 1..]);
                }
            }
            "read" | "mapfile" | "readarray" | "unset" => {
                for name in args.iter().filter_map(|a| glob::literal(a)) {
                    self.vars.remove(&name);
                }
            }
            "eval" => {
                let Some(said) = said else { return self.lost() };
                return self.script(&said.join(" "));
            }
            "trap" => {
                if let Some(script) = said.as_ref().and_then(|s| s.first()).filter(|s| !s.starts_with('-')) {
                    self.script(script);
                }
            }
            "source" | "." if unread || reads_pipe(&args, stdin) => return self.lost(),
            "python" | "python2" | "python3" | "perl" | "ruby" | "node" | "nodejs" | "php" | "lua"
            | "deno" => {
                let nothing =
                    args.is_empty() || args.iter().all(|a| glob::literal(a).as_deref() == Some("-"));
                if unread || (nothing && *stdin == Stdin::Piped) {
                    return self.lost();
                }
            }
            "echo" => return said.map(|s| echo(&s)),
            "printf" => return said.and_then(|s| printf(&s)),
            "cat" if args.is_empty() => {
                if let Stdin::Known(text) = stdin {
                    return Some(text.clone());
                }
            }
            "rev" if args.is_empty() => {
                if let Stdin::Known(text) = stdin {
                    return Some(text.lines().map(|l| l.chars().rev().collect::<String>() + "\n").collect());
                }
            }
            "base64" => return decoded(&said?, stdin),
            "which" => return said.filter(|s| s.len() == 1).map(|s| s.concat()),
            "type" => return said.filter(|s| s.len() == 2 && s[0].starts_with('-')).map(|s| s[1].clone()),
            _ => {}
        }
        None
    }

    fn wrapped(&mut self, inner: Inner, args: &[Word], stdin: &Stdin, unread: bool) -> Option<String> {
        match inner {
            Inner::Nothing => None,
            Inner::Words(words) if words.is_empty() => None,
            Inner::Words(words) => {
                if !self.enter() {
                    return self.lost();
                }
                let output = self.start(words, Vec::new(), stdin, unread);
                self.leave();
                output
            }
            Inner::Each(words) => {
                // `xargs`: its arguments come in.
                let mut words = words;
                match stdin {
                    Stdin::Known(text) => words.extend(text.split_whitespace().map(glob::word)),
                    _ => words.push(vec![Tok::Unknown]),
                }
                self.wrapped(Inner::Words(words), args, &Stdin::None, unread)
            }
            Inner::Several(all) => {
                for words in all {
                    self.wrapped(Inner::Words(words), args, &Stdin::None, unread);
                }
                None
            }
            Inner::Script(text, positional) => {
                let Some(text) = glob::literal(&text) else { return self.lost() };
                let kept = self.keep();
                let was = self.positional.replace(positional);
                let output = self.script(&text);
                self.positional = was;
                self.back(kept);
                output
            }
            Inner::Input => match stdin {
                Stdin::Known(text) => self.substitute(text),
                Stdin::Piped => self.lost(),
                Stdin::None | Stdin::File => {
                    if unread {
                        self.lost()
                    } else {
                        None
                    }
                }
            },
            Inner::File(at) => {
                if unread || reads_pipe(&args[at..], stdin) {
                    self.lost()
                } else {
                    None
                }
            }
            Inner::Lookup(name) => Some(name),
        }
    }
}

/// The first word is the pipe itself.
fn reads_pipe(args: &[Word], stdin: &Stdin) -> bool {
    let first = args.first().and_then(|a| glob::literal(a));
    *stdin != Stdin::None
        && matches!(first.as_deref(), Some("/dev/stdin" | "-" | "/dev/fd/0" | "/proc/self/fd/0"))
}

fn echo(args: &[String]) -> String {
    let options = args
        .iter()
        .take_while(|a| a.len() > 1 && a.starts_with('-') && a[1..].chars().all(|c| "neE".contains(c)))
        .count();
    let text = args[options..].join(" ");
    if args[..options].iter().any(|o| o.contains('e')) { unescape(&text) } else { text }
}

fn printf(args: &[String]) -> Option<String> {
    let args = if args.first().is_some_and(|a| a == "--") { &args[1..] } else { args };
    let (format, mut rest) = args.split_first()?;
    if format.starts_with("-v") {
        return None;
    }
    let format = unescape(format);
    let mut out = String::new();
    // The format is used again while there are arguments.
    for _ in 0..64 {
        let mut chars = format.chars();
        let mut took = false;
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('%') => out.push('%'),
                Some(k @ ('s' | 'b' | 'c' | 'q')) => {
                    if let Some((first, others)) = rest.split_first() {
                        took = true;
                        rest = others;
                        match k {
                            'b' => out.push_str(&unescape(first)),
                            'c' => out.extend(first.chars().next()),
                            _ => out.push_str(first),
                        }
                    }
                }
                // Numbers and widths: nothing a program's name is made of.
                _ => return None,
            }
        }
        if rest.is_empty() || !took {
            break;
        }
    }
    Some(out)
}

fn decoded(args: &[String], stdin: &Stdin) -> Option<String> {
    let decodes = args.iter().any(|a| {
        let short = a.starts_with('-') && !a.starts_with("--");
        (short && a.contains(['d', 'D'])) || (a.len() > 3 && "--decode".starts_with(a.as_str()))
    });
    let Stdin::Known(text) = stdin else { return None };
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if !decodes {
        return Some(base64::engine::general_purpose::STANDARD.encode(text));
    }
    let lenient = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    lenient.decode(text).ok().and_then(|b| String::from_utf8(b).ok())
}

/// The commands of an argument list that no shell reads.
pub fn direct(argv: &[String], place: Place<'_>) -> Vec<Command> {
    let mut state = State::new(place);
    state.start(argv.iter().map(|a| glob::word(a)).collect(), Vec::new(), &Stdin::None, false);
    state.commands
}
