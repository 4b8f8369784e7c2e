//! Characters of a script, read forwards.

/// Quotes in parentheses in quotes: beyond this the rest is taken as it stands.
const NESTED: usize = 64;

pub(super) struct Input {
    chars: Vec<char>,
    pub at: usize,
    nested: usize,
}

impl Input {
    pub fn new(text: &str) -> Self {
        Self { chars: text.chars().filter(|c| *c != '\0').collect(), at: 0, nested: 0 }
    }

    pub fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    pub fn ahead(&self, n: usize) -> Option<char> {
        self.chars.get(self.at + n).copied()
    }

    pub fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Back to the end, where reading went past it.
    pub fn clamp(&mut self) {
        self.at = self.at.min(self.chars.len());
    }

    pub fn eat(&mut self, c: char) -> bool {
        let is = self.peek() == Some(c);
        self.at += usize::from(is);
        is
    }

    pub fn eat_all(&mut self, text: &str) -> bool {
        let is = text.chars().enumerate().all(|(n, c)| self.ahead(n) == Some(c));
        if is {
            self.at += text.chars().count();
        }
        is
    }

    /// Blanks and continued lines; no newline.
    pub fn blanks(&mut self) {
        loop {
            match (self.peek(), self.ahead(1)) {
                (Some(' ' | '\t'), _) => self.at += 1,
                (Some('\\'), Some('\n')) => self.at += 2,
                _ => return,
            }
        }
    }

    /// What stands between two places.
    pub fn between(&self, from: usize, to: usize) -> String {
        let to = to.min(self.chars.len());
        self.chars[from.min(to)..to].iter().collect()
    }

    /// The line that begins at a place, and where the next one does.
    pub fn line_at(&self, from: usize) -> Option<(String, usize)> {
        let rest = self.chars.get(from..).filter(|r| !r.is_empty())?;
        let end = rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        Some((rest[..end].iter().collect(), (from + end + 1).min(self.chars.len())))
    }

    /// Where the line after this one begins.
    pub fn next_line(&self) -> usize {
        let rest = &self.chars[self.at.min(self.chars.len())..];
        self.at + rest.iter().position(|c| *c == '\n').map_or(rest.len(), |n| n + 1)
    }

    /// Up to the parenthesis that closes one already open, which is taken: quotes and nested ones are heeded.
    pub fn until_closed(&mut self) -> String {
        let from = self.at;
        let mut depth = 1;
        // `case x in a) … esac` closes what nobody opened; rare enough inside `$(…)` to be read a little wrong.
        while let Some(c) = self.next() {
            match c {
                '\\' => {
                    self.next();
                }
                '\'' => while self.next().is_some_and(|c| c != '\'') {},
                '"' => self.skip_double(),
                '#' if self.at >= 2
                    && matches!(self.chars[self.at - 2], ' ' | '\t' | '\n' | ';' | '(')
                    && self.at - 1 > from =>
                {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                '(' => depth += 1,
                ')' => {
                    depth -= 1;
                    if depth == 0 {
                        return self.chars[from..self.at - 1].iter().collect();
                    }
                }
                _ => {}
            }
        }
        self.chars[from.min(self.at)..].iter().collect()
    }

    /// Up to the double quote that closes, which is taken.
    pub fn skip_double(&mut self) {
        while let Some(c) = self.next() {
            match c {
                '\\' => {
                    self.next();
                }
                '"' => return,
                '$' if self.peek() == Some('(') && self.nested < NESTED => {
                    self.at += 1;
                    self.nested += 1;
                    self.until_closed();
                    self.nested -= 1;
                }
                _ => {}
            }
        }
    }

    /// Up to a closing brace, which is taken.
    pub fn until_brace(&mut self) -> String {
        let mut text = String::new();
        let mut depth = 1;
        while let Some(c) = self.next() {
            match c {
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                '\\' => {
                    text.push(c);
                    if let Some(next) = self.next() {
                        text.push(next);
                    }
                    continue;
                }
                _ => {}
            }
            text.push(c);
        }
        text
    }

    /// Up to the backtick that closes, with what is escaped inside let free.
    pub fn until_backtick(&mut self) -> String {
        let mut text = String::new();
        while let Some(c) = self.next() {
            match c {
                '`' => break,
                '\\' => match self.next() {
                    Some(c @ ('`' | '\\' | '$')) => text.push(c),
                    Some(c) => {
                        text.push('\\');
                        text.push(c);
                    }
                    None => break,
                },
                c => text.push(c),
            }
        }
        text
    }
}
