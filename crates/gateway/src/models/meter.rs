//! Reads a copy of what a provider answers and keeps what it says was used.
//!
//! An answer that ends early is counted by its bytes where the provider did not get to say it: hanging up shortly before
//! the end is no way to save money.

use serde::Deserialize;
use serde::de::IgnoredAny;
use wharf_domain::model::Tokens;

use super::call::Kind;
use super::sse;

/// A whole answer that is larger is counted by its bytes.
const WHOLE: usize = 32 * 1024 * 1024;

enum Form {
    Stream,
    Whole(Vec<u8>),
    /// Compressed, or of a type nobody expected.
    Unreadable,
}

pub(super) struct Meter {
    kind: Kind,
    form: Form,
    tokens: Tokens,
    /// Bytes of words, thoughts and arguments.
    said: u64,
    /// The provider said what was used, and it is final.
    told: bool,
    /// The stream has said its last word.
    complete: bool,
}

/// What was used, and whether the provider said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub tokens: Tokens,
    pub estimated: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "type")]
    kind: Option<String>,
    usage: Option<Usage>,
    /// Of Anthropic's first event.
    message: Option<Inner>,
    /// Of OpenAI's events about a whole response.
    response: Option<Inner>,
    delta: Option<Delta>,
    choices: Vec<Choice>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Inner {
    usage: Option<Usage>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Delta {
    Text(String),
    Parts(Parts),
    #[allow(dead_code)] // what is none of the two is nothing that is said
    Other(IgnoredAny),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Parts {
    text: Option<String>,
    thinking: Option<String>,
    partial_json: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Choice {
    delta: Option<ChoiceDelta>,
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ChoiceDelta {
    content: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToolCall {
    function: Option<Function>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Function {
    arguments: Option<String>,
}

impl Event {
    /// The piece that says the usage of a chat and nothing else.
    fn only_usage(&self) -> bool {
        self.usage.is_some() && self.choices.is_empty()
    }
}

impl Meter {
    /// For an answer of this content type; `readable` when it is not compressed.
    pub fn new(kind: Kind, content_type: Option<&str>, readable: bool) -> Self {
        let kinds = content_type.unwrap_or_default();
        let form = if !readable {
            Form::Unreadable
        } else if kinds.starts_with("text/event-stream") {
            Form::Stream
        } else if kinds.starts_with("application/json") {
            Form::Whole(Vec::new())
        } else {
            Form::Unreadable
        };
        Self { kind, form, tokens: Tokens::default(), said: 0, told: false, complete: false }
    }

    pub fn streams(&self) -> bool {
        matches!(self.form, Form::Stream)
    }

    /// A piece of a whole answer.
    pub fn piece(&mut self, piece: &[u8]) {
        match &mut self.form {
            Form::Whole(all) if all.len() + piece.len() <= WHOLE => all.extend_from_slice(piece),
            Form::Whole(_) => {
                self.said += piece.len() as u64;
                self.form = Form::Unreadable;
            }
            Form::Unreadable => self.said += piece.len() as u64,
            Form::Stream => {}
        }
    }

    /// One event of a stream; answers whether it is the one that only says the usage.
    pub fn event(&mut self, event: &[u8]) -> bool {
        let Some(data) = sse::data(event) else { return false };
        if data == b"[DONE]" {
            self.complete = true;
            return false;
        }
        let Ok(event) = serde_json::from_slice::<Event>(&data) else {
            self.said += data.len() as u64;
            return false;
        };
        let only_usage = event.only_usage();
        self.hear(event);
        only_usage
    }

    fn hear(&mut self, event: Event) {
        match event.delta {
            Some(Delta::Text(text)) => self.said += text.len() as u64,
            Some(Delta::Parts(p)) => {
                for part in [p.text, p.thinking, p.partial_json].into_iter().flatten() {
                    self.said += part.len() as u64;
                }
            }
            Some(Delta::Other(_)) | None => {}
        }
        for choice in &event.choices {
            self.complete |= choice.finish_reason.is_some();
            self.said += choice.text.as_ref().map_or(0, String::len) as u64;
            let Some(delta) = &choice.delta else { continue };
            let calls =
                delta.tool_calls.iter().flatten().filter_map(|c| c.function.as_ref()?.arguments.as_ref());
            for part in delta.content.iter().chain(&delta.reasoning_content).chain(calls) {
                self.said += part.len() as u64;
            }
        }
        let last = ["message_stop", "response.completed", "response.incomplete", "response.failed", "error"];
        if event.kind.as_deref().is_some_and(|kind| last.contains(&kind)) {
            self.complete = true;
        }
        // Anthropic's first event says what was read; what was written is final only in the last.
        if let Some(usage) = event.message.and_then(|m| m.usage) {
            self.take(&usage);
        }
        for usage in event.usage.into_iter().chain(event.response.and_then(|r| r.usage)) {
            self.take(&usage);
            self.told = true;
        }
    }

    /// Counts within one answer only grow.
    fn take(&mut self, u: &Usage) {
        let t = &mut self.tokens;
        let grow = |have: &mut u64, said: Option<u64>| *have = (*have).max(said.unwrap_or(0));
        if self.kind == Kind::Messages {
            grow(&mut t.input, u.input_tokens);
            grow(&mut t.output, u.output_tokens);
            grow(&mut t.cached, u.cache_read_input_tokens);
            grow(&mut t.cache_write, u.cache_creation_input_tokens);
            return;
        }
        // Here what came from the cache is part of the input.
        let details = u.prompt_tokens_details.as_ref().or(u.input_tokens_details.as_ref());
        let cached = details.and_then(|d| d.cached_tokens).unwrap_or(0);
        grow(&mut t.cached, Some(cached));
        grow(&mut t.input, u.prompt_tokens.or(u.input_tokens).map(|n| n.saturating_sub(cached)));
        grow(&mut t.output, u.completion_tokens.or(u.output_tokens));
    }

    /// Whether an answer that ends here has said its last word.
    pub fn complete(&self) -> bool {
        let known = matches!(self.kind, Kind::Messages | Kind::Chat | Kind::Completions | Kind::Responses);
        !self.streams() || !known || self.complete
    }

    /// What was used up to here. `guessed` are the input tokens where nobody said them.
    pub fn reading(&mut self, guessed: u64) -> Reading {
        if let Form::Whole(all) = &mut self.form {
            let all = std::mem::take(all);
            match serde_json::from_slice::<Event>(&all) {
                Ok(Event { usage: Some(usage), .. }) => {
                    self.take(&usage);
                    self.told = true;
                }
                _ => self.said += all.len() as u64,
            }
        }
        if self.told {
            return Reading { tokens: self.tokens, estimated: false };
        }
        let mut tokens = self.tokens;
        if tokens.input + tokens.cached + tokens.cache_write == 0 {
            tokens.input = guessed;
        }
        if self.kind != Kind::Embeddings {
            tokens.output = tokens.output.max(self.said.div_ceil(4));
        }
        Reading { tokens, estimated: true }
    }
}
