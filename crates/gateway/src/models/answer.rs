//! An answer of a model that is all there: what it says, wherever the protocols put it, and the same with something taken out.
//!
//! Everything the model says is found: words, thoughts, refusals, and the arguments of the tools it calls, which are read as the
//! JSON they are. Not what is encrypted, and not sound or pictures. Thoughts that a provider signs are left out as a whole where something would
//! be taken out of them: altered, the provider would not have them back.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use wharf_guard::{strings, with_strings};

/// An answer that is all there.
pub(super) enum Answer {
    Whole(Value),
    /// Events as they came, with what they hold where that is JSON.
    Streamed(Vec<(String, Option<Value>)>),
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    /// Arguments.
    Json,
    /// Stays as it is or goes.
    Signed,
}

/// Which text: pieces of one have the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Name {
    /// Comes in pieces, or at least may.
    Block(String),
    /// All of it is here; the number is its place among these.
    Here(usize),
}

struct Text {
    name: Name,
    form: Form,
    said: String,
    /// Said before in the same stream.
    again: bool,
}

type See<'s> = &'s mut dyn FnMut(Name, Form, bool, &mut String);

impl Answer {
    pub fn whole(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Self::Whole)
    }

    /// None where something in it cannot be read.
    pub fn streamed(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.replace("\r\n", "\n");
        let events = text.split_inclusive("\n\n").map(|event| {
            let data: Vec<&str> =
                event.lines().filter_map(|l| l.strip_prefix("data:")).map(str::trim_start).collect();
            let data = data.join("\n");
            let value = if data.is_empty() || data == "[DONE]" {
                None
            } else {
                Some(serde_json::from_str(&data).ok()?)
            };
            Some((event.to_owned(), value))
        });
        events.collect::<Option<_>>().map(Self::Streamed)
    }

    /// Texts in their order, and how many bytes were said.
    pub fn texts(&mut self) -> (Vec<String>, usize) {
        let all = self.gather();
        let bytes = all.iter().filter(|t| !t.again).map(|t| t.said.len()).sum();
        (all.iter().flat_map(Text::parts).collect(), bytes)
    }

    /// Puts texts back where [`Self::texts`] found them: what has changed of a block into its first piece that says anything.
    pub fn put(&mut self, texts: Vec<String>) {
        let mut next = texts.into_iter();
        let mut changed: HashMap<Name, Option<String>> = HashMap::new();
        let mut dropped = HashSet::new();
        for old in self.gather() {
            let count = old.parts().len();
            let new = old.with(next.by_ref().take(count));
            if new != old.said {
                if let (Form::Signed, Name::Block(name)) = (old.form, &old.name) {
                    dropped.insert(name.clone());
                } else {
                    changed.insert(old.name, Some(new));
                }
            }
        }
        self.walk(&mut |name, _, _, text| {
            if let Some(new) = changed.get_mut(&name)
                && !text.is_empty()
            {
                *text = new.take().unwrap_or_default();
            }
        });
        if !dropped.is_empty() {
            self.leave_out(&dropped);
        }
        // The words once more, one by one.
        match self {
            Self::Whole(value) => without_probabilities(value),
            Self::Streamed(events) => {
                events.iter_mut().filter_map(|(_, v)| v.as_mut()).for_each(without_probabilities);
            }
        }
    }

    fn gather(&mut self) -> Vec<Text> {
        let mut all: Vec<Text> = Vec::new();
        let mut places: HashMap<Name, usize> = HashMap::new();
        self.walk(&mut |name, form, again, text| match places.get(&name) {
            Some(at) => all[*at].said.push_str(text),
            None => {
                places.insert(name.clone(), all.len());
                all.push(Text { name, form, said: text.clone(), again });
            }
        });
        all
    }

    fn walk(&mut self, see: See<'_>) {
        let mut here = 0;
        match self {
            Self::Whole(value) => whole(value, false, &mut here, see),
            Self::Streamed(events) => {
                for value in events.iter_mut().filter_map(|(_, v)| v.as_mut()) {
                    event(value, &mut here, see);
                }
            }
        }
    }

    /// Thoughts go with everything around them; what follows moves up.
    fn leave_out(&mut self, dropped: &HashSet<String>) {
        let gone = |index: &Value| dropped.contains(&format!("thought {index}"));
        match self {
            Self::Whole(value) => {
                if let Some(Value::Array(blocks)) = value.get_mut("content") {
                    let mut n = 0;
                    blocks.retain(|_| {
                        n += 1;
                        !gone(&json!(n - 1))
                    });
                }
                choices(value, "message", dropped);
            }
            Self::Streamed(events) => {
                events.retain(|(_, v)| v.as_ref().and_then(|v| v.get("index")).is_none_or(|i| !gone(i)));
                for value in events.iter_mut().filter_map(|(_, v)| v.as_mut()) {
                    if let Some(index) = value.get("index").and_then(Value::as_u64) {
                        let before = (0..index).filter(|i| gone(&json!(i))).count() as u64;
                        value["index"] = json!(index - before);
                    }
                    choices(value, "delta", dropped);
                }
            }
        }
    }

    pub fn bytes(&self) -> String {
        match self {
            Self::Whole(value) => value.to_string(),
            Self::Streamed(events) => events
                .iter()
                .map(|(event, value)| match value {
                    None => event.clone(),
                    Some(value) => {
                        let others = event.lines().filter(|l| !l.is_empty() && !l.starts_with("data:"));
                        let data = format!("data: {value}");
                        let lines: Vec<&str> = others.chain([data.as_str(), "", ""]).collect();
                        lines.join("\n")
                    }
                })
                .collect(),
        }
    }
}

impl Text {
    /// What is judged: of arguments every text in them, as it is and not as it is written.
    fn parts(&self) -> Vec<String> {
        match self.arguments() {
            Some(value) => strings(&value),
            None => vec![self.said.clone()],
        }
    }

    fn arguments(&self) -> Option<Value> {
        let read = || serde_json::from_str::<Value>(&self.said).ok();
        (self.form == Form::Json).then(read).flatten()
    }

    fn with(&self, parts: impl Iterator<Item = String>) -> String {
        let mut parts = parts;
        match self.arguments() {
            Some(mut value) => {
                let old = strings(&value);
                let new: Vec<String> = parts.collect();
                if old == new {
                    return self.said.clone();
                }
                with_strings(&mut value, &mut new.into_iter());
                value.to_string()
            }
            None => parts.next().unwrap_or_default(),
        }
    }
}

/// Removes thoughts of choices that go.
fn choices(value: &mut Value, within: &str, dropped: &HashSet<String>) {
    for choice in list(value, "choices") {
        let name = format!("details {}", index(choice, "index"));
        if dropped.contains(&name)
            && let Some(Value::Object(said)) = choice.get_mut(within)
        {
            said.remove("reasoning_details");
        }
    }
}

fn without_probabilities(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "logprobs" {
                    *value = if value.is_array() { json!([]) } else { Value::Null };
                } else {
                    without_probabilities(value);
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(without_probabilities),
        _ => {}
    }
}

fn list<'v>(value: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Value> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn index(value: &Value, key: &str) -> String {
    value.get(key).map(ToString::to_string).unwrap_or_default()
}

/// A text that is all here.
fn here(text: &mut String, form: Form, again: bool, n: &mut usize, see: See<'_>) {
    *n += 1;
    see(Name::Here(*n), form, again, text);
}

/// Every text of what is all here, but for its names and what nobody reads.
fn every(value: &mut Value, again: bool, n: &mut usize, see: See<'_>) {
    const NAMES: [&str; 15] = [
        "type",
        "id",
        "item_id",
        "call_id",
        "tool_use_id",
        "tool_call_id",
        "status",
        "role",
        "name",
        "model",
        "signature",
        "data",
        "encrypted_content",
        "encrypted_index",
        "server_label",
    ];
    match value {
        Value::String(text) => here(text, Form::Text, again, n, see),
        Value::Array(all) => all.iter_mut().for_each(|v| every(v, again, n, see)),
        Value::Object(map) => {
            if map.get("type").is_some_and(|t| t == "image_generation_call" || t == "redacted_thinking") {
                return;
            }
            for (key, value) in map.iter_mut().filter(|(k, _)| !NAMES.contains(&k.as_str())) {
                match value {
                    Value::String(text) if key == "arguments" => here(text, Form::Json, again, n, see),
                    value => every(value, again, n, see),
                }
            }
        }
        _ => {}
    }
}

/// An answer that came at once: of Messages, chat completions, completions and responses.
fn whole(value: &mut Value, again: bool, n: &mut usize, see: See<'_>) {
    for (at, block) in list(value, "content").enumerate() {
        content(block, &at.to_string(), n, see);
    }
    for choice in list(value, "choices") {
        let at = index(choice, "index");
        if let Some(Value::String(text)) = choice.get_mut("text") {
            here(text, Form::Text, again, n, see);
        }
        if let Some(said) = choice.get_mut("message") {
            spoken(said, &at, n, see);
        }
    }
    for item in list(value, "output") {
        every(item, again, n, see);
    }
}

/// A block of Messages.
fn content(block: &mut Value, at: &str, n: &mut usize, see: See<'_>) {
    let (key, name, form) = match block.get("type").and_then(Value::as_str) {
        Some("thinking") => ("thinking", "thought", Form::Signed),
        Some("text") => ("text", "text", Form::Text),
        _ => return every(block, false, n, see),
    };
    if let Some(Value::String(text)) = block.get_mut(key) {
        see(Name::Block(format!("{name} {at}")), form, false, text);
    }
    block.get_mut("citations").into_iter().for_each(|c| every(c, false, n, see));
}

/// What a choice of a chat says: a message, or a piece of one.
fn spoken(said: &mut Value, at: &str, n: &mut usize, see: See<'_>) {
    let Value::Object(said) = said else { return };
    for (key, value) in said.iter_mut() {
        match (key.as_str(), value) {
            ("role" | "name", _) => {}
            ("tool_calls", calls) => {
                for (place, call) in calls.as_array_mut().into_iter().flatten().enumerate() {
                    let which = match call.get("index") {
                        Some(index) => index.to_string(),
                        None => place.to_string(),
                    };
                    let name = |what: &str| Name::Block(format!("call {at} {which} {what}"));
                    if let Some(Value::String(text)) =
                        call.get_mut("function").and_then(|f| f.get_mut("arguments"))
                    {
                        see(name("arguments"), Form::Json, false, text);
                    }
                    if let Some(Value::String(text)) = call.get_mut("custom").and_then(|f| f.get_mut("input"))
                    {
                        see(name("input"), Form::Text, false, text);
                    }
                }
            }
            ("function_call", call) => {
                if let Some(Value::String(text)) = call.get_mut("arguments") {
                    see(Name::Block(format!("function {at}")), Form::Json, false, text);
                }
            }
            ("reasoning_details", details) => {
                for detail in details.as_array_mut().into_iter().flatten() {
                    for key in ["text", "summary"] {
                        if let Some(Value::String(text)) = detail.get_mut(key) {
                            see(Name::Block(format!("details {at}")), Form::Signed, false, text);
                        }
                    }
                }
            }
            // Words, refusals, and thoughts by all the names they have: `reasoning`, `reasoning_content`, `thinking`.
            (key, Value::String(text)) => see(Name::Block(format!("{key} {at}")), Form::Text, false, text),
            (_, value) => every(value, false, n, see),
        }
    }
}

/// What an event of a stream says.
fn event(value: &mut Value, n: &mut usize, see: See<'_>) {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    match kind.as_str() {
        "content_block_delta" => delta(value, n, see),
        "content_block_start" => {
            let at = index(value, "index");
            if let Some(block) = value.get_mut("content_block") {
                content(block, &at, n, see);
            }
        }
        "message_start" => value.get_mut("message").into_iter().for_each(|m| whole(m, false, n, see)),
        "response.audio.delta" | "response.output_audio.delta" => {}
        _ if kind.starts_with("response.") && kind.rsplit('.').next() == Some("delta") => {
            let place = ["output_index", "content_index", "summary_index"].map(|key| index(value, key));
            let form = if kind.contains("arguments") { Form::Json } else { Form::Text };
            if let Some(Value::String(text)) = value.get_mut("delta") {
                see(Name::Block(format!("{kind} {}", place.join(" "))), form, false, text);
            }
        }
        _ if kind.starts_with("response.") => {
            for key in ["text", "refusal", "input", "code", "transcript", "part", "item", "annotation"] {
                value.get_mut(key).into_iter().for_each(|v| every(v, true, n, see));
            }
            if let Some(Value::String(text)) = value.get_mut("arguments") {
                here(text, Form::Json, true, n, see);
            }
            value.get_mut("response").into_iter().for_each(|r| whole(r, true, n, see));
        }
        _ => {
            for choice in list(value, "choices") {
                let at = index(choice, "index");
                if let Some(Value::String(text)) = choice.get_mut("text") {
                    see(Name::Block(format!("text {at}")), Form::Text, false, text);
                }
                if let Some(said) = choice.get_mut("delta") {
                    spoken(said, &at, n, see);
                }
            }
        }
    }
}

/// A piece of a block of Messages.
fn delta(value: &mut Value, n: &mut usize, see: See<'_>) {
    let at = index(value, "index");
    let Some(Value::Object(delta)) = value.get_mut("delta") else { return };
    for (key, value) in delta.iter_mut() {
        match (key.as_str(), value) {
            ("type" | "signature", _) => {}
            ("thinking", Value::String(text)) => {
                see(Name::Block(format!("thought {at}")), Form::Signed, false, text);
            }
            ("partial_json", Value::String(text)) => {
                see(Name::Block(format!("input {at}")), Form::Json, false, text);
            }
            (key, Value::String(text)) => see(Name::Block(format!("{key} {at}")), Form::Text, false, text),
            (_, value) => every(value, false, n, see),
        }
    }
}
