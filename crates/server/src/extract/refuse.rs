//! What serde says, in the caller's words: which field, what is wrong with it, what was probably meant.

use wharf_domain::{Code, Error};

/// How alike two names must be for one to be offered instead of the other.
const ALIKE: f64 = 0.8;

/// Turns a deserialisation message about `path` into an error. `path` is empty or `.` for the whole.
pub(super) fn refuse(path: &str, message: &str) -> Error {
    let path = if path == "." { "" } else { path };
    let join = |name: &str| match path {
        "" => name.to_owned(),
        p if p == name || p.ends_with(&format!(".{name}")) => p.to_owned(),
        p => format!("{p}.{name}"),
    };
    if let Some((name, rest)) = quoted(message, "unknown field `") {
        let mut text = format!("there is no field {name:?} here");
        suggest(&mut text, name, rest);
        return Error::new(Code::UnknownField, text).field(join(name));
    }
    if let Some((name, _)) = quoted(message, "missing field `") {
        return Error::new(Code::InvalidField, format!("the field {name:?} is required")).field(join(name));
    }
    if let Some((name, _)) = quoted(message, "duplicate field `") {
        return Error::new(Code::InvalidField, format!("the field {name:?} is given twice"))
            .field(join(name));
    }
    if let Some((value, rest)) = quoted(message, "unknown variant `") {
        let value: String = value.chars().take(80).collect();
        let mut text = format!("{value:?} is not allowed here");
        suggest(&mut text, &value, rest);
        return with_field(Error::new(Code::InvalidField, text), path);
    }
    // A domain type's own refusal arrives as `code: text`.
    if let Some((code, text)) = message.split_once(": ")
        && let Some(code) = Code::ALL.iter().find(|c| c.as_str() == code)
    {
        return with_field(Error::new(*code, text), path);
    }
    let message = plainly(message);
    let what = if path.is_empty() { "the request" } else { path };
    with_field(Error::new(Code::InvalidField, format!("{what}: {message}")), path)
}

/// Without the words of the programming language.
fn plainly(message: &str) -> String {
    if message == "invalid digit found in string" || message == "number too large to fit in target type" {
        return "not a whole number in range".to_owned();
    }
    let mut text = message.to_owned();
    for number in ["u8", "u16", "u32", "u64", "i32", "i64"] {
        text = text.replace(&format!("expected {number}"), "expected a whole number");
    }
    text
}

fn with_field(error: Error, path: &str) -> Error {
    if path.is_empty() { error } else { error.field(path) }
}

/// `before`, then text up to the next backtick, then the rest.
fn quoted<'m>(message: &'m str, before: &str) -> Option<(&'m str, &'m str)> {
    message.strip_prefix(before)?.split_once('`')
}

fn suggest(text: &mut String, wrong: &str, expected: &str) {
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let near = known
        .iter()
        .map(|k| (strsim::jaro_winkler(wrong, k), *k))
        .filter(|(score, _)| *score >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, k)) => {
            text.push_str("; did you mean \"");
            text.push_str(k);
            text.push_str("\"?");
        }
        None if known.is_empty() => text.push_str("; none is known"),
        None => {
            text.push_str("; known are ");
            text.push_str(&known.join(", "));
        }
    }
}
