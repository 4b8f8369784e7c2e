//! What a shell makes of one word: braces, tilde, variables, substitutions, splitting, quotes, patterns.

use super::Word;
use super::input::Input;
use super::run::State;
use crate::glob::Tok;

/// Words that braces may make of one.
const BRACES: usize = 64;
/// Places of one word.
const WORD: usize = 16 * 1024;

/// Fields in the making.
struct Fields {
    done: Vec<Word>,
    word: Word,
    /// There is a word, even if nothing is in it: quotes were.
    begun: bool,
    splits: bool,
}

impl Fields {
    fn push(&mut self, tok: Tok) {
        self.begun = true;
        if self.word.len() < WORD {
            self.word.push(tok);
        }
    }

    fn text(&mut self, text: &str) {
        self.begun = true;
        text.chars().for_each(|c| self.push(Tok::Ch(c)));
    }

    fn end(&mut self) {
        if self.begun {
            self.done.push(std::mem::take(&mut self.word));
            self.begun = false;
        }
    }

    /// The values of a variable or substitution; several stand for words of which each may be meant.
    fn values(&mut self, values: &[Word], quoted: bool) {
        for (n, value) in values.iter().enumerate() {
            if n > 0 && self.splits {
                self.end();
            }
            self.begun |= quoted;
            for tok in value {
                match tok {
                    Tok::Ch(' ' | '\t' | '\n') if !quoted && self.splits => self.end(),
                    Tok::Ch('*') if !quoted => self.push(Tok::Any),
                    Tok::Ch('?') if !quoted => self.push(Tok::One),
                    tok => self.push(*tok),
                }
            }
        }
    }
}

/// The words one spelt word becomes. `splits`: as in a command; not as in an assignment.
pub(super) fn expand(raw: &str, state: &mut State, splits: bool) -> Vec<Word> {
    let spelt = if splits { braces(raw) } else { vec![raw.to_owned()] };
    let mut fields = Fields { done: Vec::new(), word: Vec::new(), begun: false, splits };
    for spelling in spelt {
        let mut input = Input::new(&spelling);
        unquoted(&mut input, state, &mut fields);
        fields.end();
    }
    fields.done
}

/// A text in which variables and substitutions count and nothing else: a here document.
pub(super) fn document(text: &str, state: &mut State) -> Word {
    let mut fields = Fields { done: Vec::new(), word: Vec::new(), begun: true, splits: false };
    double(&mut Input::new(text), state, &mut fields, None);
    fields.word
}

fn unquoted(input: &mut Input, state: &mut State, fields: &mut Fields) {
    if input.peek() == Some('~') && matches!(input.ahead(1), None | Some('/')) {
        input.at += 1;
        let home = state.home.clone();
        fields.text(&home);
    } else if input.peek() == Some('~') {
        // Another user's home.
        input.at += 1;
        let mut name = String::new();
        while let Some(c) = input.peek().filter(|c| *c != '/') {
            name.push(c);
            input.at += 1;
        }
        let home = if name == "root" { "/root".to_owned() } else { format!("/home/{name}") };
        fields.text(&home);
    }
    while let Some(c) = input.next() {
        match c {
            '\\' => match input.next() {
                Some('\n') | None => {}
                Some(c) => fields.push(Tok::Ch(c)),
            },
            '\'' => {
                fields.begun = true;
                while let Some(c) = input.next().filter(|c| *c != '\'') {
                    fields.push(Tok::Ch(c));
                }
            }
            '"' => {
                fields.begun = true;
                double(input, state, fields, Some('"'));
            }
            '$' => dollar(input, state, fields, false),
            '`' => {
                let text = input.until_backtick();
                substitution(&text, state, fields, false);
            }
            '*' => fields.push(Tok::Any),
            '?' => fields.push(Tok::One),
            '[' => {
                let from = input.at;
                let mut closed = false;
                while let Some(c) = input.next() {
                    if c == ']' && input.at > from + 1 {
                        closed = true;
                        break;
                    }
                }
                if closed {
                    fields.push(Tok::One);
                } else {
                    input.at = from;
                    fields.push(Tok::Ch('['));
                }
            }
            // A pattern of several, as in @(a|b).
            '(' => {
                input.until_closed();
                fields.push(Tok::Any);
            }
            c => fields.push(Tok::Ch(c)),
        }
    }
}

/// Inside double quotes, up to `end`.
fn double(input: &mut Input, state: &mut State, fields: &mut Fields, end: Option<char>) {
    while let Some(c) = input.next() {
        match c {
            c if Some(c) == end => return,
            '\\' => match input.next() {
                Some('\n') | None => {}
                Some(c @ ('$' | '`' | '"' | '\\')) => fields.push(Tok::Ch(c)),
                Some(c) => {
                    fields.push(Tok::Ch('\\'));
                    fields.push(Tok::Ch(c));
                }
            },
            '$' => dollar(input, state, fields, true),
            '`' => {
                let text = input.until_backtick();
                substitution(&text, state, fields, true);
            }
            c => fields.push(Tok::Ch(c)),
        }
    }
}

fn dollar(input: &mut Input, state: &mut State, fields: &mut Fields, quoted: bool) {
    match input.peek() {
        Some('\'') if !quoted => {
            input.at += 1;
            fields.begun = true;
            let text = ansi(input, true);
            fields.text(&text);
        }
        Some('"') if !quoted => {
            input.at += 1;
            fields.begun = true;
            double(input, state, fields, Some('"'));
        }
        Some('(') => {
            input.at += 1;
            let text = input.until_closed();
            if text.starts_with('(') && text.ends_with(')') {
                fields.push(Tok::Unknown);
            } else {
                substitution(&text, state, fields, quoted);
            }
        }
        Some('{') => {
            input.at += 1;
            let text = input.until_brace();
            parameter(&text, state, fields, quoted);
        }
        Some(c) if c.is_ascii_alphabetic() || c == '_' => {
            let mut name = String::new();
            while let Some(c) = input.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
                name.push(c);
                input.at += 1;
            }
            let values = state.value(&name);
            fields.values(&values, quoted);
        }
        Some(c) if c.is_ascii_digit() || "@*".contains(c) => {
            input.at += 1;
            let values = state.positional(c);
            fields.values(&values, quoted && c != '@');
        }
        Some('?' | '$' | '!' | '#' | '-') => {
            input.at += 1;
            fields.push(Tok::Unknown);
        }
        _ => fields.push(Tok::Ch('$')),
    }
}

/// What is between the braces of `${…}`.
fn parameter(text: &str, state: &mut State, fields: &mut Fields, quoted: bool) {
    let length = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').count();
    let (name, rest) = text.split_at(length);
    let known = |state: &State| state.known(name);
    match rest {
        "" if !name.is_empty() => {
            let digit = name.chars().next().filter(|_| name.len() == 1).filter(char::is_ascii_digit);
            let values = digit.map_or_else(|| state.value(name), |d| state.positional(d));
            fields.values(&values, quoted);
        }
        "@" | "*" | "[@]" | "[*]" => {
            let values = if name.is_empty() { state.positional('@') } else { state.value(name) };
            fields.values(&values, quoted && !rest.contains('@'));
        }
        _ if name.is_empty() => fields.push(Tok::Unknown),
        // A value for when there is none: either may be meant, and the one that stands here is known.
        _ if rest.starts_with([':', '-', '=', '+']) => {
            let operator = rest.trim_start_matches(':');
            let other = operator.strip_prefix(['-', '=', '+']);
            match (known(state), other, operator.starts_with('+')) {
                (Some(values), Some(_), false) => fields.values(&values, quoted),
                (_, Some(other), _) if state.enter() => {
                    let words = expand(other, state, !quoted);
                    state.leave();
                    if operator.starts_with('=') {
                        state.set(name, words.clone());
                    }
                    fields.values(&words, true);
                }
                _ => fields.push(Tok::Unknown),
            }
        }
        _ => fields.push(Tok::Unknown),
    }
}

fn substitution(text: &str, state: &mut State, fields: &mut Fields, quoted: bool) {
    match state.substitute(text) {
        Some(output) => {
            let value: Word = output.trim_end_matches('\n').chars().map(Tok::Ch).collect();
            fields.values(&[value], quoted);
        }
        None => fields.push(Tok::Unknown),
    }
}

/// `$'…'` and what `echo -e` and `printf` read: escapes of C.
pub(super) fn unescape(text: &str) -> String {
    ansi(&mut Input::new(text), false)
}

fn ansi(input: &mut Input, quotes: bool) -> String {
    let mut text = String::new();
    let mut bytes: Vec<u8> = Vec::new();
    let flush = |bytes: &mut Vec<u8>, text: &mut String| {
        text.push_str(&String::from_utf8_lossy(bytes));
        bytes.clear();
    };
    while let Some(c) = input.next() {
        if quotes && c == '\'' {
            break;
        }
        if c != '\\' {
            flush(&mut bytes, &mut text);
            text.push(c);
            continue;
        }
        let Some(c) = input.next() else { break };
        let plain = match c {
            'n' => Some('\n'),
            't' => Some('\t'),
            'r' => Some('\r'),
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'e' | 'E' => Some('\u{1b}'),
            'f' => Some('\u{c}'),
            'v' => Some('\u{b}'),
            'x' | 'u' | 'U' | '0'..='7' => None,
            c => Some(c),
        };
        if let Some(plain) = plain {
            flush(&mut bytes, &mut text);
            text.push(plain);
            continue;
        }
        let (radix, most) = match c {
            'x' => (16, 2),
            'u' => (16, 4),
            'U' => (16, 8),
            _ => (8, 3),
        };
        let mut number: u32 = 0;
        if radix == 8 {
            input.at -= 1;
        }
        for _ in 0..most {
            let Some(digit) = input.peek().and_then(|c| c.to_digit(radix)) else { break };
            number = number.wrapping_mul(radix).wrapping_add(digit);
            input.at += 1;
        }
        if matches!(c, 'u' | 'U') {
            flush(&mut bytes, &mut text);
            text.extend(char::from_u32(number));
        } else {
            bytes.push(number as u8);
        }
    }
    flush(&mut bytes, &mut text);
    text
}

/// `{a,b}` and `{1..3}` outside of quotes, a few words of it.
fn braces(raw: &str) -> Vec<String> {
    let mut done = vec![raw.to_owned()];
    // One pair at a time, from the left, until there is none.
    for _ in 0..BRACES {
        let Some((n, parts)) = done.iter().enumerate().find_map(|(n, w)| pair(w).map(|p| (n, p))) else {
            break;
        };
        if done.len() + parts.len() > BRACES {
            break;
        }
        done.splice(n..=n, parts);
    }
    done
}

/// The words of the first pair of braces that has several.
fn pair(word: &str) -> Option<Vec<String>> {
    let chars: Vec<char> = word.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 1,
            '\'' => at += chars[at + 1..].iter().position(|c| *c == '\'').map_or(chars.len(), |n| n + 1),
            '"' => {
                at += 1;
                while at < chars.len() && chars[at] != '"' {
                    at += if chars[at] == '\\' { 2 } else { 1 };
                }
            }
            '$' if chars.get(at + 1) == Some(&'{') => at += 1,
            '$' if chars.get(at + 1) == Some(&'(') => return None,
            '`' => return None,
            '{' => {
                if let Some((end, parts)) = parts(&chars, at) {
                    let begin: String = chars[..at].iter().collect();
                    let rest: String = chars[end + 1..].iter().collect();
                    return Some(parts.iter().map(|p| format!("{begin}{p}{rest}")).collect());
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where the pair that opens at a place closes, and what is in it.
fn parts(chars: &[char], open: usize) -> Option<(usize, Vec<String>)> {
    let (mut depth, mut commas) = (0, vec![open]);
    let mut at = open;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 1,
            '\'' | '"' => {
                let quote = chars[at];
                at += 1;
                while at < chars.len() && chars[at] != quote {
                    at += 1;
                }
            }
            '{' => depth += 1,
            ',' if depth == 1 => commas.push(at),
            '}' => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if at >= chars.len() {
        return None;
    }
    let text = |from: usize, to: usize| chars[from + 1..to].iter().collect::<String>();
    if commas.len() > 1 {
        commas.push(at);
        return Some((at, commas.windows(2).map(|w| text(w[0], w[1])).collect()));
    }
    let inside = text(open, at);
    let (from, to) = inside.split_once("..")?;
    let numbers = from.parse::<i64>().ok().zip(to.parse::<i64>().ok());
    let range: Vec<String> = match (numbers, from.chars().next(), to.chars().next()) {
        (Some((a, b)), ..) => (a.min(b)..=a.max(b)).take(BRACES / 2).map(|n| n.to_string()).collect(),
        (None, Some(a), Some(b)) if from.len() == 1 && to.len() == 1 => {
            (a.min(b)..=a.max(b)).take(BRACES / 2).map(String::from).collect()
        }
        _ => return None,
    };
    Some((at, range))
}
