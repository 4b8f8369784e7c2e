//! `http://gateway/guard`: an agent asks, before it runs a tool, what the guardrails say.
//!
//! The rules stay outside; only what they say comes in. A question that needs somebody's yes is answered `pending` with the approval's
//! id, and asked again by that id until it is decided. The same question of the same turn finds the same approval, whoever asks it
//! again; another question is never answered with its yes.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use wharf_domain::guard::{Action, ApprovalState, Phase};
use wharf_domain::{Code, Error, limits};
use wharf_guard::shell::Place;
use wharf_guard::{Ask, strings, with_strings};
use wharf_store::NewApproval;
use wharf_wire::host::guard::{GuardAnswer, GuardAsk, ToolAsk};

use crate::body::{Body, full};
use crate::gateway::Gateway;
use crate::guards::{Question, decided, refusal_of, short};
use crate::problem::Refusal;
use crate::sessions::Session;

/// How long a question may take to arrive, and to be answered when it waits.
const ARRIVES: Duration = Duration::from_secs(30);
const WAITS: Duration = Duration::from_secs(25);
/// Bytes of a tool's input that those are shown who decide.
const SHOWN: usize = 8 * 1024;

pub(crate) async fn serve(
    gateway: &Gateway,
    session: &Arc<Session>,
    request: Request<Incoming>,
) -> Response<Body> {
    match answer(gateway, session, request).await {
        Ok(answer) => {
            let body = serde_json::to_string(&answer).unwrap_or_default();
            let mut response = Response::new(full(body));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(refusal) => refusal.response(),
    }
}

async fn answer(
    gateway: &Gateway,
    session: &Arc<Session>,
    request: Request<Incoming>,
) -> Result<GuardAnswer, Refusal> {
    if request.method() != Method::POST || request.uri().path() != "/guard" {
        return Err(Refusal {
            status: StatusCode::METHOD_NOT_ALLOWED,
            code: Code::MethodNotAllowed,
            ..Refusal::bad_request("questions to the guardrails are sent with POST to /guard")
        });
    }
    let body = whole(request.into_body()).await?;
    let asked: GuardAsk = serde_json::from_slice(&body)
        .map_err(|e| Refusal::bad_request(format!("the question cannot be read: {e}")))?;
    match asked {
        GuardAsk::Tool(ask) => tool(gateway, session, &ask).await,
        GuardAsk::Approval { approval } => {
            let approval = decided(gateway, session.session, approval, Some(WAITS)).await?;
            if let Some(pending) = approval.as_ref().filter(|a| a.state == ApprovalState::Pending) {
                return Ok(GuardAnswer::Pending { approval: pending.id, expires_at: pending.expires_at });
            }
            Ok(match refusal_of(approval.as_ref()) {
                None => GuardAnswer::Allow { input: None },
                Some(reason) => GuardAnswer::Deny { reason },
            })
        }
    }
}

async fn whole(mut body: Incoming) -> Result<BytesMut, Refusal> {
    let read = async {
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Refusal::bad_request(format!("the question broke off: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if all.len() + data.len() > limits::GUARD_BYTES {
                let most = limits::GUARD_BYTES;
                return Err(Refusal {
                    status: StatusCode::PAYLOAD_TOO_LARGE,
                    code: Code::TooLarge,
                    ..Refusal::bad_request(format!("a question has up to {most} bytes (GUARD_BYTES)"))
                });
            }
            all.extend_from_slice(&data);
        }
        Ok(all)
    };
    tokio::time::timeout(ARRIVES, read)
        .await
        .unwrap_or_else(|_| Err(Refusal::timeout("the question did not arrive in time")))
}

async fn tool(gateway: &Gateway, session: &Session, asked: &ToolAsk) -> Result<GuardAnswer, Refusal> {
    let guards = &gateway.guards;
    if !guards.concern(session, Phase::Tool).await? {
        return Ok(GuardAnswer::Allow { input: None });
    }
    let mut summary = summary(&asked.tool, &asked.input);
    if asked.unseen {
        summary.push_str(" (what it runs is not shown)");
    }
    let ask = || {
        let mut ask = Ask::tool(&asked.tool, &asked.input);
        ask.agents = session.agents.iter().map(String::as_str).chain([asked.agent.as_str()]).collect();
        if let Some(cwd) = &asked.cwd {
            ask.place = Place { cwd, ..Place::default() };
        }
        ask.unseen = asked.unseen;
        ask
    };
    let judged = match guards.judge(session, ask, &summary).await {
        Ok(judged) => judged,
        Err(error) if error.code == Code::Forbidden => return Ok(GuardAnswer::Deny { reason: error.public }),
        Err(error) => return Err(error.into()),
    };
    let input = judged.texts.map(|texts| {
        let mut input = asked.input.clone();
        with_strings(&mut input, &mut texts.into_iter());
        input
    });
    let Some(ruling) = judged.ruling else { return Ok(GuardAnswer::Allow { input }) };
    if ruling.action != Action::Approve {
        guards.note(session, "deny", &ruling, &summary).await?;
        return Ok(GuardAnswer::Deny { reason: ruling.words() });
    }
    // What is approved is what will run: with what was taken out already gone.
    let shown = input.as_ref().unwrap_or(&asked.input);
    let text = shown.to_string();
    let who = format!("tool:{}:{}", asked.turn, asked.call);
    let subject = if text.len() <= SHOWN {
        json!({"tool": asked.tool, "agent": asked.agent, "input": shown, "cwd": asked.cwd})
    } else {
        json!({"tool": asked.tool, "agent": asked.agent, "shown": short(&text, SHOWN / 4), "truncated": true})
    };
    let question = Question {
        key: NewApproval::key_of(&who, [asked.tool.as_str(), text.as_str()]),
        phase: Phase::Tool,
        tool: Some(short(&asked.tool, 200)),
        summary,
        subject,
    };
    let approval = match guards.ask(session, &ruling, question).await {
        Ok(approval) => approval,
        Err(Error { code: Code::QuotaExceeded, public, .. }) => {
            return Ok(GuardAnswer::Deny { reason: public });
        }
        Err(error) => return Err(error.into()),
    };
    Ok(match refusal_of(Some(&approval)) {
        _ if approval.state == ApprovalState::Pending => {
            GuardAnswer::Pending { approval: approval.id, expires_at: approval.expires_at }
        }
        None => GuardAnswer::Allow { input },
        Some(reason) => GuardAnswer::Deny { reason },
    })
}

/// A call in one line.
fn summary(tool: &str, input: &Value) -> String {
    let said = input.get("command").and_then(Value::as_str).map(str::to_owned);
    let said = said.unwrap_or_else(|| strings(input).join(" "));
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    short(&format!("{tool}: {line}"), 300)
}
