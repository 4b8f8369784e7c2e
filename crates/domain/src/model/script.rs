//! What a scripted provider says: turns of a model, written down.
//!
//! The place in the script follows from the conversation itself (how often the model has spoken in it), so nothing is
//! kept anywhere and a crash changes nothing. Refuses to guess: a conversation that is past the script's end, or whose
//! last word is not the expected one, is an error.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Code, Error, limits};

/// Turns of a model, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// What is said, turn by turn.
    #[schema(min_items = 1, max_items = 1000)]
    pub turns: Vec<ScriptTurn>,
    /// Begin again after the last turn instead of answering with an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeat: bool,
}

/// One turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptTurn {
    /// Makes this turn an answer out of the order: it is said whenever what was said to the model last contains this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1)]
    pub when: Option<String>,
    /// What was said to the model last must contain this, or the request fails. Images are the word `[image]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1)]
    pub expect: Option<String>,
    /// What the model says.
    #[schema(max_items = 100)]
    pub say: Vec<ScriptBlock>,
    /// Answer with an error instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail: Option<ScriptFailure>,
    /// How long the model thinks before it answers.
    #[schema(maximum = 600_000)]
    #[serde(skip_serializing_if = "zero")]
    pub delay_ms: u32,
    /// The pause between two pieces of a stream.
    #[schema(maximum = 60_000)]
    #[serde(skip_serializing_if = "zero")]
    pub piece_delay_ms: u32,
    /// Tokens to report; a quarter of the bytes when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<ScriptUsage>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference
fn zero(n: &u32) -> bool {
    *n == 0
}

/// One part of what the model says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScriptBlock {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// Thinking, where the protocol shows it.
    Thinking {
        /// What is thought.
        text: String,
    },
    /// A call of a tool.
    ToolUse {
        /// The tool's name.
        #[schema(min_length = 1)]
        name: String,
        /// Its arguments.
        #[serde(default)]
        input: Map<String, Value>,
    },
}

/// An error of the provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptFailure {
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What it says.
    #[serde(default)]
    pub message: String,
}

/// Tokens a turn reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptUsage {
    /// Input tokens that are not from the cache.
    #[schema(maximum = 1_000_000_000_u64)]
    pub input_tokens: u64,
    /// Output tokens.
    #[schema(maximum = 1_000_000_000_u64)]
    pub output_tokens: u64,
    /// Tokens read from the cache.
    #[schema(maximum = 1_000_000_000_u64)]
    pub cached_tokens: u64,
    /// Tokens written to the cache.
    #[schema(maximum = 1_000_000_000_u64)]
    pub cache_write_tokens: u64,
}

/// Where a conversation stands, as a request shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How often the model has spoken.
    pub spoken: usize,
    /// What was said to it last: words, results of tools, `[image]` for images.
    pub last: String,
}

impl Script {
    pub(super) fn validate(&self) -> crate::Result<()> {
        let refuse = |at: usize, detail: &str| {
            Err(Error::new(Code::InvalidField, detail).field(format!("script.turns.{at}")))
        };
        if self.turns.is_empty() || self.turns.len() > 1000 {
            return Err(Error::new(Code::InvalidField, "a script has 1 to 1000 turns").field("script.turns"));
        }
        let bytes = serde_json::to_string(self).map_or(usize::MAX, |s| s.len());
        if bytes > limits::SCRIPT_BYTES {
            let detail =
                format!("the script has {bytes} bytes; at most {} (SCRIPT_BYTES)", limits::SCRIPT_BYTES);
            return Err(Error::new(Code::InvalidField, detail).field("script"));
        }
        for (at, turn) in self.turns.iter().enumerate() {
            if turn.say.is_empty() == turn.fail.is_none() {
                return refuse(at, "a turn has either something to say or a failure");
            }
            if turn.say.len() > 100 {
                return refuse(at, "a turn says at most 100 blocks");
            }
            if turn.fail.as_ref().is_some_and(|f| !(400..600).contains(&f.status)) {
                return refuse(at, "a failure's status is 400 to 599");
            }
            if turn.delay_ms > 600_000 || turn.piece_delay_ms > 60_000 {
                return refuse(at, "delay_ms is at most 600000 and piece_delay_ms 60000");
            }
            if turn.when.as_deref() == Some("") || turn.expect.as_deref() == Some("") {
                return refuse(at, "`when` and `expect` are not empty");
            }
            let most = 1_000_000_000;
            if turn.usage.is_some_and(|u| {
                [u.input_tokens, u.output_tokens, u.cached_tokens, u.cache_write_tokens]
                    .iter()
                    .any(|n| *n > most)
            }) {
                return refuse(at, "a turn reports at most 1000000000 tokens of a kind");
            }
            let unnamed = |b: &ScriptBlock| matches!(b, ScriptBlock::ToolUse { name, .. } if name.is_empty());
            if turn.say.iter().any(unnamed) {
                return refuse(at, "a tool has a name");
            }
        }
        Ok(())
    }

    /// What is said now, and as which turn of the conversation (from 0).
    pub fn next(&self, at: &Standing) -> Result<&ScriptTurn, String> {
        let called = |t: &&ScriptTurn| t.when.as_ref().is_some_and(|w| at.last.contains(w.as_str()));
        if let Some(turn) = self.turns.iter().find(called) {
            return Ok(turn);
        }
        let ordered: Vec<&ScriptTurn> = self.turns.iter().filter(|t| t.when.is_none()).collect();
        let place = if self.repeat && !ordered.is_empty() { at.spoken % ordered.len() } else { at.spoken };
        let Some(turn) = ordered.get(place) else {
            return Err(format!(
                "the script has {} turns and this conversation is at its turn {}; add turns, or set `repeat`",
                ordered.len(),
                at.spoken + 1
            ));
        };
        if let Some(expected) = turn.expect.as_ref().filter(|e| !at.last.contains(e.as_str())) {
            let heard: String = at.last.chars().take(500).collect();
            return Err(format!(
                "turn {} of the script expects to be told {expected:?}, and was told {heard:?}",
                place + 1
            ));
        }
        Ok(turn)
    }
}
