//! Patterns against words that may be patterns themselves, as `/e*c/passwd` is one: two meet where some text fits both.
//!
//! What nobody can know (the value of a variable, say) fits a star of a rule and no letter of one: not knowing is no ground
//! for an alarm.

/// One place of a word or of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tok {
    Ch(char),
    /// `?`, and `[…]`.
    One,
    /// `*`.
    Any,
    /// Something that is known only when it runs.
    Unknown,
}

/// Places of a word that are looked at. Longer ones are paths to nowhere.
const MOST: usize = 4096;

/// A rule's pattern: `*` and `?` stand for other characters, everything else for itself.
pub fn pattern(text: &str) -> Vec<Tok> {
    text.chars()
        .map(|c| match c {
            '*' => Tok::Any,
            '?' => Tok::One,
            c => Tok::Ch(c),
        })
        .collect()
}

/// A text that is no pattern.
pub fn word(text: &str) -> Vec<Tok> {
    text.chars().map(Tok::Ch).collect()
}

/// The text, where it is known and no pattern.
pub fn literal(toks: &[Tok]) -> Option<String> {
    toks.iter()
        .map(|t| match t {
            Tok::Ch(c) => Some(*c),
            _ => None,
        })
        .collect()
}

/// As people read it.
pub fn shown(toks: &[Tok]) -> String {
    toks.iter()
        .map(|t| match t {
            Tok::Ch(c) => *c,
            Tok::One => '?',
            Tok::Any => '*',
            Tok::Unknown => '…',
        })
        .collect()
}

/// Whether some text fits both.
pub fn meet(rule: &[Tok], word: &[Tok]) -> bool {
    let word = &word[..word.len().min(MOST)];
    let m = word.len();
    // below[j]: whether what of the rule is behind here meets word[j..].
    let mut below = vec![false; m + 1];
    for i in (0..=rule.len()).rev() {
        let mut here = vec![false; m + 1];
        for j in (0..=m).rev() {
            here[j] = if i == rule.len() && j == m {
                true
            } else if i < rule.len() && rule[i] == Tok::Any {
                below[j] || (j < m && here[j + 1])
            } else if j < m && word[j] == Tok::Any {
                here[j + 1] || (i < rule.len() && below[j])
            } else if i < rule.len() && j < m {
                one(rule[i], word[j]) && below[j + 1]
            } else {
                false
            };
        }
        below = here;
    }
    below[0]
}

fn one(rule: Tok, word: Tok) -> bool {
    match (rule, word) {
        (Tok::Ch(a), Tok::Ch(b)) => a == b,
        (Tok::Ch(_), Tok::Unknown) => false,
        _ => true,
    }
}

/// Whether a pattern of a rule fits a plain text.
pub fn fits(rule: &str, text: &str) -> bool {
    meet(&pattern(rule), &word(text))
}
