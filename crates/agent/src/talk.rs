//! What is said of a turn while it runs: events, and how much of them.
//!
//! Messages and events of tools are milestones: they follow from the journal alone, in its order, so a turn that goes on after a
//! crash says those that were not heard, and no other twice. Words in the making come in pieces, joined when they come fast, and
//! stop when there were too many: the message has them all.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_wire::host::agent::FromAgent;
use wharf_wire::host::turn::Block as Shown;

use crate::block::{Block, Part, ToolResult, ToolUse};
use crate::images::Images;
use crate::journal::Entry;
use crate::model::Delta;
use crate::model::retry::Listener;
use crate::out::Out;

/// Pieces closer together than this travel as one.
const JOIN: Duration = Duration::from_millis(30);
/// Bytes of words in the making told in one turn.
const WORDS_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a tool's input or answer in an event.
const SHOWN_BYTES: usize = 8 * 1024;

pub struct Talk {
    out: Out,
    /// Milestones the host had heard when this process began with the turn, and those passed since.
    heard: u64,
    passed: u64,
    words: usize,
    pending: Vec<Delta>,
    flushed: Instant,
    /// Text of the answer that is being made.
    pub partial: String,
}

impl Talk {
    pub fn new(out: Out, heard: u64) -> Self {
        Self {
            out,
            heard,
            passed: 0,
            words: 0,
            pending: Vec::new(),
            flushed: Instant::now(),
            partial: String::new(),
        }
    }

    pub fn event(&self, name: &str, data: Value) {
        self.out.say(&FromAgent::Event { name: name.into(), data });
    }

    fn milestone(&mut self, said: &FromAgent) {
        self.passed += 1;
        if self.passed > self.heard {
            self.out.say(said);
        }
    }

    /// Tells of an entry of the turn's journal; `before` are those before it.
    pub fn entry(&mut self, entry: &Entry, before: &[(u64, Entry)], images: &Images) {
        match entry {
            Entry::Answer { blocks, .. } => self.answer(blocks, before),
            Entry::Started { id } => {
                if let Some(used) = call_of(before, id) {
                    // With what the guardrails took out gone.
                    let changed = before.iter().rev().find_map(|(_, e)| match e {
                        Entry::Judged { id: of, input: Some(input), .. } if of == id => Some(input.clone()),
                        _ => None,
                    });
                    let used = match changed {
                        Some(input) => ToolUse { input, ..used.clone() },
                        None => used.clone(),
                    };
                    self.milestone(&tool_use(&used));
                }
            }
            Entry::Finished(result) => {
                let name = call_of(before, &result.id).map(|u| u.name.clone());
                self.milestone(&tool_result(result, name, images));
            }
            _ => {}
        }
    }

    /// An answer is a message of its own; the last one brings the files that were shared.
    fn answer(&mut self, blocks: &[Block], before: &[(u64, Entry)]) {
        self.flush();
        self.partial.clear();
        let mut content: Vec<Shown> = Vec::new();
        let mut calls = false;
        for block in blocks {
            match block {
                Block::Text { text } if !text.trim().is_empty() => content.push(Shown::text(text.clone())),
                Block::ToolUse(_) => calls = true,
                _ => {}
            }
        }
        if !calls {
            for (_, entry) in before {
                if let Entry::Shared { path } = entry
                    && let Value::Object(map) = json!({"type": "file", "path": path})
                    && let Ok(block) = Shown::try_from(map)
                    && !content.contains(&block)
                {
                    content.push(block);
                }
            }
        }
        if !content.is_empty() {
            self.milestone(&FromAgent::Message { content });
        }
    }

    pub fn flush(&mut self) {
        for delta in std::mem::take(&mut self.pending) {
            let (bytes, said) = match delta {
                Delta::Text(text) => (text.len(), FromAgent::Text { text }),
                Delta::Thinking(text) => {
                    (text.len(), FromAgent::Event { name: "thinking".into(), data: json!({ "text": text }) })
                }
                Delta::Tool { id, name } => {
                    (64, FromAgent::Event { name: "tool_call".into(), data: json!({"id": id, "name": name}) })
                }
            };
            if self.words <= WORDS_BYTES {
                self.words += bytes;
                self.out.say(&said);
            }
        }
        self.flushed = Instant::now();
    }
}

impl Listener for Talk {
    fn said(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            match (self.pending.last_mut(), delta) {
                (Some(Delta::Text(last)), Delta::Text(more))
                | (Some(Delta::Thinking(last)), Delta::Thinking(more)) => {
                    last.push_str(more);
                }
                _ => self.pending.push(delta.clone()),
            }
            if let Delta::Text(text) = delta {
                self.partial.push_str(text);
            }
        }
        if self.flushed.elapsed() >= JOIN {
            self.flush();
        }
    }

    fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    fn quiet(&mut self) {
        self.flush();
    }

    fn again(&mut self, attempt: u32, why: &str, pause: Duration) {
        self.pending.clear();
        self.partial.clear();
        self.event(
            "model_retry",
            json!({"attempt": attempt, "because": why, "pause_seconds": pause.as_secs_f64(), "discard": true}),
        );
    }
}

/// The call a result belongs to: ids are unique within one answer only.
fn call_of<'a>(before: &'a [(u64, Entry)], id: &str) -> Option<&'a ToolUse> {
    before.iter().rev().find_map(|(_, e)| match e {
        Entry::Answer { blocks, .. } => blocks.iter().find_map(|b| match b {
            Block::ToolUse(used) if used.id == id => Some(used),
            _ => None,
        }),
        _ => None,
    })
}

fn shown(text: &str) -> (&str, bool) {
    let mut end = SHOWN_BYTES.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (&text[..end], end < text.len())
}

fn tool_use(used: &ToolUse) -> FromAgent {
    let mut data = json!({"id": used.id, "name": used.name});
    let input = used.input.to_string();
    let (begin, is_cut) = shown(&input);
    if is_cut {
        data["input"] = json!({"shown": begin});
        data["truncated"] = true.into();
    } else {
        data["input"] = used.input.clone();
    }
    FromAgent::Event { name: "tool_use".into(), data }
}

fn tool_result(result: &ToolResult, name: Option<String>, images: &Images) -> FromAgent {
    let mut all = String::new();
    let mut pictures = Vec::new();
    for part in &result.content {
        match part {
            Part::Text { text } => all.push_str(text),
            Part::Image { image } => {
                let mut picture = json!({"path": images.path(image), "media_type": image.media_type});
                if let Some((width, height)) = image.size {
                    picture["width"] = width.into();
                    picture["height"] = height.into();
                }
                pictures.push(picture);
            }
        }
    }
    let (begin, is_cut) = shown(&all);
    let mut data = json!({"id": result.id, "content": begin, "is_error": result.is_error});
    if let Some(name) = name {
        data["name"] = name.into();
    }
    if is_cut {
        data["truncated"] = true.into();
    }
    if !pictures.is_empty() {
        data["images"] = pictures.into();
    }
    FromAgent::Event { name: "tool_result".into(), data }
}
