//! Makes room before the context overflows: the model itself puts the older part of the conversation into few words.
//!
//! The cut is made between an answer (with the results of its calls) and the next, so a call is never parted from its
//! result. What is recent stays word for word, and so does the message that is being answered.

use std::fmt::Write as _;

use crate::block::{Block, Message, Part};
use crate::history;
use crate::journal::Entry;

/// Of what the model reads at once: beyond this, room is made; this much of the recent past stays as it was; this much is
/// summarised by one call.
const FULL: f64 = 0.85;
const RECENT: f64 = 0.25;
const CHUNK: f64 = 0.5;
/// Bytes of the message in hand that are repeated behind a summary.
const IN_HAND_BYTES: usize = 24 * 1024;
/// Bytes of one tool's answer in what is summarised: enough to tell what came of it.
const RESULT_BYTES: usize = 4 * 1024;

pub const SYSTEM: &str = "You write the memory of an agent that works on a computer. You are given a part of what it was told, \
    said and did, and perhaps the memory of what was before. Write the new memory, for the agent itself: what the user wants, in \
    the user's words where they matter; what was decided and why; what was done, with exact paths, names, commands and values that \
    are still needed; what was found out; what failed; what is still to be done, and the very next step. Leave out what no longer \
    matters. Write nothing else.";

/// Whether room is to be made before the model is asked again. `used` is what the provider counted last, where that is still
/// true, and the messages that came since.
pub fn is_full(context: u32, max_tokens: u32, used: u64) -> bool {
    let room = f64::from(context) * FULL;
    used as f64 + f64::from(max_tokens) * 0.5 > room
}

/// Tokens that stand before the model now, as well as can be told.
pub fn in_use(entries: &[(u64, Entry)], messages: &[Message]) -> u64 {
    let last = entries.iter().rposition(|(_, e)| matches!(e, Entry::Answer { .. } | Entry::Summary { .. }));
    match last.map(|at| &entries[at].1) {
        Some(Entry::Answer { tokens, .. }) if tokens.context() > 0 => {
            let behind =
                messages.iter().rposition(|m| matches!(m, Message::Assistant(_))).map_or(0, |at| at + 1);
            tokens.context() + history::estimate(&messages[behind..])
        }
        _ => history::estimate(messages),
    }
}

/// Where to cut: the number of the first entry that stays. None: there is nothing to gain.
pub fn cut(entries: &[(u64, Entry)], context: u32) -> Option<u64> {
    let from = entries
        .iter()
        .rev()
        .find_map(|(_, e)| match e {
            Entry::Summary { upto, .. } => Some(*upto),
            _ => None,
        })
        .unwrap_or(0);
    let live: Vec<&(u64, Entry)> = entries.iter().filter(|(n, _)| *n >= from).collect();
    // A unit begins with a user's message or an answer of the model.
    let starts: Vec<usize> = live
        .iter()
        .enumerate()
        .filter(|(_, (_, e))| matches!(e, Entry::Turn { .. } | Entry::Answer { .. }))
        .map(|(at, _)| at)
        .collect();
    let room = (f64::from(context) * RECENT) as u64;
    let mut chosen = None;
    for start in starts.iter().skip(1).rev() {
        let kept: Vec<(u64, Entry)> = live[*start..].iter().map(|e| (*e).clone()).collect();
        let size = history::estimate(&history::messages(&kept));
        if chosen.is_some() && size > room {
            break;
        }
        chosen = Some(live[*start].0);
        if size > room {
            break;
        }
    }
    chosen
}

/// The older part as text, in pieces of which each goes into one call.
pub fn pieces(entries: &[(u64, Entry)], upto: u64, context: u32) -> Vec<String> {
    let old: Vec<(u64, Entry)> =
        entries.iter().filter(|(n, e)| *n < upto || matches!(e, Entry::Summary { .. })).cloned().collect();
    let limit = (f64::from(context) * CHUNK) as usize * 3;
    let mut pieces = vec![String::new()];
    for message in history::messages(&old) {
        let text = render(&message);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let last = pieces.last_mut().map_or(0, |p| p.len());
            if last >= limit {
                pieces.push(String::new());
                continue;
            }
            let take = floor_char(rest, limit - last);
            let take = if take == 0 { rest.len() } else { take };
            if let Some(piece) = pieces.last_mut() {
                piece.push_str(&rest[..take]);
            }
            rest = &rest[take..];
        }
    }
    pieces.retain(|p| !p.trim().is_empty());
    pieces
}

/// What the summary says besides the model's words: the message in hand, where the cut has left it behind.
pub fn in_hand(entries: &[(u64, Entry)], upto: u64) -> Option<String> {
    let (n, content) = entries.iter().rev().find_map(|(n, e)| match e {
        Entry::Turn { content, .. } => Some((*n, content)),
        _ => None,
    })?;
    if n >= upto {
        return None;
    }
    let mut text: String = content
        .iter()
        .map(|p| match p {
            Part::Text { text } => text.as_str(),
            Part::Image { .. } => "[a picture]",
        })
        .collect::<Vec<_>>()
        .join("\n");
    if text.len() > IN_HAND_BYTES {
        text.truncate(floor_char(&text, IN_HAND_BYTES));
        text.push_str(" […]");
    }
    Some(format!("The user's message that is being answered now:\n\n{text}"))
}

fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn shortened(text: &str) -> String {
    if text.len() <= RESULT_BYTES {
        return text.to_owned();
    }
    let head = floor_char(text, RESULT_BYTES / 2);
    let mut tail = text.len() - RESULT_BYTES / 2;
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}\n[… {} bytes …]\n{}", &text[..head], tail - head, &text[tail..])
}

fn render(message: &Message) -> String {
    let mut out = String::new();
    let part = |p: &Part| match p {
        Part::Text { text } => shortened(text),
        Part::Image { .. } => "[a picture]".to_owned(),
    };
    match message {
        Message::User { results, content } => {
            for (used, result) in results {
                let what = if result.is_error { "failed" } else { "answered" };
                let said: Vec<String> = result.content.iter().map(part).collect();
                let _ = write!(out, "## {} {what}\n{}\n\n", used.name, said.join("\n"));
            }
            if !content.is_empty() {
                // What a user says is never shortened: it is what all the rest is about.
                let said: Vec<String> = content
                    .iter()
                    .map(|p| match p {
                        Part::Text { text } => text.clone(),
                        Part::Image { .. } => "[a picture]".to_owned(),
                    })
                    .collect();
                let _ = write!(out, "## User\n{}\n\n", said.join("\n"));
            }
        }
        Message::Assistant(blocks) => {
            for block in blocks {
                match block {
                    Block::Text { text } => {
                        let _ = write!(out, "## Agent\n{text}\n\n");
                    }
                    Block::ToolUse(used) => {
                        let input = shortened(&used.input.to_string());
                        let _ = write!(out, "## Agent calls {}\n{input}\n\n", used.name);
                    }
                    Block::Thinking { .. } | Block::Opaque { .. } => {}
                }
            }
        }
    }
    out
}
