//! What is judged: a text, a call of a tool with the commands and paths in it, a request.

use std::cell::OnceCell;

use serde_json::Value;
use wharf_domain::egress::Target;
use wharf_domain::guard::Phase;

use crate::glob::{self, Tok};
use crate::paths::{self, Path};
use crate::shell::{self, Command, Place, Word};

/// Fields of a tool's input that hold a command: a script, or an argument list.
const COMMANDS: [&str; 6] = ["command", "cmd", "script", "argv", "commands", "shell_command"];
/// Fields that hold paths.
const PATHS: [&str; 13] = [
    "path",
    "paths",
    "file",
    "files",
    "file_path",
    "filename",
    "source",
    "destination",
    "target",
    "from",
    "to",
    "directory",
    "dir",
];
/// How deep an input is looked into.
const DEPTH: usize = 16;

/// One question.
pub struct Ask<'a> {
    pub phase: Phase,
    /// The agent's name and its kind.
    pub agents: Vec<&'a str>,
    pub tool: Option<&'a str>,
    pub input: Option<&'a Value>,
    pub target: Option<&'a Target>,
    /// The path of a request's URL.
    pub url_path: Option<&'a str>,
    /// Bytes, where the texts are not all there is.
    pub bytes: Option<u64>,
    pub place: Place<'a>,
    /// It runs something, and the input does not say what: that may be whatever a rule is about.
    pub unseen: bool,
    texts: Vec<String>,
    commands: OnceCell<Vec<Command>>,
    paths: OnceCell<Vec<Path>>,
}

impl<'a> Ask<'a> {
    pub fn new(phase: Phase, texts: Vec<String>) -> Self {
        Self {
            phase,
            agents: Vec::new(),
            tool: None,
            input: None,
            target: None,
            url_path: None,
            bytes: None,
            place: Place::default(),
            unseen: false,
            texts,
            commands: OnceCell::new(),
            paths: OnceCell::new(),
        }
    }

    /// A call of a tool.
    pub fn tool(name: &'a str, input: &'a Value) -> Self {
        Self { tool: Some(name), input: Some(input), ..Self::new(Phase::Tool, strings(input)) }
    }

    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    pub(crate) fn into_texts(self) -> Vec<String> {
        self.texts
    }

    pub(crate) fn size(&self) -> u64 {
        self.bytes.unwrap_or_else(|| self.texts.iter().map(|t| t.len() as u64).sum())
    }

    /// Changes texts; true when one was.
    pub(crate) fn redact(&mut self, change: impl Fn(&str) -> Option<String>) -> bool {
        let mut changed = false;
        for text in &mut self.texts {
            if let Some(new) = change(text) {
                changed |= *text != new;
                *text = new;
            }
        }
        changed
    }

    pub(crate) fn commands(&self) -> &[Command] {
        self.commands.get_or_init(|| {
            let mut all = Vec::new();
            if let Some(input) = self.input {
                find(input, DEPTH, &mut |name, value| {
                    if COMMANDS.contains(&name) {
                        commands(value, self.place, &mut all);
                    }
                });
            }
            all
        })
    }

    pub(crate) fn paths(&self) -> &[Path] {
        self.paths.get_or_init(|| {
            let mut all = Vec::new();
            let root = Path::new();
            if let Some(path) = self.url_path {
                all.push(paths::resolve(&glob::word(path), &root));
            }
            let home = self.place.home;
            let cwd = paths::read(self.place.cwd, &root, home);
            if let Some(input) = self.input {
                find(input, DEPTH, &mut |name, value| {
                    if PATHS.contains(&name) {
                        each_string(value, DEPTH, &mut |text| all.push(paths::read(text, &cwd, home)));
                    }
                });
            }
            for command in self.commands() {
                all.extend(named_paths(command, home));
            }
            all
        })
    }
}

/// A script, or an argument list.
fn commands(value: &Value, place: Place<'_>, all: &mut Vec<Command>) {
    match value {
        Value::String(script) => all.extend(shell::read(script, place)),
        Value::Array(argv) => {
            let words: Option<Vec<String>> = argv.iter().map(|w| w.as_str().map(str::to_owned)).collect();
            match words {
                Some(words) => all.extend(shell::direct(&words, place)),
                None => argv.iter().for_each(|v| commands(v, place, all)),
            }
        }
        _ => {}
    }
}

/// Every member of every object in a value.
fn find<'v>(value: &'v Value, depth: usize, see: &mut dyn FnMut(&str, &'v Value)) {
    if depth == 0 {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                see(name, value);
                find(value, depth - 1, see);
            }
        }
        Value::Array(list) => list.iter().for_each(|v| find(v, depth - 1, see)),
        _ => {}
    }
}

fn each_string<'v>(value: &'v Value, depth: usize, see: &mut dyn FnMut(&'v str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(list) if depth > 0 => list.iter().for_each(|v| each_string(v, depth - 1, see)),
        Value::Object(map) if depth > 0 => map.values().for_each(|v| each_string(v, depth - 1, see)),
        _ => {}
    }
}

/// Every text of a value, in its order.
pub fn strings(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    each_string(value, 128, &mut |text| all.push(text.to_owned()));
    all
}

/// Puts texts back where [`strings`] found them.
pub fn with_strings(value: &mut Value, texts: &mut dyn Iterator<Item = String>) {
    fn put(value: &mut Value, depth: usize, texts: &mut dyn Iterator<Item = String>) {
        match value {
            Value::String(text) => {
                if let Some(new) = texts.next() {
                    *text = new;
                }
            }
            Value::Array(list) if depth > 0 => list.iter_mut().for_each(|v| put(v, depth - 1, texts)),
            Value::Object(map) if depth > 0 => map.values_mut().for_each(|v| put(v, depth - 1, texts)),
            _ => {}
        }
    }
    put(value, 128, texts);
}

/// Programs whose arguments are only said.
const SAYERS: [&str; 9] = ["echo", "printf", ":", "true", "false", "alias", "export", "which", "man"];
/// Programs whose first operand is a text to look for, or a script of their own.
const SEEKERS: [&str; 9] = ["grep", "egrep", "fgrep", "rg", "ag", "sed", "awk", "gawk", "jq"];

/// Paths among a command's words, whichever they are: for rules that name the program too.
pub(crate) fn all_paths(command: &Command, home: &str) -> Vec<Path> {
    let mut all = Vec::new();
    let end = command.args.iter().position(|a| *a == glob::word("--")).unwrap_or(command.args.len());
    for (n, word) in command.args.iter().enumerate() {
        if n > end {
            // No option, however it looks.
            all.push(paths::resolve(word, &command.cwd));
        } else {
            candidates(word, command, home, &mut all);
        }
    }
    for word in &command.redirects {
        candidates(word, command, home, &mut all);
    }
    all
}

/// Paths a command works on, without words that are only texts to it.
fn named_paths(command: &Command, home: &str) -> Vec<Path> {
    let program = glob::shown(command.program.rsplit(|t| *t == Tok::Ch('/')).next().unwrap_or_default());
    let program = program.as_str();
    let mut all = Vec::new();
    for word in &command.redirects {
        candidates(word, command, home, &mut all);
    }
    if SAYERS.contains(&program) {
        return all;
    }
    let given = |option: &[&str]| {
        command.args.iter().any(|a| glob::literal(a).is_some_and(|a| option.iter().any(|o| a.starts_with(o))))
    };
    let mut seeks = SEEKERS.contains(&program) && !given(&["-e", "-f", "--regexp", "--file", "--expression"]);
    let mut message = false;
    for word in &command.args {
        let said = glob::literal(word).unwrap_or_default();
        if std::mem::take(&mut message) {
            continue;
        }
        if program == "git" && matches!(said.as_str(), "-m" | "--message" | "-am" | "--grep" | "-S" | "-G") {
            message = true;
            continue;
        }
        if seeks && !said.starts_with('-') {
            seeks = false;
            continue;
        }
        candidates(word, command, home, &mut all);
    }
    all
}

/// Paths one word may be: itself, what stands behind its `=`, what is glued to an option.
fn candidates(word: &Word, command: &Command, home: &str, all: &mut Vec<Path>) {
    let option = word.first() == Some(&Tok::Ch('-')) && word.len() > 1;
    if !option {
        let path = paths::resolve(word, &command.cwd);
        // Everything in a directory is as good as the directory.
        if path.last().is_some_and(|last| last[..] == [Tok::Any]) {
            all.push(path[..path.len() - 1].to_vec());
        }
        all.push(path);
    }
    let behind = |word: &[Tok], at: usize, all: &mut Vec<Path>| {
        let rest = &word[at..];
        if rest.first() == Some(&Tok::Ch('~')) && matches!(rest.get(1), None | Some(Tok::Ch('/'))) {
            let mut full = glob::word(home);
            full.extend_from_slice(&rest[1..]);
            all.push(paths::resolve(&full, &command.cwd));
        } else {
            all.push(paths::resolve(rest, &command.cwd));
        }
    };
    if let Some(at) = word.iter().position(|t| *t == Tok::Ch('=')) {
        behind(word, at + 1, all);
    }
    // `user@host:path`, `container:path`, and `@file` as curl has it.
    if let Some(at) = word.iter().position(|t| matches!(t, Tok::Ch('@'))) {
        behind(word, at + 1, all);
    }
    if option && let Some(at) = word.iter().position(|t| *t == Tok::Ch('/')) {
        behind(word, at, all);
    }
}
