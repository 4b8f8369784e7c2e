//! Guardrails of a space, kept for a moment, and what of them holds for what leaves a session.
//!
//! Everything but a plain yes is written into the audit log. What waits for a yes stands in the tables before anybody waits for it, so
//! that it is found again by whoever asks the same: after a restart, of this role or of the session's computer, it is not asked anew.
//! Policies that cannot be read let nothing through.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Request;
use http::uri::Scheme;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use wharf_domain::egress::{Target, rule};
use wharf_domain::guard::{APPROVAL_SECONDS, Action, ApprovalState, Phase};
use wharf_domain::rbac::Resource;
use wharf_domain::ssh::{PORT, Service};
use wharf_domain::{ApprovalId, Code, Error, SessionId, SpaceId, limits};
use wharf_guard::{Ask, Guard, Judged, Ruling};
use wharf_ports::{Topic, Wake};
use wharf_store::{Approval, Asked, NewApproval, System};

use crate::asking::{self, Asking, Questions, Rates};
use crate::body::Resumed;
use crate::door::Call;
use crate::gateway::Gateway;
use crate::kept::Kept;
use crate::problem::{Decision, Refusal};
use crate::sessions::Session;
use crate::sized::Sizes;
use crate::target::authority;

const FRESH: Duration = Duration::from_secs(1);
const MOST: usize = 4096;
/// Redactions that were noted: beyond it they are noted anew.
const COUNTED: usize = 10_000;
/// Net for a wake-up that was lost while somebody waits.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Outside of turns an answer to the same question holds so long.
const ANSWER_HOLDS_MS: i64 = 3_600_000;

/// Characters of a URL and of a body that those are shown who decide.
const URL_SHOWN: usize = 2000;
const BODY_SHOWN: usize = 2000;

/// A space's policies; `Err` names the one that cannot be read.
pub(crate) type Live = Arc<Result<Guard, String>>;

pub(crate) struct Guards {
    system: System,
    kept: Kept<SpaceId, Live>,
    pub rates: Rates,
    /// What agents ask, and bodies of requests that wait for a yes.
    pub questions: Questions,
    pub bodies: Questions,
    large: Arc<Semaphore>,
    noted: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Guards {
    pub fn new(system: System) -> Self {
        let kept = Kept::of(system.store(), FRESH, MOST);
        Self {
            system,
            kept,
            rates: Rates::default(),
            questions: Questions::default(),
            bodies: Questions::default(),
            large: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from))),
            noted: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    pub fn hear(&self, wake: Wake) {
        match wake {
            Wake::Topic(Topic::Space(id)) => self.kept.forget(|space, _| *space == id),
            Wake::Topic(_) => {}
            Wake::Missed => self.kept.forget(|_, _| true),
        }
    }

    /// Those of the session's space, no older than what is known of the session.
    async fn of(&self, session: &Session) -> Result<Live, Error> {
        let space = session.space;
        if let Some(live) = self.kept.get_since(&space, session.read) {
            return Ok(live);
        }
        let begun = self.kept.begin();
        let policies = self.system.live_policies(space).await?;
        let read = Guard::new(policies.iter().map(|p| (p.name.clone(), p.rules.as_slice())));
        let live: Live = Arc::new(read.map_err(|error| {
            tracing::error!(%space, %error, "policies of a space cannot be read: nothing that they concern goes through");
            error.public
        }));
        self.kept.put(begun, space, live.clone());
        Ok(live)
    }

    /// Whether anything of the phase is judged at all.
    pub async fn concern(&self, session: &Session, phase: Phase) -> Result<bool, Error> {
        Ok(self.of(session).await?.as_ref().as_ref().map_or(true, |g| g.concerns(phase)))
    }

    /// Whether requests to the host have to be read.
    pub async fn look_inside(&self, session: &Session, target: &Target) -> Result<bool, Error> {
        Ok(self.of(session).await?.as_ref().as_ref().is_ok_and(|g| g.looks_inside(target)))
    }

    /// Whether what has left already would go through now. Rates are not counted again, and a yes that was given holds as long
    /// as its rule asks for one.
    pub async fn still(
        &self,
        session: &Session,
        target: &Target,
        leaving: &Leaving,
        allowed: Option<&Ruling>,
    ) -> Result<bool, Error> {
        let live = self.of(session).await?;
        let Ok(guard) = live.as_ref() else { return Ok(false) };
        let judged = guard.judge(leaving.ask(session, target, &leaving.text(target)), &mut |_, _, _| false);
        Ok(judged.ruling.is_none_or(|now| now.action == Action::Approve && allowed == Some(&now)))
    }

    /// The policies, where they can be read.
    async fn readable(&self, session: &Session) -> Result<Live, Error> {
        let live = self.of(session).await?;
        if let Err(why) = live.as_ref() {
            let detail = format!("the space's policies cannot be read, so nothing goes through: {why}");
            return Err(Error::new(Code::Forbidden, detail));
        }
        Ok(live)
    }

    /// Asks the rules. What was taken out is noted, once for the same text. Rates are counted only where it is asked first.
    async fn judge<'q>(
        &self,
        session: &Session,
        counts: bool,
        ask: impl FnOnce() -> Ask<'q> + Send,
        summary: &str,
    ) -> Result<Judged, Error> {
        let live = self.readable(session).await?;
        let now = self.system.store().now();
        let judged = match live.as_ref() {
            Ok(guard) => guard.judge(ask(), &mut |policy, rule, rate| {
                self.rates.over(session.session, (policy, rule), rate, now, counts)
            }),
            Err(_) => Judged::default(),
        };
        self.note_redacted(session, &judged, summary).await?;
        Ok(judged)
    }

    /// The same for what may be large: judged beside the runtime. `line` says in a line what was asked, as it may be written down.
    pub async fn judge_apart(
        &self,
        session: &Session,
        asking: Asking,
        line: impl FnOnce(&Asking, &Judged) -> String + Send + 'static,
    ) -> Result<(Judged, Asking, String), Error> {
        let live = self.readable(session).await?;
        let (rates, now, id) = (self.rates.clone(), self.system.store().now(), session.session);
        let over = move |policy: &_, rule, rate| rates.over(id, (policy, rule), rate, now, true);
        let (judged, asking, summary) = asking::judge(live, &self.large, asking, over, line).await?;
        self.note_redacted(session, &judged, &summary).await?;
        Ok((judged, asking, summary))
    }

    async fn note_redacted(&self, session: &Session, judged: &Judged, summary: &str) -> Result<(), Error> {
        for ruling in &judged.redacted {
            let what = self.hasher.hash_one((session.session, &ruling.policy, ruling.rule, &judged.texts));
            let new = {
                let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
                if noted.len() >= COUNTED {
                    noted.clear();
                }
                noted.insert(what)
            };
            if new {
                self.note(session, "redact", ruling, summary).await?;
            }
        }
        Ok(())
    }

    /// Into the audit log.
    pub async fn note(
        &self,
        session: &Session,
        verb: &str,
        ruling: &Ruling,
        summary: &str,
    ) -> Result<(), Error> {
        let detail = json!({
            "session": session.session, "session_name": session.name, "rule": ruling.rule, "reason": ruling.reason,
            "summary": short(summary, 300),
        });
        self.system.guard_noted(session.space, verb, Resource::Policies, &ruling.policy, detail).await
    }

    /// Asks somebody, or finds what was asked before.
    pub async fn ask(
        &self,
        session: &Session,
        ruling: &Ruling,
        question: Question,
    ) -> Result<Approval, Error> {
        let Question { key, phase, tool, summary, subject } = question;
        let new = NewApproval {
            session: session.session,
            space: session.space,
            key,
            phase,
            policy: ruling.policy.clone(),
            rule: ruling.rule,
            reason: ruling.reason.clone(),
            tool,
            summary: short(&summary, 300),
            subject,
            seconds: ruling.timeout_seconds.unwrap_or(APPROVAL_SECONDS),
        };
        match self.system.ask_approval(&new).await? {
            Asked::Approval(approval) => Ok(*approval),
            Asked::Full => {
                let most = limits::APPROVALS_PENDING;
                let detail = format!(
                    "{most} approvals of this session wait (APPROVALS_PENDING); let some be decided first"
                );
                Err(Error::new(Code::QuotaExceeded, detail))
            }
            Asked::Gone => Err(Error::not_found("session", &session.name)),
        }
    }
}

/// What somebody is asked.
pub(crate) struct Question {
    /// Of who asks and what, by [`NewApproval::key_of`].
    pub key: String,
    pub phase: Phase,
    pub tool: Option<String>,
    pub summary: String,
    pub subject: Value,
}

/// The approval when it is decided, or as it stands when the patience is over. `None`: it is no more.
pub(crate) async fn decided(
    gateway: &Gateway,
    session: SessionId,
    id: ApprovalId,
    patience: Option<Duration>,
) -> Result<Option<Approval>, Error> {
    let until = patience.map(|p| Instant::now() + p);
    let mut changes = gateway.sessions.changes(session);
    loop {
        let Some(approval) = gateway.system.approval(id).await?.filter(|a| a.session == session) else {
            return Ok(None);
        };
        if approval.state != ApprovalState::Pending {
            return Ok(Some(approval));
        }
        let now = gateway.system.store().now();
        if approval.expires_at <= now {
            gateway.system.expire_approval(&approval).await?;
            continue;
        }
        let mut look = Instant::now() + approval.expires_at.since(now).min(LOOK_AGAIN);
        if let Some(until) = until {
            if until <= Instant::now() {
                return Ok(Some(approval));
            }
            look = look.min(until);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                tokio::time::sleep_until(look).await;
            },
            () = tokio::time::sleep_until(look) => {}
        }
    }
}

/// Why it does not go through, for whose request it is; `None` where it was allowed.
pub(crate) fn refusal_of(approval: Option<&Approval>) -> Option<String> {
    let Some(a) = approval else { return Some("the approval it waited for is no more".into()) };
    let because = |text: &str| {
        let rule = a.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
        format!("{text} (policy {}{rule})", a.policy)
    };
    match a.state {
        ApprovalState::Allowed => None,
        ApprovalState::Pending => Some(because("nobody has allowed it yet")),
        ApprovalState::Denied => {
            let by = a.decided_by.as_deref().unwrap_or("somebody");
            let said = a.decision_reason.as_ref().map(|r| format!(", saying: {r}")).unwrap_or_default();
            Some(because(&format!("{by} denied it{said}")))
        }
        ApprovalState::Expired => Some(because("nobody allowed it in time")),
        ApprovalState::Cancelled => Some(because("its turn ended before anybody allowed it")),
    }
}

/// What leaves a session, as far as it is known.
#[derive(Clone)]
pub(crate) struct Leaving {
    /// Method and URL of a request that is read.
    url: Option<(String, String)>,
    path: Option<String>,
    bytes: Option<u64>,
    /// Of a body whose length was not said: what has come of it.
    pub so_far: Arc<AtomicU64>,
}

impl Leaving {
    /// Nothing but the host.
    pub fn tunnel() -> Self {
        Self { url: None, path: None, bytes: None, so_far: Arc::default() }
    }

    /// A repository at an ssh server: what git asks there stands for the method.
    pub fn git(target: &Target, service: Service, path: &str) -> Self {
        let path = format!("/{}", path.trim_start_matches('/'));
        let url = format!("ssh://{}{path}", authority(target, PORT));
        Self {
            url: Some((service.as_str().to_owned(), url)),
            path: Some(path),
            bytes: None,
            so_far: Arc::default(),
        }
    }

    pub fn request<B: hyper::body::Body>(scheme: &Scheme, target: &Target, request: &Request<B>) -> Self {
        let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let rest = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let url = format!("{scheme}://{}{rest}", authority(target, default));
        let path = request.uri().path();
        let path = rule::normal(path).unwrap_or_else(|| path.to_owned());
        let bytes = request.body().size_hint().exact();
        let url = Some((request.method().as_str().to_owned(), url));
        Self { url, path: Some(path), bytes, so_far: Arc::default() }
    }

    /// Whether only its end tells how much it is.
    fn is_open_ended(&self) -> bool {
        self.url.is_some() && self.bytes.is_none()
    }

    pub fn text(&self, target: &Target) -> String {
        self.url
            .as_ref()
            .map_or_else(|| format!("CONNECT {target}"), |(method, url)| format!("{method} {url}"))
    }

    pub fn ask<'a>(&'a self, session: &'a Session, target: &'a Target, text: &str) -> Ask<'a> {
        let texts = self.url.iter().map(|_| text.to_owned()).collect();
        let mut ask = Ask::new(Phase::Egress, texts);
        ask.agents = session.agents.iter().map(String::as_str).collect();
        ask.target = Some(target);
        ask.url_path = self.path.as_deref();
        ask.bytes = Some(self.bytes.unwrap_or_else(|| self.so_far.load(Ordering::Relaxed)));
        ask
    }
}

/// What may leave, and how.
pub(crate) struct Allowed {
    /// By what is known of its session now: somebody's yes may have taken days.
    pub call: Call,
    /// The rule that wanted the yes, and got it.
    pub ruling: Option<Ruling>,
    /// Where its length is not known and a rule asks for it: what its body is measured by.
    pub sizes: Option<Sizes>,
}

/// Judges what is about to leave and has no body; waits for a yes where one is needed.
pub(crate) async fn egress(call: &Call, target: &Target, leaving: &Leaving) -> Result<Allowed, Refusal> {
    egress_with(call, target, leaving, &mut Resumed::none()).await
}

/// The same with a body, which is read as far as it may be where somebody has to decide: a yes is for that body.
pub(crate) async fn egress_with(
    call: &Call,
    target: &Target,
    leaving: &Leaving,
    body: &mut Resumed<Incoming>,
) -> Result<Allowed, Refusal> {
    let (mut call, mut yes, mut counts) = (call.clone(), None, true);
    let text = leaving.text(target);
    // Once more after every yes: what was allowed then may not be what is allowed now.
    loop {
        let (gateway, session) = (&call.gateway, &call.session);
        let guards = &gateway.guards;
        if !guards.concern(session, Phase::Egress).await? {
            return Ok(Allowed { call, ruling: yes, sizes: None });
        }
        let ask = || leaving.ask(session, target, &text);
        let judged = guards.judge(session, counts, ask, &text).await.map_err(denied)?;
        counts = false;
        let Some(ruling) = judged.ruling.filter(|now| yes.as_ref() != Some(now)) else {
            let open_ended = leaving.is_open_ended() && !body.is_over();
            let live = guards.of(session).await?;
            let sizes = open_ended.then(|| Sizes::new(&call, live, target, leaving, yes.clone())).flatten();
            return Ok(Allowed { call, ruling: yes, sizes });
        };
        if ruling.action != Action::Approve {
            guards.note(session, "deny", &ruling, &text).await?;
            return Err(Refusal::denied("guardrail", ruling.words()));
        }
        if !body.is_read() {
            body.read(guards.bodies.enter(session.session).ok()).await?;
            if body.is_over() {
                leaving.so_far.store(body.bytes() as u64, Ordering::Relaxed);
            }
            // Now that it is known how much it is.
            continue;
        }
        let question = asks(&call, target, leaving, &text, &ruling, body);
        let approval = guards.ask(session, &ruling, question).await?;
        let approval = decided(gateway, session.session, approval.id, None).await?;
        if let Some(why) = refusal_of(approval.as_ref()) {
            return Err(Refusal::denied("guardrail", why));
        }
        yes = Some(ruling);
        call = call.anew().await?;
        call.session.policy.judge(target).map_err(|why| Refusal::denied("policy", why))?;
        call.session.room().map_err(Refusal::limit)?;
    }
}

/// What somebody is asked about a request, and what the answer is for: its method, URL and body.
fn asks(
    call: &Call,
    target: &Target,
    leaving: &Leaving,
    text: &str,
    ruling: &Ruling,
    body: &Resumed<Incoming>,
) -> Question {
    // In a turn a question is asked once; outside of one, once in a while.
    let when = call.session.turn.map_or_else(
        || format!("at {}", call.gateway.system.store().now().millis() / ANSWER_HOLDS_MS),
        |turn| turn.to_string(),
    );
    let rule = ruling.rule.to_string();
    // A body that is not all here is like no other.
    let once = if body.is_over() { String::new() } else { ApprovalId::new().to_string() };
    let head = [ruling.policy.as_str(), rule.as_str(), text, once.as_str()].map(str::as_bytes);
    let whole = body.so_far();
    let key = NewApproval::key_of(&format!("egress:{when}"), head.into_iter().chain([&whole[..]]));
    let mut subject = json!({"host": target.host.to_string(), "port": target.port});
    let mut truncated = false;
    if let Some((method, url)) = &leaving.url {
        subject["method"] = json!(short(method, 32));
        subject["url"] = json!(short(url, URL_SHOWN));
        truncated = url.chars().nth(URL_SHOWN).is_some();
    }
    if !whole.is_empty() || !body.is_over() {
        let length = if body.is_over() { Some(whole.len() as u64) } else { leaving.bytes };
        subject["body"] = json!({"bytes": length});
        if let Ok(said) = std::str::from_utf8(&whole) {
            subject["body"]["text"] = json!(short(said, BODY_SHOWN));
            truncated |= said.chars().nth(BODY_SHOWN).is_some();
        } else {
            truncated = true;
        }
        truncated |= !body.is_over();
    }
    if truncated {
        subject["truncated"] = json!(true);
    }
    Question { key, phase: Phase::Egress, tool: None, summary: text.to_owned(), subject }
}

/// Policies that cannot be read are a refusal like any other.
fn denied(error: Error) -> Refusal {
    if error.code == Code::Forbidden {
        return Refusal::denied("guardrail", error.public);
    }
    Refusal { decision: Decision::Failed, ..error.into() }
}

/// The beginning of a text.
pub(crate) fn short(text: &str, chars: usize) -> String {
    let mut cut: String = text.chars().take(chars).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}
