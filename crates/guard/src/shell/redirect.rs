//! Where a command reads from and writes to: files, other commands, and documents in the script itself.

use super::Word;
use super::parse::{Parser, substitutes};
use super::run::{State, Stdin};
use super::word::{document, expand};

impl Parser {
    pub(super) fn redirect(&mut self, state: &mut State) {
        let both = self.input.eat('&');
        let reads = self.input.peek() == Some('<');
        if self.input.eat_all("<<<") {
            self.input.blanks();
            let raw = self.raw();
            let word: Word = expand(&raw, state, false).into_iter().flatten().collect();
            self.simple.stdin = crate::glob::literal(&word).map_or(Stdin::Piped, Stdin::Known);
            return;
        }
        if self.input.eat_all("<<") {
            let strips = self.input.eat('-');
            self.input.blanks();
            let raw = self.raw();
            self.here(&raw, strips, state);
            return;
        }
        self.input.at += 1;
        for _ in 0..2 {
            if matches!(self.input.peek(), Some('>' | '|' | '&')) {
                let duplicates = self.input.peek() == Some('&');
                self.input.at += 1;
                if duplicates && !both {
                    // `2>&1`, or a file as in `>& file`.
                    self.input.blanks();
                    let raw = self.raw();
                    if !raw.chars().all(|c| c.is_ascii_digit() || c == '-') {
                        self.simple.redirects.extend(expand(&raw, state, true));
                    }
                    return;
                }
            }
        }
        self.input.blanks();
        if matches!(self.input.peek(), Some('<' | '>')) && self.input.ahead(1) == Some('(') {
            // `< <(command)`
            let raw = self.raw();
            if let Some(inside) = substitutes(&raw) {
                let output = state.substitute(inside);
                if reads {
                    self.simple.stdin = output.map_or(Stdin::Piped, Stdin::Known);
                }
            }
            return;
        }
        let raw = self.raw();
        if raw.is_empty() {
            return;
        }
        self.simple.redirects.extend(expand(&raw, state, true));
        if reads && self.simple.stdin == Stdin::None {
            self.simple.stdin = Stdin::File;
        }
    }

    /// The document whose end is spelt so, which begins on the next line.
    fn here(&mut self, raw: &str, strips: bool, state: &mut State) {
        let quoted = raw.contains(['\'', '"', '\\']);
        let end: String = raw.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect();
        let mut at = self.behind.unwrap_or_else(|| self.input.next_line());
        let mut body = String::new();
        while let Some((line, next)) = self.input.line_at(at) {
            let line = line.strip_suffix('\r').unwrap_or(&line);
            let line = if strips { line.trim_start_matches('\t') } else { line };
            let last = next <= at;
            at = next;
            if line == end {
                break;
            }
            body.push_str(line);
            body.push('\n');
            if last {
                break;
            }
        }
        self.behind = Some(at);
        self.simple.stdin = if quoted {
            Stdin::Known(body)
        } else {
            crate::glob::literal(&document(&body, state)).map_or(Stdin::Piped, Stdin::Known)
        };
    }
}
