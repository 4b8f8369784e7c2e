//! Rust source with comments and literals blanked out, so that a rule about code does not fire on prose.

/// The same text, line by line, in two layers: what is code and what is comment. Literals are in neither.
pub struct Layers {
    pub code: String,
    pub comments: String,
}

#[derive(Clone, Copy, PartialEq)]
enum In {
    Code,
    Line,
    Block(u32),
    Text,
    /// Raw string ended by a quote and this many `#`.
    Raw(usize),
}

/// Splits `source`; every line keeps its number and every character its column.
pub fn layers(source: &str) -> Layers {
    let chars: Vec<char> = source.chars().collect();
    let (mut code, mut comments) = (String::with_capacity(source.len()), String::new());
    let mut state = In::Code;
    let mut at = 0;
    let starts = |at: usize, text: &str| text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    while at < chars.len() {
        let c = chars[at];
        let mut take = 1;
        let before = state;
        match state {
            In::Code if starts(at, "//") => state = In::Line,
            In::Code if starts(at, "/*") => (state, take) = (In::Block(1), 2),
            In::Code if c == '"' => state = In::Text,
            In::Code if c == 'r' && !word_before(&chars, at) => {
                let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
                if chars.get(at + 1 + hashes) == Some(&'"') {
                    (state, take) = (In::Raw(hashes), hashes + 2);
                }
            }
            // A character literal, not a lifetime: 'x' or '\…'.
            In::Code if c == '\'' && chars.get(at + 1) == Some(&'\\') => {
                take = chars[at + 3..].iter().position(|c| *c == '\'').map_or(1, |n| n + 4);
                blank(&chars[at..at + take], &mut code, &mut comments);
                at += take;
                continue;
            }
            In::Code if c == '\'' && chars.get(at + 2) == Some(&'\'') => {
                blank(&chars[at..at + 3], &mut code, &mut comments);
                at += 3;
                continue;
            }
            In::Line if c == '\n' => state = In::Code,
            In::Block(depth) if starts(at, "*/") => {
                (state, take) = (if depth == 1 { In::Code } else { In::Block(depth - 1) }, 2);
            }
            In::Block(depth) if starts(at, "/*") => (state, take) = (In::Block(depth + 1), 2),
            In::Text if c == '\\' => take = 2,
            In::Text if c == '"' => state = In::Code,
            In::Raw(hashes)
                if c == '"'
                    && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes =>
            {
                (state, take) = (In::Code, hashes + 1);
            }
            _ => {}
        }
        for c in &chars[at..(at + take).min(chars.len())] {
            let comment =
                matches!(before, In::Line | In::Block(_)) || matches!(state, In::Line | In::Block(_));
            let literal = matches!(before, In::Text | In::Raw(_)) || matches!(state, In::Text | In::Raw(_));
            let keep = |wanted: bool| if *c == '\n' || wanted { *c } else { ' ' };
            code.push(keep(!comment && !literal));
            comments.push(keep(comment && *c != '\n'));
        }
        at += take;
    }
    Layers { code, comments }
}

fn blank(chars: &[char], code: &mut String, comments: &mut String) {
    for c in chars {
        let c = if *c == '\n' { '\n' } else { ' ' };
        code.push(c);
        comments.push(c);
    }
}

fn word_before(chars: &[char], at: usize) -> bool {
    // `br"…"` is a raw string too.
    let previous = |n: usize| at.checked_sub(n).and_then(|i| chars.get(i));
    match previous(1) {
        Some('b') => previous(2).is_some_and(|c| c.is_alphanumeric() || *c == '_'),
        Some(c) => c.is_alphanumeric() || *c == '_',
        None => false,
    }
}
