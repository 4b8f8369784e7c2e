//! The conversation as it is kept: neutral of the protocol it is spoken in.
//!
//! What only one protocol understands (signed thinking, encrypted reasoning) is kept as it came and given back to the same
//! protocol alone.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_wire::api::ModelProtocol;

/// A picture kept beside the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// File name in the directory of pictures.
    pub file: String,
    pub media_type: String,
    /// Told where it is known: of screenshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(u32, u32)>,
}

/// A part of a user's message or of what a tool answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    Text { text: String },
    Image { image: ImageRef },
}

impl Part {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

/// A tool the model called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolUse {
    pub id: String,
    pub name: String,
    pub input: Value,
    /// The input was no JSON: what the model wrote. Such a call is answered with an error and never run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// A block of an answer of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    Text {
        text: String,
    },
    ToolUse(ToolUse),
    /// For its own protocol only.
    Thinking {
        thinking: String,
        #[serde(default)]
        signature: String,
    },
    /// The same, unreadable: sent back as it came.
    Opaque {
        protocol: ModelProtocol,
        item: Value,
    },
}

/// What a tool answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    pub id: String,
    pub content: Vec<Part>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
}

impl ToolResult {
    pub fn error(id: &str, text: impl Into<String>) -> Self {
        Self { id: id.to_owned(), content: vec![Part::text(text)], is_error: true }
    }
}

/// One message for the model. Users and assistants alternate, and every tool call of an assistant is answered in the message
/// behind it.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    User { results: Vec<(ToolUse, ToolResult)>, content: Vec<Part> },
    Assistant(Vec<Block>),
}

/// Tokens of one call of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Read, without those from a cache.
    pub input: u64,
    pub output: u64,
    /// Read from a cache.
    #[serde(default)]
    pub cached: u64,
}

impl Tokens {
    pub fn add(&mut self, more: Self) {
        self.input += more.input;
        self.output += more.output;
        self.cached += more.cached;
    }

    /// All that the model had before it when it had answered.
    pub fn context(self) -> u64 {
        self.input + self.cached + self.output
    }
}
