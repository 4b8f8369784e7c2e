//! Tables without borders: columns line up, and lines do not wrap in a terminal.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::plain;

/// What a value means, for those who see colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    #[default]
    Plain,
    Good,
    Busy,
    Bad,
    Dim,
}

impl Style {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Busy => Some("33"),
            Self::Bad => Some("31"),
            Self::Dim => Some("2"),
        }
    }

    pub fn paint(self, text: &str, colour: bool) -> String {
        match self.code() {
            Some(code) if colour && !text.is_empty() => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            _ => text.to_owned(),
        }
    }
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn new(text: impl ToString) -> Self {
        Self { text: text.to_string(), style: Style::Plain }
    }

    pub fn styled(text: impl ToString, style: Style) -> Self {
        Self { text: text.to_string(), style }
    }

    /// A value that may not be there.
    pub fn opt(text: Option<impl ToString>) -> Self {
        match text {
            Some(t) => Self::new(t),
            None => Self::styled("-", Style::Dim),
        }
    }

    /// As it stands in a line: one line, no control characters, something even when empty.
    fn line(&self) -> String {
        if self.text.is_empty() {
            return "-".to_owned();
        }
        plain(&self.text).replace(['\n', '\t'], " ")
    }
}

/// Space between columns.
const GAP: usize = 2;
/// No column is cut below this.
const NARROW: usize = 8;

/// Widths of the columns of a table that grows.
#[derive(Clone, Debug, Default)]
pub struct Widths(Vec<usize>);

impl Widths {
    /// Widths that hold these rows within `width`: the widest columns give way first.
    pub fn of(head: &[&str], rows: &[Vec<Cell>], width: Option<usize>) -> Self {
        let mut widths: Vec<usize> = head.iter().map(|h| h.width()).collect();
        for row in rows {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(cell.line().width());
            }
        }
        if let Some(limit) = width {
            let gaps = GAP * widths.len().saturating_sub(1);
            while widths.iter().sum::<usize>() + gaps > limit {
                // The first column names the thing: cut last, because a name that is cut is of no use to the next command.
                let (first, others) = widths.split_at_mut(1);
                let widest = others.iter_mut().filter(|w| **w > NARROW).max();
                let Some(widest) = widest.or(first.iter_mut().find(|w| **w > NARROW)) else { break };
                *widest -= 1;
            }
        }
        Self(widths)
    }

    pub fn head(&mut self, head: &[&str], width: Option<usize>, colour: bool) -> String {
        self.row(&head.iter().map(|h| Cell::styled(h, Style::Dim)).collect::<Vec<_>>(), width, colour)
    }

    /// One more row. Where nothing is shortened a wider value moves the rows that follow; in a terminal it is cut.
    pub fn row(&mut self, row: &[Cell], width: Option<usize>, colour: bool) -> String {
        let mut out = String::new();
        self.0.resize(self.0.len().max(row.len()), 0);
        for (i, cell) in row.iter().enumerate() {
            let last = i + 1 == row.len();
            let mut have = self.0[i];
            let mut text = cell.line();
            if width.is_some() && text.width() > NARROW.max(have) {
                text = cut(&text, have.max(NARROW));
            }
            have = have.max(text.width());
            self.0[i] = have;
            out.push_str(&cell.style.paint(&text, colour));
            if !last {
                out.extend(std::iter::repeat_n(' ', have.saturating_sub(text.width()) + GAP));
            }
        }
        out.push('\n');
        out
    }
}

/// The text within `width` columns, with an ellipsis where something is missing. Never splits a character.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w + 1 > width {
            break;
        }
        used += w;
        out.push(c);
    }
    out.push('…');
    out
}

/// A whole table. Nothing at all to show is no output: a remark about that goes to stderr.
pub fn render(head: &[&str], rows: &[Vec<Cell>], width: Option<usize>, colour: bool) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut widths = Widths::of(head, rows, width);
    let mut out = widths.head(head, width, colour);
    for row in rows {
        out.push_str(&widths.row(row, width, colour));
    }
    out
}
