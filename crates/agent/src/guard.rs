//! Asks the guardrails, outside, before a tool runs; waits where somebody has to say yes.
//!
//! What they say is the agent's to obey and is written into the journal before it is obeyed. Where they cannot be asked nothing runs:
//! it is asked again until they answer or the turn ends.

use std::io;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use wharf_wire::host::guard::{GuardAnswer, GuardAsk, ToolAsk};

use crate::block::ToolUse;
use crate::cancel::Cancel;
use crate::history;
use crate::http::Gateway;
use crate::journal::Entry;
use crate::tools::Tools;
use crate::turn::Run;

const PATH: &str = "/guard";
/// Bytes of an answer: an input with something taken out is as long as the input.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Pauses while they cannot be asked.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MOST: Duration = Duration::from_secs(5);

/// What they say of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It may run, with this input where something was taken out.
    Run(Option<Value>),
    /// It may not, for this reason.
    Refused(String),
    /// The user ended the turn before they had said anything.
    Cancelled,
}

/// Asks until there is an answer. `waits` is told once when somebody has to decide.
pub async fn ask(gateway: &Gateway, ask: ToolAsk, cancel: &Cancel, mut waits: impl FnMut()) -> Verdict {
    let question = GuardAsk::Tool(ask);
    let mut pause = PAUSE;
    loop {
        let answer = tokio::select! {
            biased;
            () = cancel.wait() => return Verdict::Cancelled,
            answer = once(gateway, &question) => answer,
        };
        match answer {
            Ok(Ok(GuardAnswer::Allow { input })) => return Verdict::Run(input),
            Ok(Ok(GuardAnswer::Deny { reason })) => return Verdict::Refused(reason),
            Ok(Ok(GuardAnswer::Pending { approval, .. })) => {
                waits();
                // Allowed, the question is asked again: what was taken out comes with its answer alone.
                match wait(gateway, GuardAsk::Approval { approval }, cancel).await {
                    Verdict::Run(_) => {}
                    other => return other,
                }
            }
            Ok(Err(why)) => return Verdict::Refused(why),
            Err(why) => {
                eprintln!("the guardrails could not be asked: {why}");
                tokio::select! {
                    biased;
                    () = cancel.wait() => return Verdict::Cancelled,
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MOST),
                }
            }
        }
    }
}

/// Until it is decided.
async fn wait(gateway: &Gateway, question: GuardAsk, cancel: &Cancel) -> Verdict {
    let mut pause = PAUSE;
    loop {
        let answer = tokio::select! {
            biased;
            () = cancel.wait() => return Verdict::Cancelled,
            answer = once(gateway, &question) => answer,
        };
        match answer {
            Ok(Ok(GuardAnswer::Allow { input })) => return Verdict::Run(input),
            Ok(Ok(GuardAnswer::Deny { reason })) => return Verdict::Refused(reason),
            // It was held for a while.
            Ok(Ok(GuardAnswer::Pending { .. })) => pause = PAUSE,
            Ok(Err(why)) => return Verdict::Refused(why),
            Err(why) => {
                eprintln!("the approval could not be looked at: {why}");
                tokio::select! {
                    biased;
                    () = cancel.wait() => return Verdict::Cancelled,
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MOST),
                }
            }
        }
    }
}

/// `Err`: it may go better the next time. `Ok(Err)`: the question itself is refused.
async fn once(gateway: &Gateway, question: &GuardAsk) -> Result<Result<GuardAnswer, String>, String> {
    let body = serde_json::to_vec(question).map_err(|e| e.to_string())?;
    let mut answer = gateway.send(Method::POST, PATH, &[], body).await?;
    let bytes = answer.bytes(ANSWER_BYTES).await?;
    if answer.status == 200 {
        return serde_json::from_slice(&bytes)
            .map(Ok)
            .map_err(|e| format!("their answer cannot be read: {e}"));
    }
    let problem: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let detail = problem.get("detail").and_then(Value::as_str);
    let why = detail.map_or_else(|| format!("status {}", answer.status), str::to_owned);
    let retryable = answer.status >= 500 || matches!(answer.status, 408 | 429);
    if retryable { Err(why) } else { Ok(Err(format!("the guardrails refuse the question: {why}"))) }
}

impl Run<'_> {
    /// What the guardrails say of a call: as they said before, or asked now and written down before it is acted on.
    pub(crate) async fn judge(&mut self, used: &ToolUse) -> io::Result<Verdict> {
        let (answer, said) = history::judged(self.entries(), &used.id);
        if let Some(Entry::Judged { refused, input, .. }) = said {
            return Ok(refused.clone().map_or_else(|| Verdict::Run(input.clone()), Verdict::Refused));
        }
        let question = ToolAsk {
            turn: self.turn,
            // Ids of calls are unique within one answer only.
            call: format!("{answer}/{}", used.id),
            agent: self.agent.setting.agent.clone(),
            tool: used.name.clone(),
            input: used.input.clone(),
            cwd: self.agent.tools.as_ref().and_then(Tools::directory),
            unseen: false,
        };
        let (talk, mut waited) = (&self.talk, false);
        let waits = || {
            waited = true;
            talk.event("tool_waits", json!({"id": used.id, "name": used.name}));
        };
        let verdict = ask(&self.agent.place.gateway, question, self.cancel, waits).await;
        let (refused, input) = match &verdict {
            Verdict::Cancelled => return Ok(verdict),
            Verdict::Refused(why) => (Some(why.clone()), None),
            Verdict::Run(input) => (None, input.clone()),
        };
        // A plain yes needs no word: asked again it is said again.
        if refused.is_some() || input.is_some() || waited {
            self.keep(Entry::Judged { id: used.id.clone(), refused, input })?;
        }
        Ok(verdict)
    }
}
