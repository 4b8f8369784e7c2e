//! Requests for permission: the guardrails say, outside of the session, and somebody's yes is waited for where they want one.
//!
//! Asked and answered beside the conversation, which goes on meanwhile. What has to be taken out of a call is a no: a call of an agent of
//! another maker cannot be changed.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use wharf_agent::cancel::Cancel;
use wharf_agent::guard::{self, Verdict};
use wharf_agent::http::{GATEWAY, Gateway};
use wharf_wire::host::guard::ToolAsk;
use wharf_wire::host::turn::Said;

use super::rpc;
use crate::turn::Turn;
use crate::turn::process::Mouth;

/// Names another gateway's socket, in the host's own environment; for tests.
const GATEWAY_SOCKET: &str = "WHARF_GATEWAY_SOCKET";

/// Ends what still asks when the conversation does.
#[derive(Default)]
pub struct Asking(Cancel);

impl Asking {
    pub fn end(&self) {
        self.0.cancel();
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.end();
    }
}

/// Asks the guardrails and answers the agent.
pub fn serve(turn: &Arc<Turn>, agent: &str, mouth: &Mouth, id: Value, params: Value, asking: &Asking) {
    let (turn, mouth, cancel) = (Arc::clone(turn), mouth.clone(), asking.0.clone());
    let question = question(&turn.head.turn, agent, &params);
    tokio::spawn(async move {
        let verdict = match question {
            Some(question) => {
                let socket =
                    std::env::var_os(GATEWAY_SOCKET).map_or_else(|| PathBuf::from(GATEWAY), PathBuf::from);
                let waits = || {
                    let data = json!({"tool_call": params.get("toolCall")});
                    let _ = turn.say(Said::Event { name: "tool_waits".into(), data });
                };
                guard::ask(&Gateway::new(socket), question, &cancel, waits).await
            }
            None => Verdict::Refused("the turn has no id".into()),
        };
        let (answer, event) = decide(&params, &verdict);
        // A turn that said too much, and an agent that does not read any more, are found out by whoever talks with it.
        let _ = turn.say(event);
        let _ = mouth.tell(&rpc::answer(id, Ok(answer)));
    });
}

/// A call as the guardrails know calls: its kind is the tool, and what is known of it is the input. A call that runs something
/// and does not show what is asked about as such.
pub fn question(turn: &str, agent: &str, params: &Value) -> Option<ToolAsk> {
    let empty = json!({});
    let call = params.get("toolCall").unwrap_or(&empty);
    let text = |key: &str| call.get(key).and_then(Value::as_str);
    let tool = text("kind").unwrap_or("other").to_owned();
    let mut input = json!({"title": text("title"), "input": call.get("rawInput")});
    let paths: Vec<&Value> = call
        .get("locations")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|l| l.get("path"))
        .collect();
    if !paths.is_empty() {
        input["paths"] = json!(paths);
    }
    // Some say it as it is, without a name for it.
    let said = call.get("rawInput").and_then(Value::as_str).filter(|said| !said.is_empty());
    if let Some(command) = said
        && tool == "execute"
    {
        input["command"] = json!(command);
    }
    let shown = said.is_some() || call.get("rawInput").is_some_and(names_command);
    // Its title is what the agent says about it, and no command. Of what kind a call is may be unknown as well.
    let unseen = matches!(text("kind"), None | Some("execute")) && !shown;
    Some(ToolAsk {
        turn: turn.parse().ok()?,
        call: format!("acp/{}", text("toolCallId").unwrap_or_default()),
        agent: agent.to_owned(),
        tool,
        input,
        cwd: None,
        unseen,
    })
}

/// Whether the input of a tool has a command where the guardrails look for one.
fn names_command(input: &Value) -> bool {
    const FIELDS: [&str; 6] = ["command", "cmd", "script", "argv", "commands", "shell_command"];
    FIELDS.iter().any(|field| match input.get(field) {
        Some(Value::String(script)) => !script.trim().is_empty(),
        Some(Value::Array(words)) => !words.is_empty(),
        _ => false,
    })
}

/// The answer, and the event that shows it.
pub fn decide(params: &Value, verdict: &Verdict) -> (Value, Said) {
    let empty = Vec::new();
    let options = params.get("options").and_then(Value::as_array).unwrap_or(&empty);
    let of_kind = |kind: &str| options.iter().find(|o| o.get("kind").and_then(Value::as_str) == Some(kind));
    // Once rather than always: what the agent remembers is not seen here.
    let (chosen, reason) = match verdict {
        Verdict::Run(None) => (of_kind("allow_once").or_else(|| of_kind("allow_always")), None),
        Verdict::Run(Some(_)) => {
            let why = "the guardrails take something out of this call, and it cannot be changed";
            (of_kind("reject_once").or_else(|| of_kind("reject_always")), Some(why.to_owned()))
        }
        Verdict::Refused(why) => {
            (of_kind("reject_once").or_else(|| of_kind("reject_always")), Some(why.clone()))
        }
        Verdict::Cancelled => (None, None),
    };
    let id = chosen.and_then(|o| o.get("optionId")).cloned();
    let outcome = match &id {
        Some(id) => json!({"outcome": "selected", "optionId": id}),
        None => json!({"outcome": "cancelled"}),
    };
    let mut data = json!({
        "tool_call": params.get("toolCall"),
        "allowed": matches!(verdict, Verdict::Run(None)) && id.is_some(),
        "by": "guardrails",
    });
    if let Some(reason) = reason {
        data["reason"] = reason.into();
    }
    (json!({"outcome": outcome}), Said::Event { name: "permission".into(), data })
}
