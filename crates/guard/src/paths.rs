//! Paths as the machine would follow them, and patterns of paths: `/etc/**`, `~/.ssh/**`, `**/.env`.

use crate::glob::{self, Tok};

/// Segments of a path that are looked at.
const MOST: usize = 256;

/// A path in segments, without `.`, `..` and empty ones.
pub type Path = Vec<Vec<Tok>>;

fn segments(toks: &[Tok]) -> impl Iterator<Item = &[Tok]> {
    toks.split(|t| *t == Tok::Ch('/')).filter(|s| !s.is_empty())
}

fn push(path: &mut Path, segment: &[Tok]) {
    match segment {
        [Tok::Ch('.')] => {}
        [Tok::Ch('.'), Tok::Ch('.')] => {
            path.pop();
        }
        _ if path.len() < MOST => path.push(segment.to_vec()),
        _ => {}
    }
}

/// The path a word means to a program that runs in `cwd`.
pub fn resolve(word: &[Tok], cwd: &Path) -> Path {
    let absolute = matches!(word.first(), Some(Tok::Ch('/')));
    let mut path = if absolute || word.first() == Some(&Tok::Unknown) { Path::new() } else { cwd.clone() };
    for segment in segments(word) {
        push(&mut path, segment);
    }
    path
}

/// The same of a plain text.
pub fn read(text: &str, cwd: &Path, home: &str) -> Path {
    match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            resolve(&glob::word(&format!("{home}{rest}")), cwd)
        }
        _ => resolve(&glob::word(text), cwd),
    }
}

/// A rule's pattern of paths.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// `None` stands for any segments, also for none.
    segments: Vec<Option<Vec<Tok>>>,
    /// Begins at the session's home.
    home: bool,
}

impl Pattern {
    /// `Err` says what such a pattern looks like.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        const HOW: &str = "a pattern of paths begins with /, ~/ or **/, as in /etc/**, ~/.ssh/** or **/.env";
        let home = text == "~" || text.starts_with("~/");
        if !(home || text.starts_with('/') || text.starts_with("**/")) {
            return Err(HOW);
        }
        let rest = text.strip_prefix('~').unwrap_or(text);
        let parts: Vec<&str> = rest.split('/').filter(|s| !s.is_empty()).collect();
        if parts.len() > MOST || parts.iter().any(|s| matches!(*s, "." | "..")) {
            return Err("write the path without . and ..");
        }
        let segments = parts.iter().map(|s| (*s != "**").then(|| glob::pattern(s))).collect();
        Ok(Self { segments, home })
    }

    pub fn matches(&self, path: &Path, home: &str) -> bool {
        let mut rule: Vec<Option<Vec<Tok>>> = Vec::new();
        if self.home {
            rule.extend(home.split('/').filter(|s| !s.is_empty()).map(|s| Some(glob::word(s))));
        }
        rule.extend(self.segments.iter().cloned());
        let m = path.len();
        let mut below = vec![false; m + 1];
        for i in (0..=rule.len()).rev() {
            let mut here = vec![false; m + 1];
            for j in (0..=m).rev() {
                here[j] = match rule.get(i) {
                    None => j == m,
                    Some(None) => below[j] || (j < m && here[j + 1]),
                    Some(Some(segment)) => j < m && below[j + 1] && glob::meet(segment, &path[j]),
                };
            }
            below = here;
        }
        below[0]
    }
}
