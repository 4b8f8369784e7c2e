//! The tool `files`: pages through what is too long for one answer, finds files, shows pictures, hands files to the user.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::edit::{self, failed};
use super::{Outcome, Place, needed, page, text, whole};
use crate::model::ToolDef;

pub const NAME: &str = "files";

/// Entries of one page of a list.
const LIST_PAGE: usize = 500;
/// Files looked at for one `find`, and names given back.
const FIND_FILES: usize = 200_000;
const FIND_NAMES: usize = 300;

pub fn definition() -> ToolDef {
    ToolDef {
        name: NAME.into(),
        description: "Works with files of this computer. `list`: a directory with sizes. `read`: a page of a text file from byte \
            `offset` on, or a picture. `find`: files below `path` whose name matches `pattern` (`*` and `?`). `share`: hands a \
            file to the user with your reply; use it for results the user asked for."
            .into(),
        schema: json!({
            "type": "object",
            "properties": {
                "action": {"type": "string", "enum": ["list", "read", "find", "share"]},
                "path": {"type": "string", "description": "Absolute path of a file or directory."},
                "offset": {"type": "integer", "description": "`read`: first byte. `list`: entries to skip."},
                "limit": {"type": "integer", "description": "`read`: bytes of a page, up to 65536."},
                "pattern": {"type": "string", "description": "`find`: a file name with `*` and `?`."}
            },
            "required": ["action", "path"]
        }),
        built_in: None,
    }
}

pub fn run(place: &Place, input: &Value) -> Result<Outcome, String> {
    let path = edit::path(place, needed(input, "path")?);
    let offset = whole(input, "offset")?.unwrap_or(0).max(0) as u64;
    match needed(input, "action")? {
        "list" => list(&path, offset as usize),
        "read" => {
            let limit = whole(input, "limit")?.map_or(page::PAGE_BYTES, |n| n.clamp(1, 65_536) as u64);
            read(place, &path, offset, limit)
        }
        "find" => find(&path, text(input, "pattern").unwrap_or("*")),
        "share" => share(&path),
        other => Err(format!("There is no action {other:?}; there are list, read, find and share.")),
    }
}

fn list(path: &Path, skip: usize) -> Result<Outcome, String> {
    let entries = fs::read_dir(path).map_err(|e| failed(path, &e))?;
    let mut lines: Vec<String> = entries
        .filter_map(Result::ok)
        .map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            match e.metadata() {
                Ok(m) if m.is_dir() => format!("{name}/"),
                Ok(m) if m.is_symlink() => {
                    let to = fs::read_link(e.path()).unwrap_or_default();
                    format!("{name} -> {}", to.display())
                }
                Ok(m) => format!("{name}\t{} bytes", m.len()),
                Err(_) => name,
            }
        })
        .collect();
    lines.sort_unstable();
    let total = lines.len();
    let mut out = String::new();
    for line in lines.iter().skip(skip).take(LIST_PAGE) {
        out.push_str(line);
        out.push('\n');
    }
    if skip + LIST_PAGE < total {
        let _ = write!(out, "[{total} entries; go on with \"offset\": {}]", skip + LIST_PAGE);
    }
    Ok(Outcome::text(if out.is_empty() { "(empty)".to_owned() } else { out }))
}

fn read(place: &Place, path: &Path, offset: u64, limit: u64) -> Result<Outcome, String> {
    let meta = fs::metadata(path).map_err(|e| failed(path, &e))?;
    if !meta.is_file() {
        return Err(format!("Error: {} is no regular file.", path.display()));
    }
    if offset == 0
        && let Some(picture) = edit::picture(place, path)
    {
        return picture;
    }
    let (mut shown, next, length) = page::of_file(path, offset, limit).map_err(|e| failed(path, &e))?;
    if shown.contains('\0') {
        return Err(format!(
            "Error: {} is no text ({length} bytes). Use `bash`, for instance xxd or file.",
            path.display()
        ));
    }
    if let Some(next) = next {
        let _ = write!(shown, "[bytes {offset} to {next} of {length}; go on with \"offset\": {next}]");
    }
    Ok(Outcome::text(if shown.is_empty() { "(nothing there)".to_owned() } else { shown }))
}

fn find(path: &Path, pattern: &str) -> Result<Outcome, String> {
    let mut found = Vec::new();
    let (mut looked, mut left) = (0_usize, vec![path.to_owned()]);
    fs::read_dir(path).map_err(|e| failed(path, &e))?;
    while let Some(dir) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let mut below: Vec<PathBuf> = Vec::new();
        for entry in entries.filter_map(Result::ok) {
            looked += 1;
            if matches(pattern, &entry.file_name().to_string_lossy()) {
                found.push(entry.path());
            }
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            let full = entry.path();
            if is_dir && full != Path::new("/proc") && full != Path::new("/sys") {
                below.push(full);
            }
        }
        below.sort_unstable_by(|a, b| b.cmp(a));
        left.append(&mut below);
        if looked > FIND_FILES || found.len() > FIND_NAMES {
            break;
        }
    }
    let is_all = left.is_empty();
    let mut out = String::new();
    for path in found.iter().take(FIND_NAMES) {
        let _ = writeln!(out, "{}", path.display());
    }
    if !is_all || found.len() > FIND_NAMES {
        out.push_str("[there may be more: look in a directory below, or give a narrower pattern]");
    }
    Ok(Outcome::text(if out.is_empty() { format!("No name matches {pattern:?}.") } else { out }))
}

/// Whether a name matches a pattern of `*`, `?` and plain characters. Linear in practice: only the last star is gone back to.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut i, mut j) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while j < n.len() {
        if i < p.len() && p[i] == '*' {
            star = Some((i, j));
            i += 1;
        } else if i < p.len() && (p[i] == '?' || p[i] == n[j]) {
            i += 1;
            j += 1;
        } else if let Some((at, from)) = star {
            i = at + 1;
            j = from + 1;
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    p[i..].iter().all(|c| *c == '*')
}

fn share(path: &Path) -> Result<Outcome, String> {
    let full = fs::canonicalize(path).map_err(|e| failed(path, &e))?;
    let meta = fs::metadata(&full).map_err(|e| failed(path, &e))?;
    if !meta.is_file() {
        return Err(format!(
            "Error: {} is no regular file; pack a directory into one first.",
            path.display()
        ));
    }
    let shown = full.to_str().ok_or("Error: the file's name is not UTF-8; copy it to another name first.")?;
    Ok(Outcome {
        share: Some(shown.to_owned()),
        ..Outcome::text(format!("{shown} ({} bytes) goes to the user with your reply.", meta.len()))
    })
}
