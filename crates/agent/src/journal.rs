//! The conversation on the session's disk: what makes a turn go on after a crash without doing anything twice.
//!
//! One JSON object a line, only ever appended, synced before what it tells of is acted on or told to anybody: a tool is in it as
//! started before it runs and as finished before its result is used. A torn last line is dropped; a damaged one in between is
//! skipped, and who reads the conversation mends what it leaves open. One process at a time has it open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_domain::{SessionId, TurnId};
use wharf_wire::host::turn::Reason;

use crate::block::{Block, Part, Tokens, ToolResult};

/// Bytes beyond which what was summarised is left behind.
const REWRITE_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes that are read at all.
const FILE_BYTES: u64 = 1024 * 1024 * 1024;
/// How long another process may take to let go of the file: one that was killed is gone within moments.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum End {
    Done,
    Cancelled,
    Failed { reason: Reason, detail: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// Whose conversation this is. Another session's is a parent's, come along with its files.
    Head {
        session: Option<SessionId>,
    },
    /// A user's message, and the turn that answers it.
    Turn {
        turn: TurnId,
        seq: i64,
        content: Vec<Part>,
    },
    /// Said to the model by nobody but the loop.
    Note {
        text: String,
    },
    Answer {
        blocks: Vec<Block>,
        tokens: Tokens,
        #[serde(default)]
        cut: bool,
        #[serde(default)]
        paused: bool,
    },
    /// Tokens of a call of the model whose answer is no part of the conversation: a summary, a refusal, a context that was
    /// full. The turn pays for it all the same.
    Spent {
        tokens: Tokens,
    },
    /// What the guardrails said of a call: why it must not run, or what its input is now.
    Judged {
        id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Value>,
    },
    /// A tool is about to run.
    Started {
        id: String,
    },
    Finished(ToolResult),
    /// Files that the reply of this turn hands to the user.
    Shared {
        path: String,
    },
    /// The turn goes on after its process died.
    Resumed,
    /// All before entry `upto` in few words.
    Summary {
        upto: u64,
        text: String,
    },
    Ended(End),
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    n: u64,
    #[serde(flatten)]
    entry: Entry,
}

pub struct Journal {
    path: PathBuf,
    file: File,
    pub entries: Vec<(u64, Entry)>,
    next: u64,
    bytes: u64,
}

impl Journal {
    /// Opens the journal, and drops what is torn at its end.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut file = open(path)?;
        let mut bytes = Vec::new();
        io::Read::by_ref(&mut file).take(FILE_BYTES).read_to_end(&mut bytes)?;
        let (entries, good) = parse(&bytes);
        if good < bytes.len() as u64 {
            eprintln!("the journal's last line was torn: {} bytes are dropped", bytes.len() as u64 - good);
            file.set_len(good)?;
        }
        let next = entries.last().map_or(0, |(n, _)| n + 1);
        Ok(Self { path: path.to_owned(), file, entries, next, bytes: good })
    }

    /// Appends; on the disk when this returns.
    pub fn append(&mut self, entry: Entry) -> io::Result<u64> {
        let n = self.next;
        let mut line = serde_json::to_vec(&Line { n, entry: entry.clone() })?;
        line.push(b'\n');
        if let Err(e) = self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            // Half a line must not stand before the next whole one.
            let _ = self.file.set_len(self.bytes);
            return Err(e);
        }
        self.bytes += line.len() as u64;
        self.next += 1;
        self.entries.push((n, entry));
        Ok(n)
    }

    /// Forgets in memory what a summary stands for, and on the disk when that is worth it.
    pub fn forget_summarised(&mut self) -> io::Result<()> {
        let Some(upto) = self.entries.iter().rev().find_map(|(_, e)| match e {
            Entry::Summary { upto, .. } => Some(*upto),
            _ => None,
        }) else {
            return Ok(());
        };
        // The turn that runs is needed whole: what was said of it is counted when it goes on.
        let turn = self.entries.iter().rposition(|(_, e)| matches!(e, Entry::Turn { .. })).unwrap_or(0);
        let keep = |at: usize, n: u64, e: &Entry| {
            n >= upto || at >= turn || matches!(e, Entry::Head { .. } | Entry::Summary { .. })
        };
        let mut at = 0;
        self.entries.retain(|(n, e)| {
            let kept = keep(at, *n, e);
            at += 1;
            kept
        });
        if self.bytes > REWRITE_BYTES { self.rewrite() } else { Ok(()) }
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        for (n, entry) in &self.entries {
            serde_json::to_writer(&mut text, &Line { n: *n, entry: entry.clone() })?;
            text.push(b'\n');
        }
        let temporary = self.path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let mut file = open(&temporary)?;
        file.write_all(&text)?;
        file.sync_data()?;
        fs::rename(&temporary, &self.path)?;
        self.file = file;
        self.bytes = text.len() as u64;
        Ok(())
    }

    /// Begins anew, for a session that shall not know what was said here before.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.sync_data()?;
        self.entries.clear();
        self.bytes = 0;
        self.next = 0;
        Ok(())
    }

    /// The last session that spoke here.
    pub fn session(&self) -> Option<SessionId> {
        self.entries.iter().rev().find_map(|(_, e)| match e {
            Entry::Head { session } => Some(*session),
            _ => None,
        })?
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "another process has the conversation open"))
}

/// Entries, and how many bytes of the file are whole lines.
pub fn parse(bytes: &[u8]) -> (Vec<(u64, Entry)>, u64) {
    let mut entries: Vec<(u64, Entry)> = Vec::new();
    let mut good = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        if !line.ends_with(b"\n") {
            break;
        }
        good += line.len() as u64;
        match serde_json::from_slice::<Line>(line) {
            Ok(line) if entries.last().is_none_or(|(n, _)| line.n > *n) => entries.push((line.n, line.entry)),
            Ok(_) => {}
            Err(e) => eprintln!("a line of the journal cannot be read and is skipped: {e}"),
        }
    }
    (entries, good)
}

#[cfg(test)]
mod tests;
