//! What the built-in agent `computer-use` is told: which model, which tools, how far it may go; and how agents are called.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wharf_domain::Name;

use super::{Agent, AgentKind};

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ModelProtocol {
    /// Anthropic Messages: `POST /v1/messages`.
    Anthropic,
    /// OpenAI Chat Completions, and what is compatible with it: `POST /v1/chat/completions`.
    OpenaiChat,
    /// OpenAI Responses: `POST /v1/responses`.
    OpenaiResponses,
}

/// Tools of the built-in agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AgentTool {
    /// A shell that keeps its state between calls.
    Bash,
    /// Views and edits text files: `str_replace_based_edit_tool`.
    Edit,
    /// Screenshot, pointer and keyboard of the session's desktop.
    Computer,
    /// Lists, reads and finds files, shows pictures to the model, hands files to the user.
    Files,
}

/// How hard a model shall think, where it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// Quick and cheap.
    Low,
    /// In between.
    Medium,
    /// Thorough.
    High,
    /// More than that, where the model knows it.
    Xhigh,
    /// All the model has.
    Max,
}

impl Effort {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Xhigh => "xhigh",
            Self::Max => "max",
        }
    }
}

/// A server of tools that speaks the Model Context Protocol: exactly one of `command` and `url`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct McpServer {
    /// What its tools are prefixed with: lower-case letters, digits, `-` and `_`.
    #[schema(min_length = 1, max_length = 32)]
    pub name: String,
    /// Program and arguments to start inside the session; it is spoken to on its standard streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub command: Vec<String>,
    /// Its environment, beyond the session's. Not for secrets: it can be read back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Address of a server that speaks streamable HTTP. Reached through the gateway, which adds the credential of a
    /// connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2048)]
    pub url: Option<String>,
    /// Only these of its tools; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256)]
    pub tools: Option<Vec<String>>,
    /// Seconds one call may take; 120 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3600)]
    pub timeout_seconds: Option<u32>,
}

impl Agent {
    /// How it is addressed.
    pub fn address(&self) -> &str {
        self.name.as_ref().or(self.package.as_ref()).map_or_else(|| self.kind.as_str(), Name::as_str)
    }
}

impl AgentKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Command => "command",
            Self::Python => "python",
            Self::Node => "node",
            Self::Acp => "acp",
            Self::ComputerUse => "computer-use",
        }
    }
}
