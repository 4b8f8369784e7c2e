//! What the model is shown of a journal: a conversation that every protocol takes.
//!
//! Whatever the journal holds, users and assistants alternate and every call of a tool is answered behind it: a call without a
//! result is answered as interrupted, a result without a call is left out. Old screenshots go first, several at once, because
//! every change of what was sent before costs the provider's cache.

use std::collections::HashMap;

use crate::block::{Block, Message, Part, ToolResult, ToolUse};
use crate::journal::{End, Entry};

/// Pictures of tools that are always shown, and how many go at once.
const PICTURES_KEPT: usize = 10;
const PICTURES_AT_ONCE: usize = 10;

/// What a call is answered with that was running when its process died. It is not run again: nobody knows how far it came.
pub const INTERRUPTED: &str = "Interrupted: the computer was restarted while this ran, and it is not known how far it came. \
    Look at what is there before you try again.";

const OLD_PICTURE: &str = "[an earlier picture, left out]";

#[derive(Default)]
struct Draft {
    results: Vec<(ToolUse, ToolResult)>,
    content: Vec<Part>,
}

#[derive(Default)]
struct Builder {
    messages: Vec<Message>,
    user: Draft,
}

impl Builder {
    fn flush(&mut self) {
        let Draft { results, content } = std::mem::take(&mut self.user);
        if !results.is_empty() || !content.is_empty() {
            self.messages.push(Message::User { results, content });
        }
    }

    fn assistant(&mut self, blocks: &[Block]) {
        let is_empty = !blocks.iter().any(|b| match b {
            Block::Text { text } => !text.trim().is_empty(),
            Block::ToolUse(_) => true,
            _ => false,
        });
        if is_empty {
            return;
        }
        self.flush();
        let kept =
            blocks.iter().filter(|b| !matches!(b, Block::Text { text } if text.trim().is_empty())).cloned();
        if let Some(Message::Assistant(last)) = self.messages.last_mut() {
            last.extend(kept);
        } else {
            if self.messages.is_empty() {
                // No protocol lets an assistant begin.
                let content = vec![Part::text("[what was said before is not kept]")];
                self.messages.push(Message::User { results: Vec::new(), content });
            }
            self.messages.push(Message::Assistant(kept.collect()));
        }
    }
}

/// The summary that stands for all before an entry.
fn summary(entries: &[(u64, Entry)]) -> (u64, Option<&str>) {
    entries
        .iter()
        .rev()
        .find_map(|(_, e)| match e {
            Entry::Summary { upto, text } => Some((*upto, Some(text.as_str()))),
            _ => None,
        })
        .unwrap_or((0, None))
}

/// The conversation as the model sees it.
pub fn messages(entries: &[(u64, Entry)]) -> Vec<Message> {
    let (upto, summary) = summary(entries);
    let mut builder = Builder::default();
    if let Some(text) = summary {
        builder.user.content.push(Part::text(format!(
            "What was said and done so far, in few words (the conversation had become too long):\n\n{text}"
        )));
    }
    let live: Vec<&Entry> = entries.iter().filter(|(n, _)| *n >= upto).map(|(_, e)| e).collect();
    for (at, entry) in live.iter().enumerate() {
        match entry {
            Entry::Turn { content, .. } => builder.user.content.extend(content.iter().cloned()),
            Entry::Note { text } => builder.user.content.push(Part::text(text.clone())),
            Entry::Answer { blocks, .. } => {
                builder.assistant(blocks);
                let results = results(&live[at + 1..]);
                for block in blocks {
                    if let Block::ToolUse(used) = block {
                        let result = results.get(used.id.as_str()).map_or_else(
                            || ToolResult::error(&used.id, INTERRUPTED),
                            |result| (*result).clone(),
                        );
                        builder.user.results.push((used.clone(), filled(result)));
                    }
                }
            }
            Entry::Ended(End::Cancelled) => {
                builder.user.content.push(Part::text("[the user ended this turn before you were done]"));
            }
            Entry::Ended(End::Failed { detail, .. }) => {
                builder
                    .user
                    .content
                    .push(Part::text(format!("[this turn ended before you were done: {detail}]")));
            }
            _ => {}
        }
    }
    builder.flush();
    let mut messages = builder.messages;
    leave_out_pictures(&mut messages);
    messages
}

/// No protocol takes an empty answer.
fn filled(mut result: ToolResult) -> ToolResult {
    if !result.content.iter().any(|p| !matches!(p, Part::Text { text } if text.is_empty())) {
        result.content = vec![Part::text("(no output)")];
    }
    result
}

/// Results of one answer's calls: they stand between it and the next. Ids need not be unique beyond that.
fn results<'a>(behind: &[&'a Entry]) -> HashMap<&'a str, &'a ToolResult> {
    behind
        .iter()
        .take_while(|e| !matches!(e, Entry::Answer { .. }))
        .filter_map(|e| match e {
            Entry::Finished(result) => Some((result.id.as_str(), result)),
            _ => None,
        })
        .collect()
}

fn leave_out_pictures(messages: &mut [Message]) {
    fn pictures(message: &mut Message) -> Box<dyn Iterator<Item = &mut Part> + '_> {
        match message {
            Message::User { results, .. } => Box::new(
                results
                    .iter_mut()
                    .flat_map(|(_, r)| r.content.iter_mut())
                    .filter(|p| matches!(p, Part::Image { .. })),
            ),
            Message::Assistant(_) => Box::new(std::iter::empty()),
        }
    }
    let count: usize = messages.iter_mut().map(|m| pictures(m).count()).sum();
    let out = count.saturating_sub(PICTURES_KEPT) / PICTURES_AT_ONCE * PICTURES_AT_ONCE;
    for part in messages.iter_mut().flat_map(pictures).take(out) {
        *part = Part::text(OLD_PICTURE);
    }
}

/// Where a turn stands: what its loop has to do next.
#[derive(Debug, PartialEq)]
pub enum Position {
    /// The model is to be asked.
    Ask,
    /// These calls have no result yet. Those that had started will not be run.
    Run(Vec<(ToolUse, bool)>),
    /// The model has said its last word.
    Over,
}

/// `turn` are the entries of one turn, from its message on.
pub fn position(turn: &[(u64, Entry)]) -> Position {
    let Some(at) = turn.iter().rposition(|(_, e)| matches!(e, Entry::Answer { .. })) else {
        return Position::Ask;
    };
    let Entry::Answer { blocks, cut, paused, .. } = &turn[at].1 else { return Position::Ask };
    let behind = &turn[at + 1..];
    let finished = |id: &str| behind.iter().any(|(_, e)| matches!(e, Entry::Finished(r) if r.id == id));
    let started = |id: &str| behind.iter().any(|(_, e)| matches!(e, Entry::Started { id: s } if s == id));
    let calls: Vec<&ToolUse> = blocks
        .iter()
        .filter_map(|b| match b {
            Block::ToolUse(used) => Some(used),
            _ => None,
        })
        .collect();
    let open: Vec<(ToolUse, bool)> =
        calls.iter().filter(|u| !finished(&u.id)).map(|u| ((*u).clone(), started(&u.id))).collect();
    let noted = behind.iter().any(|(_, e)| matches!(e, Entry::Note { .. }));
    if !open.is_empty() {
        Position::Run(open)
    } else if !calls.is_empty() || *cut || *paused || noted {
        Position::Ask
    } else {
        Position::Over
    }
}

/// What the guardrails said of a call of the turn's last answer, and the number of that answer.
pub fn judged<'a>(turn: &'a [(u64, Entry)], id: &str) -> (u64, Option<&'a Entry>) {
    let Some(at) = turn.iter().rposition(|(_, e)| matches!(e, Entry::Answer { .. })) else {
        return (0, None);
    };
    let said =
        turn[at..].iter().map(|(_, e)| e).find(|e| matches!(e, Entry::Judged { id: of, .. } if of == id));
    (turn[at].0, said)
}

/// Tokens by rule of thumb: three bytes each, and what a screenshot of the usual size costs.
pub fn estimate(messages: &[Message]) -> u64 {
    const PICTURE: u64 = 1600;
    let part = |p: &Part| match p {
        Part::Text { text } => text.len() as u64 / 3 + 4,
        Part::Image { .. } => PICTURE,
    };
    messages
        .iter()
        .map(|m| match m {
            Message::User { results, content } => {
                let results: u64 = results.iter().flat_map(|(_, r)| &r.content).map(part).sum();
                results + content.iter().map(part).sum::<u64>()
            }
            Message::Assistant(blocks) => blocks
                .iter()
                .map(|b| match b {
                    Block::Text { text } => text.len() as u64 / 3 + 4,
                    Block::ToolUse(used) => used.input.to_string().len() as u64 / 3 + 20,
                    Block::Thinking { thinking, signature } => (thinking.len() + signature.len()) as u64 / 3,
                    Block::Opaque { item, .. } => item.to_string().len() as u64 / 3,
                })
                .sum(),
        })
        .sum()
}

#[cfg(test)]
mod tests;
