//! What the agent `computer-use` is configured with: the part of a session's `agent` that concerns it.
//!
//! Read leniently: the server has refused what is wrong, and a newer server may have stored more than this build knows.

use serde::{Deserialize, Serialize};

use crate::api::{AgentTool, Effort, McpServer, ModelProtocol};

/// Model calls of one turn, where the session does not say.
pub const MAX_ROUNDS: u32 = 200;
/// Tokens of one answer of the model.
pub const MAX_TOKENS: u32 = 16_384;
/// Tokens a model reads at once, where the session does not say: what every current model has.
pub const CONTEXT_TOKENS: u32 = 200_000;
/// Seconds one call of the shell may take.
pub const TOOL_TIMEOUT_SECONDS: u32 = 600;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputerUse {
    /// A provider of the space: `http://gateway/{provider}`.
    #[serde(default = "anthropic")]
    pub provider: String,
    /// Told by the provider's name when absent: `openai` speaks Responses, all others Anthropic Messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ModelProtocol>,
    #[serde(default)]
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rounds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Tokens of one turn: what was read uncached, and what was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_budget: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_timeout_seconds: Option<u32>,
    /// All of them, `computer` where there is a desktop, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<AgentTool>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mcp_servers: Vec<McpServer>,
}

fn anthropic() -> String {
    "anthropic".to_owned()
}

impl ComputerUse {
    /// The rest as the defaults are.
    pub fn new(provider: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            provider: provider.into(),
            protocol: None,
            model: model.into(),
            max_rounds: None,
            max_tokens: None,
            token_budget: None,
            context_tokens: None,
            thinking_tokens: None,
            effort: None,
            tool_timeout_seconds: None,
            tools: None,
            mcp_servers: Vec::new(),
        }
    }

    pub fn protocol(&self) -> ModelProtocol {
        self.protocol.unwrap_or(if self.provider == "openai" {
            ModelProtocol::OpenaiResponses
        } else {
            ModelProtocol::Anthropic
        })
    }
}
