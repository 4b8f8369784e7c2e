//! What answers a session's messages, as options of the command line.

use std::path::PathBuf;

use anyhow::Context as _;
use wharf_wire::api::{self, AgentKind};

use super::super::common;
use crate::exit::Refusal;
use crate::prompt;

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
    /// What answers its messages: shell, command, python, node, acp, computer-use (a model with tools for shell, files and
    /// desktop), or an agent of the space (`NAME`, `NAME@VERSION`)
    #[arg(long, value_name = "AGENT", add = crate::complete::agents())]
    agent: Option<String>,
    /// What it runs: a program and its arguments, `module:function` or `file#export`
    #[arg(last = true, value_name = "PROGRAM")]
    argv: Vec<String>,
    /// Where the agent works and where its function is looked for; its home when absent
    #[arg(long, value_name = "DIR")]
    agent_cwd: Option<String>,
    /// More agents, for messages sent with --to: a JSON list as in the API (a file; `-` is stdin)
    #[arg(long, value_name = "FILE")]
    agents: Option<PathBuf>,
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
    /// `computer-use`: tokens to think with before an answer; 0 turns thinking off. For protocol anthropic; others take
    /// --effort
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
        let kind = match self.agent.as_deref() {
            None if self.model.is_some() && self.argv.is_empty() => AgentKind::ComputerUse,
            None if !self.argv.is_empty() => AgentKind::Command,
            Some("shell") => AgentKind::Shell,
            Some("command") => AgentKind::Command,
            Some("python") => AgentKind::Python,
            Some("node") => AgentKind::Node,
            Some("acp") => AgentKind::Acp,
            Some("computer-use") => AgentKind::ComputerUse,
            None => {
                self.without_model()?;
                let shell = || api::Agent { cwd: self.agent_cwd.clone(), ..api::Agent::default() };
                return Ok(self.agent_cwd.is_some().then(shell));
            }
            Some(other) => {
                self.without_model()?;
                return self.packaged(other).map(Some);
            }
        };
        if kind != AgentKind::ComputerUse {
            self.without_model()?;
        }
        let agent = api::Agent { kind, cwd: self.agent_cwd.clone(), ..api::Agent::default() };
        let word = kind.as_str();
        let refuse = |what: String, advice: String| Err(Refusal::usage(what, advice).into());
        match (kind, self.argv.as_slice()) {
            (AgentKind::Shell, []) => Ok(Some(agent)),
            (AgentKind::ComputerUse, []) => Ok(Some(api::Agent { cwd: agent.cwd, ..self.computer_use()? })),
            (AgentKind::Shell | AgentKind::ComputerUse, _) => refuse(
                format!("an agent of kind {word} takes no program"),
                "leave it out, or say --agent command".into(),
            ),
            (AgentKind::Command | AgentKind::Acp, []) => refuse(
                format!("an agent of kind {word} needs a program"),
                format!("give it behind `--`: --agent {word} -- PROGRAM ARGS"),
            ),
            (AgentKind::Command | AgentKind::Acp, argv) => {
                Ok(Some(api::Agent { argv: argv.to_vec(), ..agent }))
            }
            (AgentKind::Python | AgentKind::Node, [entry]) => {
                Ok(Some(api::Agent { entry: Some(entry.clone()), ..agent }))
            }
            (AgentKind::Python, _) => refuse(
                "an agent of kind python is one function".into(),
                "give it behind `--`: --agent python -- agent:answer".into(),
            ),
            (AgentKind::Node, _) => refuse(
                "an agent of kind node is one function".into(),
                "give it behind `--`: --agent node -- agent.mjs#answer".into(),
            ),
        }
    }

    /// Those beside the default one.
    pub fn agents(&self) -> anyhow::Result<Vec<api::Agent>> {
        let Some(file) = &self.agents else { return Ok(Vec::new()) };
        serde_json::from_str(&prompt::text(file)?).map_err(|e| {
            Refusal::usage(
                format!("--agents is no list of agents: {e}"),
                "write it as '[{\"name\": \"reviewer\", \"kind\": \"python\", \"entry\": \"review:answer\"}]'",
            )
            .into()
        })
    }

    /// An agent of the space: `NAME` or `NAME@VERSION`.
    fn packaged(&self, text: &str) -> anyhow::Result<api::Agent> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let refuse = |what: String| {
            Refusal::usage(
                what,
                "--agent is a kind (shell, command, python, node, acp, computer-use), NAME or NAME@VERSION",
            )
        };
        if !self.argv.is_empty() {
            return Err(refuse(format!("what agent {name} runs is said by its package")).into());
        }
        Ok(api::Agent {
            package: Some(common::name(name).map_err(refuse)?),
            version: version
                .map(|v| v.parse().map_err(|_| refuse(format!("{v:?} is no version"))))
                .transpose()?,
            cwd: self.agent_cwd.clone(),
            ..api::Agent::default()
        })
    }

    fn without_model(&self) -> anyhow::Result<()> {
        match self.model_option() {
            None => Ok(()),
            Some(option) => Err(Refusal::usage(
                format!("{option} is for agents of kind computer-use"),
                "add --agent computer-use and --model, or leave it out",
            )
            .into()),
        }
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
