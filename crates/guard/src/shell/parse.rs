//! The grammar, as flat as it can be: where commands begin and end, what flows into them, and what they leave behind.
//!
//! Both branches of an `if`, the body of a loop and that of a function count as run.

use super::Word;
use super::input::Input;
use super::run::{Kept, Simple, State, Stdin};
use super::word::expand;
use crate::glob::Tok;

/// Words that begin or end what holds commands, and are none themselves.
const RESERVED: [&str; 15] = [
    "{", "}", "!", "if", "then", "elif", "else", "fi", "do", "done", "while", "until", "time", "coproc",
    "esac",
];
/// Values of a loop's variable that are followed.
const VALUES: usize = 32;

pub(super) struct Parser {
    pub(super) input: Input,
    /// Where the lines behind the here documents of this line begin.
    pub(super) behind: Option<usize>,
    pub(super) simple: Simple,
    /// What flows in from the command before.
    pipe: Stdin,
    /// What the last pipeline said, and how many there were.
    output: Option<String>,
    pipelines: usize,
    /// What a parenthesis gives back when it closes.
    around: Vec<Kept>,
    /// A pattern of `case` comes next.
    pattern: bool,
    cases: usize,
    /// Double parentheses that were no arithmetic: looking for their end again and again takes its time.
    doubles: usize,
}

/// Of those, so many are looked at.
const DOUBLES: usize = 32;

impl Parser {
    pub fn new(text: &str) -> Self {
        Self {
            input: Input::new(text),
            behind: None,
            simple: Simple::default(),
            pipe: Stdin::None,
            output: None,
            pipelines: 0,
            around: Vec::new(),
            pattern: false,
            cases: 0,
            doubles: 0,
        }
    }

    /// Reads all of it; answers what it would print, where that is known.
    pub fn run(mut self, state: &mut State) -> Option<String> {
        loop {
            self.input.blanks();
            if self.pattern {
                self.skip_pattern();
                continue;
            }
            let Some(c) = self.input.peek() else { break };
            match c {
                '#' => {
                    while self.input.peek().is_some_and(|c| c != '\n') {
                        self.input.at += 1;
                    }
                }
                '\n' | '\r' => {
                    self.input.at += 1;
                    self.finish(state, false);
                    if let Some(behind) = self.behind.take().filter(|b| c == '\n' && *b > self.input.at) {
                        self.input.at = behind;
                    }
                }
                ';' => {
                    self.finish(state, false);
                    let mut count = 0;
                    while self.input.eat(';') || (count > 0 && self.input.eat('&')) {
                        count += 1;
                    }
                    self.pattern = count > 1 && self.cases > 0;
                }
                '&' if self.input.ahead(1) == Some('>') => self.redirect(state),
                '&' => {
                    self.finish(state, false);
                    while self.input.eat('&') {}
                }
                '|' => {
                    self.input.at += 1;
                    let or = self.input.eat('|');
                    if !or {
                        self.input.eat('&');
                    }
                    self.finish(state, !or);
                }
                '(' => self.open(state),
                ')' => {
                    self.input.at += 1;
                    self.finish(state, false);
                    if let Some(kept) = self.around.pop() {
                        state.back(kept);
                    }
                }
                '<' | '>' if self.input.ahead(1) != Some('(') => self.redirect(state),
                c if c.is_ascii_digit() && self.is_numbered_redirect() => {
                    while self.input.peek().is_some_and(|c| c.is_ascii_digit()) {
                        self.input.at += 1;
                    }
                    self.redirect(state);
                }
                _ => self.word(state),
            }
        }
        self.finish(state, false);
        self.output.filter(|_| self.pipelines == 1)
    }

    fn is_numbered_redirect(&self) -> bool {
        let mut digits = 0;
        while self.input.ahead(digits).is_some_and(|c| c.is_ascii_digit()) {
            digits += 1;
        }
        matches!(self.input.ahead(digits), Some('<' | '>')) && self.input.ahead(digits + 1) != Some('(')
    }

    /// A parenthesis where a word could be.
    fn open(&mut self, state: &mut State) {
        self.input.at += 1;
        if self.simple.is_empty() {
            if self.input.peek() == Some('(') && self.doubles < DOUBLES {
                self.doubles += 1;
                // Arithmetic, unless what closes it does not close twice.
                let from = self.input.at;
                let inside = self.input.until_closed();
                if inside.starts_with('(') && inside.ends_with(')') {
                    return;
                }
                self.input.at = from;
            }
            if self.around.len() < 256 {
                self.around.push(state.keep());
            }
            return;
        }
        let mut ahead = 0;
        while matches!(self.input.ahead(ahead), Some(' ' | '\t')) {
            ahead += 1;
        }
        if self.simple.words.len() == 1 && self.input.ahead(ahead) == Some(')') {
            // `name ()`: what comes is its body.
            self.input.at += ahead + 1;
            self.simple = Simple::default();
            state.function();
            return;
        }
        self.finish(state, false);
    }

    /// The command that was read so far ends here.
    fn finish(&mut self, state: &mut State, pipes: bool) {
        let mut simple = std::mem::take(&mut self.simple);
        let piped = std::mem::take(&mut self.pipe);
        if simple.is_empty() {
            if pipes {
                self.pipe = Stdin::Piped;
            }
            return;
        }
        if simple.stdin == Stdin::None {
            simple.stdin = piped;
        }
        let output = state.simple(simple);
        if pipes {
            self.pipe = output.map_or(Stdin::Piped, Stdin::Known);
        } else {
            self.pipelines += 1;
            self.output = output;
        }
    }

    /// The pattern of a case, with the parenthesis that ends it.
    fn skip_pattern(&mut self) {
        self.pattern = false;
        loop {
            match self.input.peek() {
                None | Some(';' | '&' | '<' | '>') => return,
                Some(' ' | '\t' | '\n' | '\r' | '(' | '|') => self.input.at += 1,
                Some('#') => {
                    while self.input.peek().is_some_and(|c| c != '\n') {
                        self.input.at += 1;
                    }
                }
                Some(')') => {
                    self.input.at += 1;
                    return;
                }
                Some(_) => {
                    let raw = self.raw();
                    if raw == "esac" {
                        self.cases = self.cases.saturating_sub(1);
                        return;
                    }
                    if raw.is_empty() {
                        self.input.at += 1;
                    }
                }
            }
        }
    }

    /// A word as it is spelt: quotes, substitutions and braces whole.
    pub(super) fn raw(&mut self) -> String {
        let from = self.input.at;
        while let Some(c) = self.input.peek() {
            match c {
                '\r' if matches!(self.input.ahead(1), None | Some('\n')) => break,
                '<' | '>' if self.input.ahead(1) == Some('(') => {
                    self.input.at += 2;
                    self.input.until_closed();
                    continue;
                }
                ' ' | '\t' | '\n' | ';' | '&' | '|' | ')' | '<' | '>' => break,
                '(' => {
                    let so_far = self.input.between(from, self.input.at);
                    let array = so_far.ends_with('=');
                    if !(array || so_far.ends_with(['?', '*', '+', '@', '!'])) {
                        break;
                    }
                    self.input.at += 1;
                    self.input.until_closed();
                    continue;
                }
                '\\' => self.input.at += 1,
                '\'' => {
                    self.input.at += 1;
                    while self.input.peek().is_some_and(|c| c != '\'') {
                        self.input.at += 1;
                    }
                }
                '"' => {
                    self.input.at += 1;
                    self.input.skip_double();
                    continue;
                }
                '`' => {
                    self.input.at += 1;
                    self.input.until_backtick();
                    continue;
                }
                '$' => match self.input.ahead(1) {
                    Some('(') => {
                        self.input.at += 2;
                        self.input.until_closed();
                        continue;
                    }
                    Some('{') => {
                        self.input.at += 2;
                        self.input.until_brace();
                        continue;
                    }
                    Some('\'') => {
                        self.input.at += 2;
                        while let Some(c) = self.input.next().filter(|c| *c != '\'') {
                            if c == '\\' {
                                self.input.at += 1;
                            }
                        }
                        continue;
                    }
                    _ => {}
                },
                _ => {}
            }
            self.input.at += 1;
        }
        self.input.clamp();
        self.input.between(from, self.input.at)
    }

    fn word(&mut self, state: &mut State) {
        let raw = self.raw();
        if raw.is_empty() {
            // Nothing a word begins with: it cannot be read, and must not be read for ever.
            self.input.at += 1;
            return;
        }
        if let Some(inside) = substitutes(&raw) {
            let inside = inside.to_owned();
            state.substitute(&inside);
            self.simple.unread = true;
            self.simple.words.push(vec![Tok::Unknown]);
            return;
        }
        if self.simple.words.is_empty() {
            if self.keyword(&raw, state) {
                return;
            }
            if let Some((name, value)) = assignment(&raw) {
                self.assign(name, value, state);
                return;
            }
            if let Some(alias) = state.alias(&raw) {
                for part in alias.split_whitespace() {
                    self.simple.words.extend(expand(part, state, true));
                }
                return;
            }
        }
        let declares = self.simple.declares();
        if let Some((name, value)) = assignment(&raw).filter(|_| declares) {
            self.assign(name, value, state);
            self.simple.assigns.clear();
            return;
        }
        let words = expand(&raw, state, true);
        // A program that may be one of several is each of them.
        self.simple.words.extend(words);
    }

    fn assign(&mut self, name: &str, value: &str, state: &mut State) {
        let values: Vec<Word> = match value.strip_prefix('(').and_then(|v| v.strip_suffix(')')) {
            Some(array) => {
                let mut inner = Self::new(array);
                let mut all = Vec::new();
                loop {
                    while inner.input.peek().is_some_and(char::is_whitespace) {
                        inner.input.at += 1;
                    }
                    let raw = inner.raw();
                    if raw.is_empty() {
                        break;
                    }
                    all.extend(expand(&raw, state, true));
                }
                all
            }
            None => {
                let words = expand(value, state, false);
                if words.is_empty() { vec![Vec::new()] } else { words }
            }
        };
        let name = match name.strip_suffix('+') {
            None => name,
            Some(name) => {
                let mut all = state.known(name).unwrap_or_default();
                match (all.last_mut(), values.as_slice()) {
                    (Some(last), [more]) => last.extend(more.iter().copied()),
                    _ => all.extend(values),
                }
                state.set(name, all);
                return;
            }
        };
        self.simple.assigns.push(name.to_owned());
        state.set(name, values);
    }

    /// Whether it was a word of the grammar.
    fn keyword(&mut self, raw: &str, state: &mut State) -> bool {
        match raw {
            "esac" => {
                self.cases = self.cases.saturating_sub(1);
                true
            }
            word if RESERVED.contains(&word) => true,
            "for" | "select" => {
                self.input.blanks();
                if self.input.eat_all("((") {
                    self.input.until_closed();
                    self.input.eat(')');
                    return true;
                }
                let name = self.raw();
                self.input.blanks();
                let mut values = Vec::new();
                let from = self.input.at;
                if self.raw() == "in" {
                    loop {
                        self.input.blanks();
                        let raw = self.raw();
                        if raw.is_empty() {
                            break;
                        }
                        values.extend(expand(&raw, state, true));
                    }
                } else {
                    self.input.at = from;
                }
                values.truncate(VALUES);
                state.set(&name, if values.is_empty() { vec![vec![Tok::Unknown]] } else { values });
                true
            }
            "case" => {
                self.input.blanks();
                let subject = self.raw();
                expand(&subject, state, true);
                while self.input.peek().is_some_and(char::is_whitespace) {
                    self.input.at += 1;
                }
                if self.raw() == "in" {
                    self.cases += 1;
                    self.pattern = true;
                }
                true
            }
            "function" => {
                self.input.blanks();
                self.raw();
                self.input.blanks();
                self.input.eat_all("()");
                state.function();
                true
            }
            "[[" => {
                // Compares; what it compares is no command, but may hold some.
                while self.input.peek().is_some() {
                    while self.input.peek().is_some_and(|c| c.is_whitespace() || "<>&|();".contains(c)) {
                        self.input.at += 1;
                    }
                    let raw = self.raw();
                    if raw == "]]" || raw.is_empty() {
                        break;
                    }
                    expand(&raw, state, false);
                }
                true
            }
            _ => false,
        }
    }
}

/// `<(…)` and `>(…)`.
pub(super) fn substitutes(raw: &str) -> Option<&str> {
    raw.strip_prefix("<(").or_else(|| raw.strip_prefix(">("))?.strip_suffix(')')
}

/// `name=value`; the name may end with a plus.
fn assignment(raw: &str) -> Option<(&str, &str)> {
    let (name, value) = raw.split_once('=')?;
    // One place of an array is taken for the whole.
    let bare = name.strip_suffix('+').unwrap_or(name);
    let bare = bare.split_once('[').map_or(bare, |(n, _)| n);
    let begins = bare.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    (begins && bare.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).then_some(())?;
    Some((if name.contains('[') { bare } else { name }, value))
}
