//! What an agent asks the guardrails at `http://gateway/guard`, and what they answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_domain::{ApprovalId, Time, TurnId};

/// A question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GuardAsk {
    /// How an approval stands; held for a while when nobody has decided.
    Approval { approval: ApprovalId },
    /// Whether a tool may run.
    Tool(ToolAsk),
}

/// A tool that is about to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolAsk {
    pub turn: TurnId,
    /// Which call of the turn it is; the same when it is asked again.
    pub call: String,
    pub agent: String,
    pub tool: String,
    pub input: Value,
    /// Where its commands run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// It runs something, and the input does not say what.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
}

/// What they say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "lowercase")]
pub enum GuardAnswer {
    Allow {
        /// Run with this input instead: something was taken out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Value>,
    },
    Deny {
        reason: String,
    },
    /// Somebody has to say yes: ask again by this id.
    Pending {
        approval: ApprovalId,
        expires_at: Time,
    },
}
