//! The tools the agent has, told to the model and run for it.
//!
//! What a tool answers is bounded: long output goes to a file, and a page of it is shown with how to read on. A failure is an
//! answer like any other; what ends a turn is never a tool.

pub mod bash;
pub mod computer;
pub mod edit;
pub mod files;
pub mod grid;
pub mod mcp;
pub mod page;
pub mod processes;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use wharf_wire::api::AgentTool;
use wharf_wire::host::computer_use::{ComputerUse, TOOL_TIMEOUT_SECONDS};

use crate::block::{Part, ToolUse};
use crate::cancel::Cancel;
use crate::http::Gateway;
use crate::images::Images;
use crate::model::ToolDef;
use crate::model::traits::{self, Pictures};
use crate::screen::Screen;

/// What a tool answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub content: Vec<Part>,
    pub is_error: bool,
    /// A file to be handed to the user with the reply.
    pub share: Option<String>,
}

impl Outcome {
    pub fn text(text: impl Into<String>) -> Self {
        Self { content: vec![Part::text(text)], ..Self::default() }
    }

    pub fn error(text: impl Into<String>) -> Self {
        Self { is_error: true, ..Self::text(text) }
    }
}

impl From<Result<Outcome, String>> for Outcome {
    fn from(result: Result<Outcome, String>) -> Self {
        result.unwrap_or_else(Outcome::error)
    }
}

/// What was running when the user had enough.
pub const CANCELLED: &str = "Not finished: the user ended the turn.";

/// Where tools find what they need.
#[derive(Clone)]
pub struct Place {
    pub home: PathBuf,
    /// For output that is too long to be shown.
    pub output: PathBuf,
    pub images: Arc<Images>,
    pub gateway: Gateway,
    pub screen: Arc<dyn Screen>,
}

pub struct Tools {
    place: Place,
    bash: Option<bash::Shell>,
    edit: bool,
    files: bool,
    computer: Option<computer::Computer>,
    mcp: mcp::Servers,
}

impl Tools {
    /// Makes ready what the configuration asks for. `Err`: a tool that was asked for by name cannot be had.
    pub async fn start(place: Place, config: &ComputerUse) -> Result<Self, String> {
        let wants = |tool| config.tools.as_ref().is_none_or(|t| t.contains(&tool));
        let limit =
            Duration::from_secs(u64::from(config.tool_timeout_seconds.unwrap_or(TOOL_TIMEOUT_SECONDS)));
        let computer = if wants(AgentTool::Computer) {
            let pictures: Pictures = traits::claude(&config.model).map_or(traits::STANDARD, |c| c.pictures);
            match computer::Computer::start(&place, pictures).await {
                Ok(computer) => Some(computer),
                Err(why) if config.tools.is_some() => {
                    return Err(format!("the tool `computer` was asked for, but {why}"));
                }
                Err(_) => None,
            }
        } else {
            None
        };
        let mcp = mcp::Servers::start(&place, &config.mcp_servers).await?;
        Ok(Self {
            bash: wants(AgentTool::Bash).then(|| bash::Shell::new(&place, limit)),
            edit: wants(AgentTool::Edit),
            files: wants(AgentTool::Files),
            computer,
            mcp,
            place,
        })
    }

    pub fn has_computer(&self) -> bool {
        self.computer.is_some()
    }

    /// Where the shell stands, when it runs.
    pub fn directory(&self) -> Option<String> {
        self.bash.as_ref()?.directory()
    }

    /// Takes in what has changed since the last turn.
    pub async fn refresh(&mut self) {
        self.mcp.refresh().await;
    }

    /// Takes in what servers of tools said of theirs since they were listed.
    pub async fn hear(&mut self) {
        self.mcp.hear().await;
    }

    /// As the model is told of them; the order is always the same, for the sake of caches.
    pub fn definitions(&self) -> Vec<ToolDef> {
        let mut all = Vec::new();
        if self.bash.is_some() {
            all.push(bash::definition());
        }
        if self.edit {
            all.push(edit::definition());
        }
        if let Some(computer) = &self.computer {
            all.push(computer.definition());
        }
        if self.files {
            all.push(files::definition());
        }
        all.extend(self.mcp.definitions());
        all
    }

    /// Runs one call. Ends soon after a cancel, with what was running ended too. `more`: calls of the same tool follow in the
    /// same answer.
    pub async fn run(&mut self, used: &ToolUse, more: bool, cancel: &Cancel) -> Outcome {
        let input = &used.input;
        match used.name.as_str() {
            bash::NAME => match &mut self.bash {
                Some(shell) => shell.run(input, cancel).await,
                None => unknown(used),
            },
            edit::NAME if self.edit => edit::run(&self.place, input).into(),
            files::NAME if self.files => files::run(&self.place, input).into(),
            computer::NAME => match &mut self.computer {
                Some(computer) => ended_by(cancel, computer.run(input, more)).await,
                None => unknown(used),
            },
            _ if self.mcp.knows(&used.name) => {
                ended_by(cancel, self.mcp.call(&self.place, &used.name, input)).await
            }
            _ => unknown(used),
        }
    }
}

fn unknown(used: &ToolUse) -> Outcome {
    Outcome::error(format!("There is no tool {:?} here.", used.name))
}

async fn ended_by(cancel: &Cancel, work: impl Future<Output = Result<Outcome, String>>) -> Outcome {
    tokio::select! {
        biased;
        () = cancel.wait() => Outcome::error(CANCELLED),
        done = work => done.into(),
    }
}

/// A text of the input.
pub fn text<'a>(input: &'a Value, name: &str) -> Option<&'a str> {
    input.get(name).and_then(Value::as_str)
}

pub fn needed<'a>(input: &'a Value, name: &str) -> Result<&'a str, String> {
    match input.get(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(format!("`{name}` is required")),
        Some(other) => Err(format!("`{name}` must be a string, not {other}")),
    }
}

/// A whole number of the input. Models write some as text or with a fraction of zero.
pub fn whole(input: &Value, name: &str) -> Result<Option<i64>, String> {
    let number = match input.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.trim().parse::<i64>().ok(),
        Some(value) => value
            .as_i64()
            .or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e15).map(|f| f as i64)),
    };
    number.map(Some).ok_or_else(|| format!("`{name}` must be a whole number, not {}", input[name]))
}
