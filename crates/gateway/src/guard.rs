//! `http://gateway/guard`: an agent asks, before it runs a tool, what the guardrails say.
//!
//! The rules stay outside; only what they say comes in. A question that needs somebody's yes is answered `pending` with the approval's
//! id, and asked again by that id until it is decided. The same question of the same turn finds the same approval, whoever asks it
//! again; another question is never answered with its yes. What a rule takes out is not written down either.

use std::time::Duration;

use bytes::BytesMut;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use wharf_domain::guard::{Action, ApprovalState, Phase};
use wharf_domain::{Code, Error, limits};
use wharf_guard::{Judged, with_strings};
use wharf_store::NewApproval;
use wharf_wire::host::guard::{GuardAnswer, GuardAsk, ToolAsk};

use crate::asking::{Asking, Held, LARGE};
use crate::body::{Body, full};
use crate::door::Call;
use crate::guards::{Question, decided, refusal_of, short};
use crate::problem::Refusal;

/// How long a question may take to arrive, and to be answered when it waits.
const ARRIVES: Duration = Duration::from_secs(30);
const WAITS: Duration = Duration::from_secs(25);
/// Bytes of a tool's input that those are shown who decide.
const SHOWN: usize = 8 * 1024;
/// Bytes of a question that is kept where nothing is judged: one about an approval is shorter.
const SMALL: usize = 1024;

pub(crate) async fn serve(call: &Call, request: Request<Incoming>) -> Response<Body> {
    match answer(call, request).await {
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

async fn answer(call: &Call, request: Request<Incoming>) -> Result<GuardAnswer, Refusal> {
    if request.method() != Method::POST || request.uri().path() != "/guard" {
        return Err(Refusal {
            status: StatusCode::METHOD_NOT_ALLOWED,
            code: Code::MethodNotAllowed,
            ..Refusal::bad_request("questions to the guardrails are sent with POST to /guard")
        });
    }
    call.meter.question().await?;
    let (gateway, session) = (&call.gateway, &call.session);
    let mut held = gateway.guards.questions.enter(session.session)?;
    let most = if gateway.guards.concern(session, Phase::Tool).await? { limits::GUARD_BYTES } else { SMALL };
    let Some(body) = whole(request.into_body(), most, &mut held).await? else {
        return Ok(GuardAnswer::Allow { input: None });
    };
    match read(body).await? {
        GuardAsk::Tool(ask) => tool(call, ask).await,
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

async fn read(body: BytesMut) -> Result<GuardAsk, Refusal> {
    let much = body.len() > LARGE;
    let read = move || serde_json::from_slice(&body);
    let asked = if much { tokio::task::spawn_blocking(read).await.map_err(Error::internal)? } else { read() };
    asked.map_err(|e| Refusal::bad_request(format!("the question cannot be read: {e}")))
}

/// What came, where it is no more than `most`; `None` where it is more and nobody judges it.
async fn whole(mut body: Incoming, most: usize, held: &mut Held) -> Result<Option<BytesMut>, Refusal> {
    let read = async {
        let (mut all, mut came) = (BytesMut::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Refusal::bad_request(format!("the question broke off: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            came += data.len();
            if came > limits::GUARD_BYTES {
                let most = limits::GUARD_BYTES;
                return Err(Refusal {
                    status: StatusCode::PAYLOAD_TOO_LARGE,
                    code: Code::TooLarge,
                    ..Refusal::bad_request(format!("a question has up to {most} bytes (GUARD_BYTES)"))
                });
            }
            if came <= most {
                held.grow(data.len())?;
                all.extend_from_slice(&data);
            }
        }
        Ok((came <= most).then_some(all))
    };
    tokio::time::timeout(ARRIVES, read)
        .await
        .unwrap_or_else(|_| Err(Refusal::timeout("the question did not arrive in time")))
}

async fn tool(call: &Call, asked: ToolAsk) -> Result<GuardAnswer, Refusal> {
    let (guards, session) = (&call.gateway.guards, &call.session);
    if !guards.concern(session, Phase::Tool).await? {
        return Ok(GuardAnswer::Allow { input: None });
    }
    let ToolAsk { turn, call: number, agent, tool, input, cwd, unseen } = asked;
    let asking = Asking::tool(session, &agent, tool.clone(), input, cwd.clone(), unseen);
    let (judged, asking, summary) = match guards.judge_apart(session, asking, summary).await {
        Ok(judged) => judged,
        Err(error) if error.code == Code::Forbidden => return Ok(GuardAnswer::Deny { reason: error.public }),
        Err(error) => return Err(error.into()),
    };
    let mut runs = asking.into_input();
    let changed = judged.texts.is_some();
    if let Some(texts) = judged.texts {
        with_strings(&mut runs, &mut texts.into_iter());
    }
    let Some(ruling) = judged.ruling else {
        return Ok(GuardAnswer::Allow { input: changed.then_some(runs) });
    };
    if ruling.action != Action::Approve {
        guards.note(session, "deny", &ruling, &summary).await?;
        return Ok(GuardAnswer::Deny { reason: ruling.words() });
    }
    // What is approved is what will run: with what was taken out already gone.
    let text = runs.to_string();
    let mut subject = json!({"tool": short(&tool, 200), "agent": agent, "cwd": cwd});
    if text.len() <= SHOWN {
        subject["input"] = runs.clone();
    } else {
        subject["shown"] = json!(short(&text, SHOWN / 4));
        subject["truncated"] = json!(true);
    }
    let asks = [tool.as_str(), agent.as_str(), cwd.as_deref().unwrap_or_default(), text.as_str()];
    let question = Question {
        key: NewApproval::key_of(&format!("tool:{turn}:{number}"), asks),
        phase: Phase::Tool,
        tool: Some(short(&tool, 200)),
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
        None => GuardAnswer::Allow { input: changed.then_some(runs) },
        Some(reason) => GuardAnswer::Deny { reason },
    })
}

/// A call in one line, as it may be written down.
fn summary(asking: &Asking, judged: &Judged) -> String {
    let Some((tool, input)) = asking.call() else { return String::new() };
    let mut input = input.clone();
    with_strings(&mut input, &mut judged.written.iter().cloned());
    let said = input.get("command").and_then(Value::as_str).map(str::to_owned);
    let said = said.unwrap_or_else(|| judged.written.join(" "));
    let line: Vec<&str> = said.split_whitespace().collect();
    let unseen = if asking.is_unseen() { " (what it runs is not shown)" } else { "" };
    format!("{}{unseen}", short(&format!("{tool}: {}", line.join(" ")), 300 - unseen.len()))
}
