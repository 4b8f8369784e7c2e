//! What a request may say of the model of a session's agent. Refuses fields that do not concern its kind: a setting without effect
//! is a promise broken.

use std::collections::HashSet;

use wharf_domain::{Code, Error};
use wharf_wire::api::{Agent, AgentKind, McpServer, ModelProtocol};
use wharf_wire::host::computer_use::ComputerUse;

fn refuse(field: &str, detail: impl Into<String>) -> Result<(), Error> {
    Err(Error::new(Code::InvalidField, detail).field(field))
}

/// Refuses what an agent cannot be configured with, and a model's agent that could not answer. The field is without the
/// way to the agent.
pub(super) fn check(agent: &Agent) -> Result<(), Error> {
    if agent.kind == AgentKind::ComputerUse { check_computer_use(agent) } else { check_plain(agent) }
}

/// Agents without a model of ours take nothing that concerns one.
fn check_plain(agent: &Agent) -> Result<(), Error> {
    let given = [
        ("provider", agent.provider.is_some()),
        ("model", agent.model.is_some()),
        ("protocol", agent.protocol.is_some()),
        ("max_rounds", agent.max_rounds.is_some()),
        ("max_tokens", agent.max_tokens.is_some()),
        ("token_budget", agent.token_budget.is_some()),
        ("context_tokens", agent.context_tokens.is_some()),
        ("thinking_tokens", agent.thinking_tokens.is_some()),
        ("effort", agent.effort.is_some()),
        ("tool_timeout_seconds", agent.tool_timeout_seconds.is_some()),
        ("tools", agent.tools.is_some()),
        ("mcp_servers", !agent.mcp_servers.is_empty()),
    ];
    match given.iter().find(|(_, is)| *is) {
        Some((field, _)) => refuse(field, format!("`{field}` is for agents of kind computer-use only")),
        None => Ok(()),
    }
}

fn check_computer_use(agent: &Agent) -> Result<(), Error> {
    match agent.model.as_deref() {
        None | Some("") => {
            return refuse(
                "model",
                "an agent of kind computer-use needs a model, named as its provider names it",
            );
        }
        Some(model) if model.len() > 200 || model.chars().any(char::is_control) => {
            return refuse(
                "model",
                "a model's name has up to 200 characters, none of them a control character",
            );
        }
        Some(_) => {}
    }
    if let Some(provider) = &agent.provider {
        let is_name = (1..=63).contains(&provider.len())
            && provider.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_name {
            return refuse("provider", format!("{provider:?} is not the name of a provider"));
        }
    }
    within("max_rounds", agent.max_rounds, 1, 10_000)?;
    within("max_tokens", agent.max_tokens, 256, 1_000_000)?;
    within("token_budget", agent.token_budget, 1000_u64, 1_000_000_000)?;
    within("context_tokens", agent.context_tokens, 8000, 10_000_000)?;
    within("thinking_tokens", agent.thinking_tokens, 0, 1_000_000)?;
    within("tool_timeout_seconds", agent.tool_timeout_seconds, 1, 86_400)?;
    check_thinking(agent)?;
    let answer = agent.max_tokens.unwrap_or(wharf_wire::host::computer_use::MAX_TOKENS);
    if let Some(thinking) = agent.thinking_tokens
        && thinking >= answer
    {
        return refuse(
            "thinking_tokens",
            format!("thinking is part of an answer: it must be less than max_tokens, which is {answer}"),
        );
    }
    let context = agent.context_tokens.unwrap_or(wharf_wire::host::computer_use::CONTEXT_TOKENS);
    if answer > context / 2 {
        return refuse(
            "max_tokens",
            format!(
                "one answer may take at most half of what the model reads at once, which is {context} tokens"
            ),
        );
    }
    check_servers(&agent.mcp_servers)
}

/// OpenAI's protocols know no number of tokens to think with; they are told how hard.
fn check_thinking(agent: &Agent) -> Result<(), Error> {
    let mut config = ComputerUse::new(agent.provider.as_deref().unwrap_or("anthropic"), "");
    config.protocol = agent.protocol;
    let protocol = match config.protocol() {
        ModelProtocol::Anthropic => return Ok(()),
        ModelProtocol::OpenaiChat => "openai-chat",
        ModelProtocol::OpenaiResponses => "openai-responses",
    };
    match agent.thinking_tokens {
        None => Ok(()),
        Some(_) => refuse(
            "thinking_tokens",
            format!(
                "protocol {protocol} has no number of tokens to think with: leave it out, and say how hard the model \
                 shall think with `effort`"
            ),
        ),
    }
}

fn within<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: Option<T>,
    low: T,
    high: T,
) -> Result<(), Error> {
    match value {
        Some(value) if value < low || value > high => {
            refuse(field, format!("{value} is not within {low} to {high}"))
        }
        _ => Ok(()),
    }
}

fn check_servers(servers: &[McpServer]) -> Result<(), Error> {
    if servers.len() > 16 {
        return refuse("mcp_servers", "at most 16 servers of tools");
    }
    let mut names = HashSet::new();
    for (i, server) in servers.iter().enumerate() {
        let field = |name: &str| format!("mcp_servers[{i}].{name}");
        let is_name = (1..=32).contains(&server.name.len())
            && server
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
        if !is_name {
            return refuse(&field("name"), "a name has 1 to 32 lower-case letters, digits, `-` and `_`");
        }
        if !names.insert(server.name.as_str()) {
            return refuse(&field("name"), format!("there are two servers named {:?}", server.name));
        }
        match (server.command.is_empty(), &server.url) {
            (true, None) => return refuse(&field("command"), "a server has a `command` or a `url`"),
            (false, Some(_)) => {
                return refuse(&field("url"), "a server has either a `command` or a `url`, not both");
            }
            (true, Some(url))
                if !(url.starts_with("http://") || url.starts_with("https://")) || url.len() > 2048 =>
            {
                return refuse(
                    &field("url"),
                    "an address begins with http:// or https:// and has up to 2048 bytes",
                );
            }
            (false, None) if server.command.len() > 256 || server.command[0].is_empty() => {
                return refuse(&field("command"), "a program and up to 255 arguments");
            }
            _ => {}
        }
        within(&field("timeout_seconds"), server.timeout_seconds, 1, 3600)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
