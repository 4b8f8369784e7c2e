//! Guardrails where they bite: what leaves, what goes to a model and comes from one, what an agent asks before it runs a tool.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wharf_domain::guard::{ApprovalState, Rule};
use wharf_domain::rbac::Verb;
use wharf_domain::{ApprovalId, Labels, NameOrId, TurnId};
use wharf_store::{Actor, Approval, ApprovalFilter, NewPolicy, PageRequest};

use crate::connections::secure;
use crate::lab::{Answer, Computer, Lab, SOON, allow, name, open, until};
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
    let denied = ask(&session, call(turn, "1/d", "rm pin-4")).await.json();
    assert_eq!(denied["decision"], "deny", "before it is asked what to take out");

    let push = call(turn, "2/a", "git push # pin-1");
    let pending = ask(&session, push.clone()).await.json();
    assert_eq!(pending["decision"], "pending");
    let id: ApprovalId = pending["approval"].as_str().unwrap().parse().unwrap();
    let again = ask(&session, push.clone()).await.json();
    assert_eq!(again, pending, "asked again it is the same approval");
    let shown = lab.waiting().await;
    assert_eq!(shown.subject["input"]["command"], "git push # [redacted]");
    assert_eq!(
        (shown.summary.as_str(), shown.reason.as_deref()),
        ("bash: git push # [redacted]", Some("pushes"))
    );
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
    assert_eq!(verbs, ["deny", "redact", "deny", "redact", "approve", "redact"]);
    // What is taken out is written down nowhere.
    let written: Vec<String> = sqlx::query_scalar(
        "select t from (select detail::text from audit_entries union all select data::text from events
             union all select row_to_json(a)::text from approvals a union all select data::text from session_log) x(t)",
    )
    .fetch_all(&mut lab.owner().await)
    .await
    .unwrap();
    assert!(written.iter().any(|t| t.contains("git push # [redacted]")), "{written:?}");
    assert!(written.iter().any(|t| t.contains("bash: rm [redacted]")), "{written:?}");
    // The rule itself speaks of it.
    let leaks: Vec<&String> =
        written.iter().filter(|t| t.replace("pin-[0-9]+", "").contains("pin-")).collect();
    assert!(leaks.is_empty(), "{leaks:?}");
}

fn post(uri: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(uri).body(Full::new(body.into())).unwrap()
}

/// A body that does not say how long it is.
fn chunks(
    n: usize,
    bytes: usize,
) -> StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>> {
    let chunk = Bytes::from(vec![b'x'; bytes]);
    StreamBody::new(futures_util::stream::iter((0..n).map(move |_| Ok(Frame::data(chunk.clone())))))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_whose_length_nobody_said_is_measured_as_it_goes_and_cut() {
    let lab = Lab::new().await;
    let api = Upstream::tls(&["api.example"], |seen| says(&format!("{} bytes", seen.body.len()))).await;
    let plain = Upstream::plain(|seen| says(&format!("{} bytes", seen.body.len()))).await;
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    lab.policy(
        "p",
        json!([{"phase": "egress", "match": {"hosts": ["api.example"], "size_over_bytes": 1000}, "action": "deny", "reason": "too much"}]),
    )
    .await;
    let session = lab.session("s", open()).await;
    let (host, uri) = (format!("api.example:{}", api.port), format!("http://api.example:{}/", plain.port));

    let chunked = async |n| {
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(session.stream().await)).await.unwrap();
        tokio::spawn(connection);
        send.send_request(Request::post(&uri).body(chunks(n, 500)).unwrap()).await.unwrap()
    };
    assert_eq!(chunked(2).await.status(), StatusCode::OK);
    let refused = chunked(20).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let said = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&said).contains("too much (policy p)"), "{said:?}");
    assert_eq!(session.send(post(&uri, vec![b'x'; 1001])).await.status, StatusCode::FORBIDDEN);

    let io = secure(&session, &host, &lab.authority().await, "h2").await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let ask = |n| Request::post(format!("https://{host}/")).body(chunks(n, 500)).unwrap();
    assert_eq!(send.send_request(ask(2)).await.unwrap().status(), StatusCode::OK);
    assert_eq!(send.send_request(ask(20)).await.unwrap().status(), StatusCode::FORBIDDEN);

    let whole = |u: &Upstream| u.seen().iter().filter(|s| s.body.len() > 1000).count();
    assert_eq!((whole(&plain), whole(&api)), (0, 0), "more than a thousand bytes have arrived");
    until(async || lab.noted().await.len() == 3).await;
    assert!(lab.noted().await.iter().all(|(verb, detail)| verb == "deny" && detail["reason"] == "too much"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_is_for_one_body_and_says_where_it_was_not_shown_whole() {
    let lab = Lab::new().await;
    let api = Upstream::plain(|seen| says(&format!("{} bytes", seen.body.len()))).await;
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    lab.policy("p", json!([{"phase": "egress", "match": {"hosts": ["api.example"]}, "action": "approve"}]))
        .await;
    let session = lab.session("s", open()).await;
    let uri = format!("http://api.example:{}/pay", api.port);
    let long = format!("{uri}?{}", "q".repeat(3000));
    let mut shown = Vec::new();
    for (uri, body) in
        [(&uri, "one".to_owned()), (&uri, "two".to_owned()), (&long, String::new()), (&uri, "x".repeat(9000))]
    {
        let waits = async { session.send(post(uri, body.clone())).await };
        let decides = async {
            let waiting = lab.waiting().await;
            lab.decide(&session, waiting.id, true, None).await;
            shown.push(waiting.subject);
        };
        let (answer, ()) = tokio::join!(waits, decides);
        assert_eq!(answer.text(), format!("{} bytes", body.len()), "what was read to be shown has gone out");
        assert_eq!(
            session.send(post(uri, body)).await.status,
            StatusCode::OK,
            "the same needs no second yes"
        );
    }
    assert_eq!(shown[0]["body"], json!({"bytes": 3, "text": "one"}));
    assert_eq!((&shown[0]["truncated"], &shown[1]["body"]["text"]), (&Value::Null, &json!("two")));
    assert_eq!((&shown[2]["truncated"], &shown[2]["body"]), (&json!(true), &Value::Null));
    assert_eq!((&shown[3]["truncated"], &shown[3]["body"]["bytes"]), (&json!(true), &json!(9000)));
    assert_eq!(lab.approvals().await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_opens_nothing_that_was_closed_meanwhile() {
    let lab = Lab::new().await;
    let api = Upstream::plain(|_| says("ok")).await;
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    lab.policy("p", json!([{"phase": "egress", "match": {"hosts": ["api.example"]}, "action": "approve"}]))
        .await;
    let target = format!("api.example:{}", api.port);
    for tunnel in [false, true] {
        let session = lab.session(if tunnel { "t" } else { "s" }, open()).await;
        let waits = async {
            if tunnel {
                session.tunnel(&target).await.map(drop).unwrap_err()
            } else {
                session.get(&format!("http://{target}/")).await
            }
        };
        let decides = async {
            let waiting = lab.waiting().await;
            lab.patch(&session, allow(&["other.example"])).await;
            lab.decide(&session, waiting.id, true, None).await;
        };
        let (answer, ()) = tokio::join!(waits, decides);
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(answer.text().contains("network.allow"), "{}", answer.text());
    }
    // Nor what a policy denies by now.
    let session = lab.session("u", open()).await;
    let waits = async { session.get(&format!("http://{target}/")).await };
    let decides = async {
        let waiting = lab.waiting().await;
        lab.policy("a", json!([{"phase": "egress", "match": {"hosts": ["api.example"]}, "action": "deny", "reason": "no more"}]))
            .await;
        lab.decide(&session, waiting.id, true, None).await;
    };
    let (answer, ()) = tokio::join!(waits, decides);
    assert_eq!(answer.json()["detail"], "no more (policy a)");
    assert!(api.seen().is_empty(), "something went out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_for_one_of_several_agents_holds_for_its_turns() {
    let lab = Lab::new().await;
    let api = Upstream::plain(|_| says("ok")).await;
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    lab.policy("p", json!([{"phase": "egress", "match": {"agents": ["second"]}, "action": "deny"}])).await;
    let agents =
        || vec![json!({"kind": "shell", "name": "first"}), json!({"kind": "command", "name": "second"})];
    let mut seen = Vec::new();
    for (n, turn) in [None, Some(None), Some(Some("first")), Some(Some("second"))].into_iter().enumerate() {
        let session = lab.session_of(&format!("s{n}"), open(), agents()).await;
        if let Some(to) = turn {
            let insert = "insert into turns (id, session_id, seq, state, agent, created_at, started_at)
                          values ($1, $2, 1, 'running', $3, now(), now())";
            let turn = sqlx::query(insert).bind(TurnId::new().uuid()).bind(session.id.uuid()).bind(to);
            turn.execute(&mut lab.owner().await).await.unwrap();
        }
        seen.push(session.get(&format!("http://api.example:{}/", api.port)).await.status.as_u16());
    }
    assert_eq!(seen, [403, 200, 200, 403], "nobody's turn, nobody named, the first, the second");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_bounded_in_number_size_and_pace() {
    let lab = Lab::with(|s| s.connections_per_second = 1).await;
    let session = Arc::new(lab.session("s", open()).await);
    // Nobody judges it: it is not even read.
    let garbage = post("http://gateway/guard", vec![b'x'; 5 * 1024 * 1024]);
    assert_eq!(session.send(garbage).await.json(), json!({"decision": "allow"}));
    let (told, mut tell) = tokio::sync::mpsc::unbounded_channel();
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..12 {
        let (session, told) = (session.clone(), told.clone());
        asked.spawn(async move {
            let answer = ask(&session, call(TurnId::new(), &n.to_string(), "ls")).await;
            let _ = told.send((answer.status, answer.text()));
        });
    }
    // One at once, five within the patience; the others are told.
    for _ in 0..5 {
        let next = async { while tell.recv().await.unwrap().0 == StatusCode::OK {} };
        tokio::time::timeout(SOON, next).await.expect("as many as there are go through");
    }
    asked.abort_all();

    let lab = Lab::new().await;
    lab.policy("p", json!([{"phase": "tool", "action": "deny"}])).await;
    let session = lab.session("s", open()).await;
    let mut open = Vec::new();
    for n in 0..3 {
        let mut stream = session.stream().await;
        let head = "POST http://gateway/guard HTTP/1.1\r\nHost: gateway\r\nContent-Length: 8000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let part = vec![b'x'; 7_000_000];
        let mut answer = vec![0u8; 64];
        if n < 2 {
            stream.write_all(&part).await.unwrap();
            open.push(stream);
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            continue;
        }
        let (mut reads, mut writes) = stream.split();
        let told = async { reads.read(&mut answer).await.unwrap() };
        let writing = async {
            let _ = writes.write_all(&part).await;
            std::future::pending::<()>().await;
        };
        let n = tokio::select! {
            n = tokio::time::timeout(SOON, told) => n.expect("it was never told"),
            () = writing => unreachable!(),
        };
        assert!(String::from_utf8_lossy(&answer[..n]).starts_with("HTTP/1.1 429"), "{answer:?}");
    }
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
