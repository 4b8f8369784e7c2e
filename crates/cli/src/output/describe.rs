//! One thing in full, for people: a field a line, in the order the API gives them.

use serde::Serialize;
use serde_norway::Value;
use unicode_width::UnicodeWidthStr as _;
use wharf_domain::Time;

use super::{Style, format, plain};

/// Renders it. Times get their age, sizes their unit; nested objects are dotted; text of several lines is indented.
pub fn render<T: Serialize>(item: &T, now: Time, colour: bool) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    flatten("", &serde_norway::to_value(item)?, now, &mut lines);
    let width = lines.iter().map(|(k, _)| k.width()).max().unwrap_or(0);
    let mut out = String::new();
    for (key, value) in &lines {
        let pad = " ".repeat(width - key.width());
        let value = plain(value);
        if value.contains('\n') {
            out.push_str(&Style::Dim.paint(key, colour));
            out.push('\n');
            for line in value.trim_end_matches('\n').split('\n') {
                out.push_str("  ");
                out.push_str(line);
                out.push('\n');
            }
        } else {
            out.extend([format!("{}{pad}  {value}\n", Style::Dim.paint(key, colour))]);
        }
    }
    Ok(out)
}

fn flatten(key: &str, value: &Value, now: Time, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Mapping(map) if !map.is_empty() => {
            for (k, v) in map {
                let k = scalar("", k, now);
                let key = if key.is_empty() { k } else { format!("{key}.{k}") };
                flatten(&key, v, now, lines);
            }
        }
        Value::Sequence(items) if items.iter().any(|i| matches!(i, Value::Mapping(_))) => {
            for (n, item) in items.iter().enumerate() {
                flatten(&format!("{key}[{n}]"), item, now, lines);
            }
        }
        _ => lines.push((key.to_owned(), scalar(key, value, now))),
    }
}

fn scalar(key: &str, value: &Value, now: Time) -> String {
    match value {
        Value::Null | Value::Mapping(_) => "-".into(),
        Value::Bool(b) => if *b { "yes" } else { "no" }.into(),
        Value::Number(n) => match n.as_u64() {
            Some(bytes) if key.ends_with("_bytes") && bytes >= 1024 => {
                format!("{n} ({})", format::bytes(bytes))
            }
            _ => n.to_string(),
        },
        Value::String(s) => match s.parse::<Time>() {
            Ok(at) if key.ends_with("_at") || key == "at" => {
                if at > now {
                    format!("{s} (in {})", format::span(at.since(now)))
                } else {
                    format!("{s} ({} ago)", format::age(at, now))
                }
            }
            _ if s.is_empty() => "-".into(),
            _ => s.clone(),
        },
        Value::Sequence(items) if items.is_empty() => "-".into(),
        Value::Sequence(items) => items.iter().map(|i| scalar("", i, now)).collect::<Vec<_>>().join(", "),
        Value::Tagged(t) => scalar(key, &t.value, now),
    }
}
