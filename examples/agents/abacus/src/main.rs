//! Adds up the numbers of every message: the line protocol of `command` agents with nothing but the standard library.
//!
//! One JSON object a line comes in (`hello`, then a `message` for every turn); JSON objects a line go out (`text`, at last
//! `done`). A larger agent would read them with `serde_json`.

use std::io::{BufRead as _, Write as _};

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if field(&line, "type").as_deref() != Some("message") {
            continue;
        }
        let text = field(&line[line.find("\"content\"").unwrap_or(0)..], "text").unwrap_or_default();
        let numbers: Vec<f64> =
            text.split(|c: char| !c.is_ascii_digit() && c != '.' && c != '-').filter_map(|n| n.parse().ok()).collect();
        eprintln!("{} numbers", numbers.len());
        writeln!(out, "{{\"type\":\"text\",\"text\":\"The sum is {}.\"}}", numbers.iter().sum::<f64>())?;
        writeln!(out, "{{\"type\":\"done\"}}")?;
        out.flush()?;
    }
    Ok(())
}

/// The first string of that name in a line of JSON.
fn field(json: &str, name: &str) -> Option<String> {
    let mut at = 0;
    let key = format!("\"{name}\"");
    while let Some(found) = json[at..].find(&key) {
        at += found + key.len();
        let rest = json[at..].trim_start();
        if let Some(value) = rest.strip_prefix(':').map(str::trim_start).and_then(|v| v.strip_prefix('"')) {
            return Some(unescape(value));
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let (mut out, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('u') => {
                    let code: String = chars.by_ref().take(4).collect();
                    out.push(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32).unwrap_or('\u{fffd}'));
                }
                Some(other) => out.push(other),
                None => break,
            },
            c => out.push(c),
        }
    }
    out
}
