//! The tool `str_replace_based_edit_tool`, as Anthropic documents `text_editor_20250728`.
//!
//! A file is replaced as a whole by renaming, with its mode kept: who reads it sees the old text or the new one.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Outcome, Place, needed, text, whole};
use crate::block::Part;
use crate::images::{self, O_NONBLOCK};
use crate::model::{BuiltIn, ToolDef};

pub const NAME: &str = "str_replace_based_edit_tool";

/// Bytes of a file that is edited.
const FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of a view.
const VIEW_BYTES: usize = 32 * 1024;
/// Lines shown around an edit.
const AROUND: usize = 4;
/// Entries of a directory's view.
const ENTRIES: usize = 500;

pub fn definition() -> ToolDef {
    ToolDef {
        name: NAME.into(),
        description: "Views, creates and edits text files. `view` shows a file with line numbers (`view_range` for a part), a \
            picture, or a directory two levels deep. `create` writes a whole file. `str_replace` replaces the one occurrence of \
            `old_str`, which must match exactly, by `new_str`. `insert` puts `insert_text` behind line `insert_line` (0: before \
            the first)."
            .into(),
        schema: json!({
            "type": "object",
            "properties": {
                "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert"]},
                "path": {"type": "string", "description": "Absolute path of a file or directory."},
                "view_range": {"type": "array", "items": {"type": "integer"},
                    "description": "First and last line, counted from 1; -1 as last means to the end."},
                "file_text": {"type": "string", "description": "For `create`: the whole text."},
                "old_str": {"type": "string", "description": "For `str_replace`."},
                "new_str": {"type": "string", "description": "For `str_replace`; nothing when absent."},
                "insert_line": {"type": "integer", "description": "For `insert`."},
                "insert_text": {"type": "string", "description": "For `insert`."}
            },
            "required": ["command", "path"]
        }),
        built_in: Some(BuiltIn::Edit),
    }
}

pub fn run(place: &Place, input: &Value) -> Result<Outcome, String> {
    let path = path(place, needed(input, "path")?);
    match needed(input, "command")? {
        "view" => view(place, &path, input),
        "create" => create(&path, needed(input, "file_text")?),
        "str_replace" => {
            replace(&path, needed(input, "old_str")?, text(input, "new_str").unwrap_or_default())
        }
        "insert" => {
            let at = whole(input, "insert_line")?.ok_or("`insert_line` is required")?;
            // Earlier versions of the tool called it `new_str`.
            let new = text(input, "insert_text").or_else(|| text(input, "new_str"));
            insert(&path, at, new.ok_or("`insert_text` is required")?)
        }
        other => {
            Err(format!("There is no command {other:?}; there are view, create, str_replace and insert."))
        }
    }
}

/// Relative ones count from the home, as a user would expect.
pub fn path(place: &Place, path: &str) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(rest) => place.home.join(rest),
        None if path == "~" => place.home.clone(),
        None => place.home.join(path),
    }
}

pub fn failed(path: &Path, e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => format!("Error: File not found: {}", path.display()),
        io::ErrorKind::PermissionDenied => format!("Error: Permission denied: {}", path.display()),
        _ => format!("Error: {}: {e}", path.display()),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .map_err(|e| failed(path, &e))?;
    let meta = file.metadata().map_err(|e| failed(path, &e))?;
    if meta.is_dir() {
        return Err(format!("Error: {} is a directory; only `view` takes one.", path.display()));
    }
    if !meta.is_file() {
        return Err(format!("Error: {} is no regular file.", path.display()));
    }
    if meta.len() > FILE_BYTES {
        return Err(format!(
            "Error: {} has {} bytes; this tool takes up to {FILE_BYTES}. Use `bash` for a part of it.",
            path.display(),
            meta.len()
        ));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes).map_err(|e| failed(path, &e))?;
    String::from_utf8(bytes)
        .map_err(|_| format!("Error: {} is not UTF-8 text. Use `bash` for it.", path.display()))
}

/// Writes the whole, beside the old one first.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let fail = |e: io::Error| failed(path, &e);
    // Through a link its target is what is meant.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = fs::metadata(&target).map(|m| m.permissions().mode() & 0o7777).ok();
    let dir = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(fail)?;
    let name = target.file_name().ok_or_else(|| format!("Error: {} names no file.", path.display()))?;
    let beside = dir.join(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
        file.write_all(text.as_bytes())?;
        if let Some(mode) = mode {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        fs::rename(&beside, &target)
    })();
    match written {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && mode.is_some() && !beside.exists() => {
            // The directory is another's, but the file may be ours.
            fs::write(&target, text).map_err(fail)
        }
        other => other.map_err(|e| {
            let _ = fs::remove_file(&beside);
            fail(e)
        }),
    }
}

fn numbered(lines: &[&str], first: usize) -> String {
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        let _ = writeln!(out, "{:6}\t{line}", first + at);
    }
    out
}

fn view(place: &Place, path: &Path, input: &Value) -> Result<Outcome, String> {
    if path.is_dir() {
        if input.get("view_range").is_some_and(|v| !v.is_null()) {
            return Err("Error: `view_range` is not allowed for a directory.".into());
        }
        return Ok(Outcome::text(directory(path)));
    }
    if let Some(outcome) = picture(place, path) {
        return outcome;
    }
    let text = read(path)?;
    let lines: Vec<&str> = text.split_terminator('\n').collect();
    let (first, last) = range(input, lines.len())?;
    let limit = whole(input, "max_characters")?.map_or(VIEW_BYTES, |n| (n.max(1) as usize).min(VIEW_BYTES));
    let mut shown = numbered(&lines[first - 1..last], first);
    if shown.len() > limit {
        let mut end = limit;
        while !shown.is_char_boundary(end) {
            end -= 1;
        }
        let end = shown[..end].rfind('\n').map_or(end, |at| at + 1);
        let seen = shown[..end].lines().count();
        shown.truncate(end);
        let _ = write!(
            shown,
            "[lines {first} to {} of {} are shown; read on with `view_range`: [{}, -1]]",
            first + seen.saturating_sub(1),
            lines.len(),
            first + seen
        );
    }
    if shown.is_empty() {
        shown = "(the file is empty)".into();
    }
    Ok(Outcome::text(shown))
}

/// A picture is shown as one.
pub fn picture(place: &Place, path: &Path) -> Option<Result<Outcome, String>> {
    let mut begin = [0_u8; 16];
    let mut file = fs::OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let n = io::Read::read(&mut file, &mut begin).ok()?;
    let media_type = images::media_type(&begin[..n])?;
    Some(
        images::read(path)
            .and_then(|bytes| place.images.keep(&bytes, media_type, None))
            .map(|image| Outcome { content: vec![Part::Image { image }], ..Outcome::default() })
            .map_err(|e| failed(path, &e)),
    )
}

fn range(input: &Value, lines: usize) -> Result<(usize, usize), String> {
    let Some(range) = input.get("view_range").filter(|v| !v.is_null()) else { return Ok((1, lines)) };
    let bad = |why: String| Err(format!("Error: Invalid `view_range`: {range}. {why}"));
    let ends: Vec<i64> = range.as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
    let [first, last] = ends[..] else { return bad("It should be a list of two whole numbers.".into()) };
    if lines == 0 && first <= 1 {
        return Ok((1, 0));
    }
    if first < 1 || first as usize > lines {
        return bad(format!("Its first number should be within the lines of the file: 1 to {lines}."));
    }
    if last != -1 && last < first {
        return bad("Its second number should not be smaller than its first, or be -1.".into());
    }
    let last = if last == -1 { lines } else { (last as usize).min(lines) };
    Ok((first as usize, last))
}

fn directory(path: &Path) -> String {
    let mut out = format!("{}\n", path.display());
    let mut count = 0;
    list(path, 2, &mut out, &mut count);
    if count > ENTRIES {
        let _ = writeln!(
            out,
            "[there is more than these {ENTRIES} entries; view a directory below, or use `bash`]"
        );
    }
    out
}

fn list(dir: &Path, depth: u32, out: &mut String, count: &mut usize) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") || name == "node_modules" {
            continue;
        }
        *count += 1;
        if *count > ENTRIES {
            return;
        }
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        let _ = writeln!(out, "{}{}", entry.path().display(), if is_dir { "/" } else { "" });
        if is_dir && depth > 1 {
            list(&entry.path(), depth - 1, out, count);
        }
    }
}

fn create(path: &Path, text: &str) -> Result<Outcome, String> {
    if path.is_dir() {
        return Err(format!("Error: {} is a directory.", path.display()));
    }
    let what = if path.exists() { "overwritten" } else { "created" };
    write(path, text)?;
    Ok(Outcome::text(format!("File {what} successfully at: {}", path.display())))
}

fn snippet(text: &str, line: usize, count: usize) -> String {
    let lines: Vec<&str> = text.split_terminator('\n').collect();
    let first = line.saturating_sub(AROUND).max(1);
    let last = (line + count + AROUND - 1).min(lines.len());
    if first > last { String::new() } else { super::page::bounded(&numbered(&lines[first - 1..last], first)) }
}

fn replace(path: &Path, old: &str, new: &str) -> Result<Outcome, String> {
    let text = read(path)?;
    if old.is_empty() {
        return Err("Error: `old_str` is empty.".into());
    }
    let found: Vec<usize> = text.match_indices(old).map(|(at, _)| at).collect();
    let line_of = |at: usize| text[..at].matches('\n').count() + 1;
    match found[..] {
        [] => Err(format!(
            "Error: No match found for replacement in {}. `old_str` must match exactly, spaces and line ends included.",
            path.display()
        )),
        [at] => {
            let line = line_of(at);
            let replaced = format!("{}{new}{}", &text[..at], &text[at + old.len()..]);
            write(path, &replaced)?;
            let around = snippet(&replaced, line, new.matches('\n').count() + 1);
            Ok(Outcome::text(format!("Successfully replaced text at exactly one location.\n{around}")))
        }
        _ => {
            let lines: Vec<String> = found.iter().take(20).map(|at| line_of(*at).to_string()).collect();
            Err(format!(
                "Error: Found {} matches for replacement text, at lines {}. Please provide more context to make a unique match.",
                found.len(),
                lines.join(", ")
            ))
        }
    }
}

fn insert(path: &Path, at: i64, new: &str) -> Result<Outcome, String> {
    let text = read(path)?;
    let lines = text.split_inclusive('\n').count();
    if at < 0 || at as usize > lines {
        return Err(format!(
            "Error: Invalid `insert_line`: {at}. It should be within the lines of the file: 0 to {lines}."
        ));
    }
    let at = at as usize;
    let mut out = String::with_capacity(text.len() + new.len() + 2);
    for line in text.split_inclusive('\n').take(at) {
        out.push_str(line);
    }
    if at > 0 && !out.ends_with('\n') {
        out.push('\n');
    }
    out.push_str(new);
    if !new.ends_with('\n') && at < lines {
        out.push('\n');
    }
    for line in text.split_inclusive('\n').skip(at) {
        out.push_str(line);
    }
    write(path, &out)?;
    let around = snippet(&out, at + 1, new.matches('\n').count() + 1);
    Ok(Outcome::text(format!("Text inserted successfully.\n{around}")))
}
