//! Pages of long text: what is shown of it, and how to read on. Nothing is cut away: the whole is in a file.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Bytes shown of one output: about 5000 tokens.
pub const PAGE_BYTES: u64 = 16 * 1024;
/// Of a longer one: its beginning and, where errors stand, its end.
const HEAD_BYTES: u64 = 6 * 1024;
const TAIL_BYTES: u64 = 10 * 1024;

/// What is shown of a file of output. True: it is all of it.
pub fn of_output(path: &Path) -> io::Result<(String, bool)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length <= PAGE_BYTES {
        let mut bytes = Vec::new();
        file.take(PAGE_BYTES).read_to_end(&mut bytes)?;
        return Ok((String::from_utf8_lossy(&bytes).into_owned(), true));
    }
    let mut head = vec![0; HEAD_BYTES as usize];
    file.read_exact(&mut head)?;
    let mut tail = vec![0; TAIL_BYTES as usize];
    file.seek(SeekFrom::Start(length - TAIL_BYTES))?;
    file.read_exact(&mut tail)?;
    // Whole lines, where there are any.
    let head = head.iter().rposition(|b| *b == b'\n').map_or(&head[..], |at| &head[..=at]);
    let tail = tail.iter().position(|b| *b == b'\n').map_or(&tail[..], |at| &tail[at + 1..]);
    let left_out = length - head.len() as u64 - tail.len() as u64;
    let (path, from) = (path.display(), head.len());
    Ok((
        format!(
            "{}[… {left_out} of {length} bytes are not shown here. The whole output is in {path}; read on with the tool \
             `files`: {{\"action\": \"read\", \"path\": \"{path}\", \"offset\": {from}}} …]\n{}",
            String::from_utf8_lossy(head),
            String::from_utf8_lossy(tail),
        ),
        false,
    ))
}

/// A page of a file from `offset`, and the offset of the next one.
pub fn of_file(path: &Path, offset: u64, limit: u64) -> io::Result<(String, Option<u64>, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(offset.min(length)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    let is_last = offset + bytes.len() as u64 >= length;
    if !is_last {
        // A page ends with a line, or at least with a whole character.
        let end = bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or_else(|| bytes.len() - incomplete(&bytes), |at| at + 1);
        bytes.truncate(end.max(1));
    }
    let next = (!is_last).then_some(offset + bytes.len() as u64);
    Ok((String::from_utf8_lossy(&bytes).into_owned(), next, length))
}

/// Bytes at the end that begin a character without ending it.
fn incomplete(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let needs = match byte {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if needs > back { back } else { 0 };
    }
    0
}

/// Text for a model: no more than a page, with a word on what is missing.
pub fn bounded(text: &str) -> String {
    if text.len() as u64 <= PAGE_BYTES {
        return text.to_owned();
    }
    let mut end = PAGE_BYTES as usize;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}\n[… {} of {} bytes are not shown …]", &text[..end], text.len() - end, text.len())
}
