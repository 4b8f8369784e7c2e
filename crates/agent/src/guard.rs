//! Asks the guardrails, outside, before a tool runs; waits where somebody has to say yes.
//!
//! What they say is the agent's to obey and is written into the journal before it is obeyed. Where they cannot be asked nothing runs:
//! it is asked again until they answer or the turn ends.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use wharf_wire::host::guard::{GuardAnswer, GuardAsk, ToolAsk};

use crate::cancel::Cancel;
use crate::http::Gateway;

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
