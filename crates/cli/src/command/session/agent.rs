//! What answers a session's messages, as options of the command line.

use std::path::PathBuf;

use anyhow::Context as _;
use wharf_wire::api::{self, AgentKind};

use crate::exit::Refusal;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Each message is a shell script; the reply is its output
    Shell,
    /// A program that speaks JSON lines; give it behind `--`
    Command,
    /// A model with tools for shell, files and desktop
    ComputerUse,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Protocol {
    Anthropic,
    OpenaiChat,
    OpenaiResponses,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Effort {
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Tool {
    Bash,
    Edit,
    Computer,
    Files,
}

/// The agent of a new session.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Agent")]
pub struct AgentArgs {
    /// What answers its messages
    #[arg(long, value_name = "KIND", value_enum)]
    agent: Option<Kind>,
    /// Program and arguments of a `command` agent
    #[arg(last = true, value_name = "PROGRAM")]
    argv: Vec<String>,
    /// `computer-use`: a provider of the space [default: anthropic]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// `computer-use`: the model, as its provider names it
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// `computer-use`: how the provider is spoken to; told by its name when absent
    #[arg(long, value_name = "PROTOCOL", value_enum)]
    protocol: Option<Protocol>,
    /// `computer-use`: model calls of one turn
    #[arg(long, value_name = "N")]
    max_rounds: Option<u32>,
    /// `computer-use`: tokens of one answer
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// `computer-use`: tokens of one turn
    #[arg(long, value_name = "N")]
    token_budget: Option<u64>,
    /// `computer-use`: tokens the model reads at once
    #[arg(long, value_name = "N")]
    context_tokens: Option<u32>,
    /// `computer-use`: tokens to think with before an answer; 0 turns thinking off
    #[arg(long, value_name = "N")]
    thinking: Option<u32>,
    /// `computer-use`: how hard to think
    #[arg(long, value_name = "EFFORT", value_enum)]
    effort: Option<Effort>,
    /// `computer-use`: its tools, comma-separated; all when absent
    #[arg(long, value_name = "TOOLS", value_enum, value_delimiter = ',')]
    tools: Option<Vec<Tool>>,
    /// `computer-use`: servers of more tools (MCP): a file with a JSON list of `{name, command | url}`
    #[arg(long, value_name = "FILE")]
    mcp_servers: Option<PathBuf>,
}

impl AgentArgs {
    /// None: the server's default.
    pub fn agent(&self) -> anyhow::Result<Option<api::Agent>> {
        let kind = match (self.agent, self.argv.is_empty()) {
            (Some(Kind::ComputerUse), true) => return self.computer_use().map(Some),
            (None, true) if self.model.is_some() => return self.computer_use().map(Some),
            (None | Some(Kind::Command), false) => Some(AgentKind::Command),
            (Some(Kind::Command), true) => {
                return Err(Refusal::usage(
                    "an agent of kind command needs a program",
                    "give it behind `--`: --agent command -- PROGRAM ARGS",
                )
                .into());
            }
            (Some(Kind::Shell | Kind::ComputerUse), false) => {
                let kind = if self.agent == Some(Kind::Shell) { "shell" } else { "computer-use" };
                return Err(Refusal::usage(
                    format!("an agent of kind {kind} takes no program"),
                    "leave it out, or say --agent command",
                )
                .into());
            }
            (Some(Kind::Shell), true) => Some(AgentKind::Shell),
            (None, true) => None,
        };
        if let Some(option) = self.model_option() {
            return Err(Refusal::usage(
                format!("{option} is for agents of kind computer-use"),
                "add --agent computer-use and --model, or leave it out",
            )
            .into());
        }
        Ok(kind.map(|kind| api::Agent { kind, argv: self.argv.clone(), ..api::Agent::default() }))
    }

    /// An option that only concerns a model.
    fn model_option(&self) -> Option<&'static str> {
        [
            ("--provider", self.provider.is_some()),
            ("--model", self.model.is_some()),
            ("--protocol", self.protocol.is_some()),
            ("--max-rounds", self.max_rounds.is_some()),
            ("--max-tokens", self.max_tokens.is_some()),
            ("--token-budget", self.token_budget.is_some()),
            ("--context-tokens", self.context_tokens.is_some()),
            ("--thinking", self.thinking.is_some()),
            ("--effort", self.effort.is_some()),
            ("--tools", self.tools.is_some()),
            ("--mcp-servers", self.mcp_servers.is_some()),
        ]
        .iter()
        .find_map(|(option, is)| is.then_some(*option))
    }

    fn computer_use(&self) -> anyhow::Result<api::Agent> {
        if self.model.is_none() {
            return Err(Refusal::usage(
                "an agent of kind computer-use needs a model",
                "add --model with the name its provider knows it by",
            )
            .into());
        }
        let mcp_servers = match &self.mcp_servers {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                serde_json::from_str(&text)
                    .with_context(|| format!("{} holds no list of MCP servers", path.display()))?
            }
            None => Vec::new(),
        };
        Ok(api::Agent {
            kind: AgentKind::ComputerUse,
            provider: self.provider.clone(),
            model: self.model.clone(),
            protocol: self.protocol.map(|p| match p {
                Protocol::Anthropic => api::ModelProtocol::Anthropic,
                Protocol::OpenaiChat => api::ModelProtocol::OpenaiChat,
                Protocol::OpenaiResponses => api::ModelProtocol::OpenaiResponses,
            }),
            max_rounds: self.max_rounds,
            max_tokens: self.max_tokens,
            token_budget: self.token_budget,
            context_tokens: self.context_tokens,
            thinking_tokens: self.thinking,
            effort: self.effort.map(|e| match e {
                Effort::Low => api::Effort::Low,
                Effort::Medium => api::Effort::Medium,
                Effort::High => api::Effort::High,
                Effort::Xhigh => api::Effort::Xhigh,
                Effort::Max => api::Effort::Max,
            }),
            tools: self.tools.as_ref().map(|tools| {
                tools
                    .iter()
                    .map(|t| match t {
                        Tool::Bash => api::AgentTool::Bash,
                        Tool::Edit => api::AgentTool::Edit,
                        Tool::Computer => api::AgentTool::Computer,
                        Tool::Files => api::AgentTool::Files,
                    })
                    .collect()
            }),
            mcp_servers,
            ..api::Agent::default()
        })
    }
}
