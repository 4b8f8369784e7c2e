//! Guardrails where they bite: what leaves, what goes to a model and comes from one, what an agent asks before it runs a tool.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use wharf_domain::guard::{ApprovalState, Rule};
use wharf_domain::rbac::Verb;
use wharf_domain::{ApprovalId, Labels, NameOrId, TurnId};
use wharf_store::{Actor, Approval, ApprovalFilter, NewPolicy, PageRequest};

use crate::lab::{Answer, Computer, Lab, name, open, until};
use crate::upstream::{Upstream, says};

impl Lab {
    pub async fn policy(&self, called: &str, rules: Value) {
        let rules: Vec<Rule> = serde_json::from_value(rules).unwrap();
        wharf_guard::check(&rules).unwrap();
        let mut scope = self.scope().await;
        let permit = scope.policies().allow(&name(called)).await.unwrap();
        let new = NewPolicy { name: name(called), labels: Labels::default(), priority: 100, rules };
        scope.policies().create(&permit, new).await.unwrap();
        scope.commit().await.unwrap();
    }

    pub async fn approvals(&self) -> Vec<Approval> {
        let mut scope = self.scope().await;
        scope.approvals().list(ApprovalFilter::default(), &PageRequest::default()).await.unwrap().items
    }

    pub async fn decide(&self, of: &Computer, id: ApprovalId, allow: bool, reason: Option<&str>) {
        let mut scope = self.scope().await;
        let permit = scope.approvals().permit(&NameOrId::Id(of.id), id, Verb::Approve).await.unwrap();
        scope.approvals().decide(&permit, allow, reason).await.unwrap();
        scope.commit().await.unwrap();
    }

    async fn waiting(&self) -> Approval {
        until(async || self.approvals().await.iter().any(|a| a.state == ApprovalState::Pending)).await;
        self.approvals().await.into_iter().find(|a| a.state == ApprovalState::Pending).unwrap()
    }

    /// Verb, what was noted about it, oldest first.
    async fn noted(&self) -> Vec<(String, Value)> {
        let mut scope = self.store.system(Actor::Setup).global().await.unwrap();
        let filter =
            wharf_store::audit::AuditFilter { ascending: true, limit: Some(500), ..Default::default() };
        let all = scope.audit_list(&filter).await.unwrap().items;
        all.into_iter()
            .filter(|e| matches!(e.resource.as_str(), "policies" | "approvals") && e.verb != "create")
            .map(|e| (e.verb, e.detail))
            .collect()
    }
}

async fn ask(session: &Computer, body: Value) -> Answer {
    let request = Request::builder()
        .method(Method::POST)
        .uri("http://gateway/guard")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    session.send(request).await
}

fn call(turn: TurnId, number: &str, command: &str) -> Value {
    json!({"turn": turn, "call": number, "agent": "computer-use", "tool": "bash", "input": {"command": command}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_a_rule_denies_is_refused_and_noted_and_others_are_not() {
    let lab = Lab::new().await;
    let (good, bad) = (Upstream::plain(|_| says("good")).await, Upstream::plain(|_| says("bad")).await);
    for name in ["good.example", "a.bad.example", "notbad.example"] {
        lab.names.set(name, &[&["127.0.0.1"]]);
    }
    lab.policy(
        "p",
        json!([{"phase": "egress", "match": {"hosts": ["*.bad.example"]}, "action": "deny", "reason": "not there"}]),
    )
    .await;
    let session = lab.session("s", open()).await;
    assert_eq!(session.get(&format!("http://good.example:{}/", good.port)).await.text(), "good");
    assert_eq!(session.get(&format!("http://notbad.example:{}/", good.port)).await.text(), "good");
    let refused = session.get(&format!("http://A.BAD.example.:{}/", bad.port)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.json()["detail"], "not there (policy p)");
    let refused = session.tunnel(&format!("a.bad.example:{}", bad.port)).await.unwrap_err();
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(bad.seen().len(), 0, "nothing of it arrived");
    let noted = lab.noted().await;
    assert_eq!(noted.iter().map(|(verb, _)| verb.as_str()).collect::<Vec<_>>(), ["deny", "deny"]);
    assert_eq!(noted[0].1["reason"], "not there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_until_somebody_allows_it_and_its_like_need_no_second_yes() {
    let lab = Lab::new().await;
    let api = Upstream::plain(|_| says("ok")).await;
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    lab.policy(
        "p",
        json!([{"phase": "egress", "match": {"hosts": ["api.example"], "paths": ["/pay/**"]}, "action": "approve"}]),
    )
    .await;
    let session = lab.session("s", open()).await;
    let at = |path: &str| format!("http://api.example:{}{path}", api.port);
    assert_eq!(session.get(&at("/look")).await.text(), "ok", "what the rule is not about does not wait");
    let url = at("/x/../pay/%31");
    let waits = async { session.get(&url).await };
    let decides = async {
        let waiting = lab.waiting().await;
        assert_eq!((waiting.phase.as_str(), waiting.subject["method"].as_str()), ("egress", Some("GET")));
        lab.decide(&session, waiting.id, true, None).await;
    };
    let (answer, ()) = tokio::join!(waits, decides);
    assert_eq!(answer.text(), "ok");
    assert_eq!(session.get(&url).await.text(), "ok");
    assert_eq!(lab.approvals().await.len(), 1);
    // Another one is another question; no is no, with its reason.
    let other = at("/pay/2");
    let waits = async { session.get(&other).await };
    let decides = async {
        let waiting = lab.waiting().await;
        lab.decide(&session, waiting.id, false, Some("too much")).await;
    };
    let (answer, ()) = tokio::join!(waits, decides);
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.text().contains("denied it, saying: too much (policy p)"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_allowed_denied_or_waits_and_the_same_question_has_one_answer() {
    let mut lab = Lab::new().await;
    lab.policy(
        "p",
        json!([
            {"phase": "tool", "match": {"argv": {"program": ["rm"]}}, "action": "deny", "reason": "nothing is deleted"},
            {"phase": "tool", "match": {"regex": "pin-[0-9]+"}, "action": "redact"},
            {"phase": "tool", "match": {"argv": {"program": ["git"], "args": ["push"]}}, "action": "approve", "reason": "pushes"},
        ]),
    )
    .await;
    let session = lab.session("s", open()).await;
    let turn = TurnId::new();
    assert_eq!(ask(&session, call(turn, "1/a", "ls")).await.json(), json!({"decision": "allow"}));
    let denied = ask(&session, call(turn, "1/b", "sudo \\rm x")).await.json();
    assert_eq!(denied, json!({"decision": "deny", "reason": "nothing is deleted (policy p)"}));
    let changed = ask(&session, call(turn, "1/c", "echo pin-123")).await.json();
    assert_eq!(changed, json!({"decision": "allow", "input": {"command": "echo [redacted]"}}));

    let push = call(turn, "2/a", "git push # pin-1");
    let pending = ask(&session, push.clone()).await.json();
    assert_eq!(pending["decision"], "pending");
    let id: ApprovalId = pending["approval"].as_str().unwrap().parse().unwrap();
    let again = ask(&session, push.clone()).await.json();
    assert_eq!(again, pending, "asked again it is the same approval");
    let shown = lab.waiting().await;
    assert_eq!(shown.subject["input"]["command"], "git push # [redacted]");
    assert_eq!((shown.summary.as_str(), shown.reason.as_deref()), ("bash: git push # pin-1", Some("pushes")));
    // The gateway is another one when somebody decides, and the yes is there all the same.
    lab.stop().await;
    lab.start();
    until(async || session.try_get().await).await;
    let waits = async { ask(&session, json!({"approval": id})).await.json() };
    let decides = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        lab.decide(&session, id, true, None).await;
    };
    let (answer, ()) = tokio::join!(waits, decides);
    assert_eq!(answer["decision"], "allow");
    let allowed = ask(&session, push).await.json();
    assert_eq!(allowed, json!({"decision": "allow", "input": {"command": "git push # [redacted]"}}));
    // The yes is for that and nothing else, whatever name it is asked by.
    let other = ask(&session, call(turn, "2/a", "git push --force")).await.json();
    assert_eq!(other["decision"], "pending");
    assert_ne!(other["approval"], pending["approval"]);
    // Another session cannot wait for it, nor learn of it.
    let stranger = lab.session("t", open()).await;
    let seen = ask(&stranger, json!({"approval": id})).await.json();
    assert_eq!(seen, json!({"decision": "deny", "reason": "the approval it waited for is no more"}));
    let verbs: Vec<String> = lab.noted().await.into_iter().map(|(verb, _)| verb).collect();
    // A new gateway does not know what the one before it had noted.
    assert_eq!(verbs, ["deny", "redact", "redact", "approve", "redact"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_decides_in_time_is_denied() {
    let lab = Lab::new().await;
    lab.policy("p", json!([{"phase": "tool", "action": "approve", "timeout_seconds": 1}])).await;
    let session = lab.session("s", open()).await;
    let pending = ask(&session, call(TurnId::new(), "1", "ls")).await.json();
    lab.advance(std::time::Duration::from_secs(2));
    let answer = ask(&session, json!({"approval": pending["approval"]})).await.json();
    assert_eq!(answer, json!({"decision": "deny", "reason": "nobody allowed it in time (policy p)"}));
    assert_eq!(lab.approvals().await[0].state, ApprovalState::Expired);
    let noted = lab.noted().await;
    assert_eq!((noted[0].0.as_str(), &noted[0].1["decision"]), ("approve", &json!("expired")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cannot_flood_those_who_decide_and_a_question_that_is_none_is_refused() {
    let lab = Lab::new().await;
    lab.policy("p", json!([{"phase": "tool", "action": "approve"}])).await;
    let session = lab.session("s", open()).await;
    let turn = TurnId::new();
    for n in 0..wharf_domain::limits::APPROVALS_PENDING {
        let answer = ask(&session, call(turn, &n.to_string(), "ls")).await.json();
        assert_eq!(answer["decision"], "pending");
    }
    let full = ask(&session, call(turn, "one more", "ls")).await.json();
    assert_eq!(full["decision"], "deny");
    assert!(full["reason"].as_str().unwrap().contains("APPROVALS_PENDING"), "{full}");
    assert_eq!(ask(&session, json!({"tool": "bash"})).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(session.get("http://gateway/guard").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_for_one_session() {
    let lab = Lab::new().await;
    lab.policy(
        "p",
        json!([{"phase": "tool", "match": {"tools": ["bash"], "rate": {"count": 2, "per_seconds": 60}}, "action": "deny"}]),
    )
    .await;
    let (one, two) = (lab.session("s", open()).await, lab.session("t", open()).await);
    let mut said = Vec::new();
    for session in [&one, &one, &one, &two] {
        said.push(ask(session, call(TurnId::new(), "1", "ls")).await.json()["decision"].clone());
    }
    assert_eq!(said, ["allow", "allow", "deny", "allow"]);
    lab.advance(std::time::Duration::from_secs(61));
    assert_eq!(ask(&one, call(TurnId::new(), "1", "ls")).await.json()["decision"], "allow");
}
