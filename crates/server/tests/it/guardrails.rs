//! Policies and approvals, as the API shows them.

use std::time::Duration;

use serde_json::{Value, json};
use wharf_domain::guard::Phase;
use wharf_domain::{SessionId, SpaceId};
use wharf_store::{Actor, Approval, Asked, NewApproval};

use crate::lab::{Caller, Lab};

const AT: &str = "/v1/spaces/lab/policies";

fn id<T: std::str::FromStr>(of: &Value) -> T
where
    T::Err: std::fmt::Debug,
{
    of["id"].as_str().unwrap().parse().unwrap()
}

impl Lab {
    /// Asks as the gateway does.
    pub async fn ask(&self, admin: &Caller, session: &str, key: &str, seconds: u32) -> Approval {
        let space: SpaceId = id(&admin.get("/v1/spaces/lab").await.expect(200));
        let session: SessionId =
            id(&admin.get(&format!("/v1/spaces/lab/sessions/{session}")).await.expect(200));
        let new = NewApproval {
            session,
            space,
            key: NewApproval::key_of(key, ["ls"]),
            phase: Phase::Tool,
            policy: "careful".parse().unwrap(),
            rule: 2,
            reason: Some("looks".into()),
            tool: Some("bash".into()),
            summary: "bash: ls".into(),
            subject: json!({"tool": "bash", "input": {"command": "ls\u{0}"}}),
            seconds,
        };
        match self.store.system(Actor::Gateway).ask_approval(&new).await.unwrap() {
            Asked::Approval(approval) => *approval,
            other => panic!("{other:?}"),
        }
    }
}

async fn furnished(lab: &Lab) -> Caller {
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    admin.post("/v1/spaces/lab/sessions", json!({"name": "s"})).await.expect(201);
    admin
}

fn at(approval: &Approval) -> String {
    format!("/v1/spaces/lab/sessions/s/approvals/{}", approval.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_made_changed_and_deleted_and_its_rules_come_back_as_they_were() {
    let lab = Lab::new().await;
    let admin = furnished(&lab).await;
    let policy: Value =
        serde_json::from_str(include_str!("../../../../examples/policies/careful.json")).unwrap();
    let made = admin.post(AT, policy.clone()).await.expect(201);
    assert_eq!((&made["rules"], &made["priority"]), (&policy["rules"], &json!(100)));
    admin.post(AT, policy.clone()).await.refused(409, "already_exists");
    let path = format!("{AT}/careful");
    let rules = json!([{"phase": "egress", "match": {"hosts": ["x.org"]}, "action": "deny"}]);
    let changed = admin.patch(&path, json!({"rules": rules, "priority": 3})).await.expect(200);
    assert_eq!((&changed["rules"], &changed["priority"]), (&rules, &json!(3)));
    assert_eq!(admin.get(&path).await.expect(200), changed);
    assert_eq!(admin.get(AT).await.expect(200)["items"], json!([changed]));
    admin.delete(&path).await.expect(204);
    admin.get(&path).await.refused(404, "not_found");
    let audit = admin.get("/v1/audit?resource=policies&outcome=allowed").await.expect(200);
    let verbs: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|e| e["verb"].as_str().unwrap()).collect();
    assert_eq!(verbs, ["delete", "update", "create"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_could_not_do_what_it_says_is_refused_with_the_field_at_fault() {
    let lab = Lab::new().await;
    let admin = furnished(&lab).await;
    for (rules, code, field) in [
        (json!([]), "invalid_field", "rules"),
        (
            json!([{"phase": "tool", "action": "deny", "match": {"regex": "("}}]),
            "invalid_field",
            "rules.0.match.regex",
        ),
        (
            json!([{"phase": "input", "action": "deny", "match": {"hosts": ["x.org"]}}]),
            "invalid_field",
            "rules.0.match.hosts",
        ),
        (
            json!([{"phase": "tool", "action": "deny", "match": {"host": "x.org"}}]),
            "unknown_field",
            "rules[0].match.host",
        ),
        (json!([{"phase": "tools", "action": "deny"}]), "invalid_field", "rules[0].phase"),
        (
            json!([{"phase": "egress", "action": "deny", "match": {"hosts": ["https://x.org"]}}]),
            "invalid_field",
            "rules[0].match.hosts[0]",
        ),
    ] {
        let refused = admin.post(AT, json!({"name": "p", "rules": rules})).await.refused(422, code);
        let got = refused["field"].as_str().unwrap_or_default().replace(['[', ']'], ".");
        let field = field.replace(['[', ']'], ".");
        let (got, field) = (got.replace("..", "."), field.replace("..", "."));
        assert_eq!(got.trim_matches('.'), field.trim_matches('.'), "{rules}: {refused}");
    }
    let refused = admin
        .post(AT, json!({"name": "p", "priority": 1001, "rules": [{"phase": "tool", "action": "deny"}]}))
        .await;
    assert_eq!(refused.refused(422, "invalid_field")["field"], "priority");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_seen_decided_once_and_told_of_in_both_logs() {
    let lab = Lab::new().await;
    let admin = furnished(&lab).await;
    let asked = lab.ask(&admin, "s", "tool:1", 60).await;
    let again = lab.ask(&admin, "s", "tool:1", 60).await;
    assert_eq!(again.id, asked.id, "the same question is asked once");
    let seen = admin.get("/v1/spaces/lab/approvals?state=pending").await.expect(200);
    assert_eq!(seen["items"].as_array().unwrap().len(), 1);
    assert_eq!(seen["items"][0], admin.get(&at(&asked)).await.expect(200));
    assert_eq!(seen["items"][0]["summary"], "bash: ls");
    let dora = lab.actor("dora", &[("developer", Some("lab"))]).await;
    let said = dora.post(&at(&asked), json!({"allow": true, "reason": "fine"})).await.expect(200);
    assert_eq!(
        (&said["state"], &said["decided_by"], &said["decision_reason"]),
        (&json!("allowed"), &json!("dora"), &json!("fine"))
    );
    let late = admin.post(&at(&asked), json!({"allow": false})).await.refused(409, "invalid_state");
    let detail = late["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("the approval was allowed by dora at 20")
            && detail.ends_with("a decision is made once"),
        "{detail}"
    );
    assert_eq!(admin.get(&at(&asked)).await.expect(200)["state"], "allowed");
    let listed = admin.get("/v1/spaces/lab/sessions/s/approvals?state=allowed").await.expect(200);
    assert_eq!(listed["items"][0]["id"], json!(asked.id));
    // What the session's watchers see, and the space's, is the same change.
    let log = admin.get("/v1/spaces/lab/sessions/s/events?after=0&no_follow=true").await.text();
    let (requested, decided) =
        (log.find("event: approval.requested").unwrap(), log.find("event: approval.decided").unwrap());
    assert!(requested < decided && log[decided..].contains("\"by\":\"dora\""), "{log}");
    let audit = admin.get("/v1/audit?resource=approvals&verb=approve").await.expect(200);
    let entry = &audit["items"][0];
    assert_eq!(
        (entry["principal"].as_str().unwrap().ends_with("dora"), &entry["detail"]["decision"]),
        (true, &json!("allowed")),
        "{audit}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_own_hand_cannot_approve_what_the_agent_does() {
    let lab = Lab::new().await;
    let admin = furnished(&lab).await;
    let bot = lab.actor("bot", &[("developer", Some("lab"))]).await;
    bot.post("/v1/spaces/lab/sessions", json!({"name": "own"})).await.expect(201);
    let asked = lab.ask(&admin, "own", "k", 60).await;
    let path = format!("/v1/spaces/lab/sessions/own/approvals/{}", asked.id);
    let refused = bot.post(&path, json!({"allow": true})).await.refused(403, "forbidden");
    assert!(refused["detail"].as_str().unwrap().contains("cannot approve itself"), "{refused}");
    let agent = lab.actor("alan", &[("agent", Some("lab"))]).await;
    agent.post(&path, json!({"allow": true})).await.refused(404, "not_found");
    let audit = admin.get("/v1/audit?resource=approvals&outcome=denied").await.expect(200);
    assert_eq!(audit["items"].as_array().unwrap().len(), 2);
    assert_eq!(admin.get(&path).await.expect(200)["state"], "pending");
    // Of another's session it may decide.
    let other = lab.ask(&admin, "s", "k", 60).await;
    assert_eq!(bot.post(&at(&other), json!({"allow": false})).await.expect(200)["state"], "denied");
    admin.post(&path, json!({"allow": true})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_too_late_is_told_that_it_ran_out() {
    let lab = Lab::new().await;
    let admin = furnished(&lab).await;
    let asked = lab.ask(&admin, "s", "k", 1).await;
    lab.db.clock.advance(Duration::from_secs(5));
    let said = admin.post(&at(&asked), json!({"allow": true})).await.expect(200);
    assert_eq!((&said["state"], &said["decided_by"]), (&json!("expired"), &Value::Null));
    let late = admin.post(&at(&asked), json!({"allow": true})).await.refused(409, "invalid_state");
    assert!(late["detail"].as_str().unwrap().starts_with("the approval ran out at "), "{late}");
    admin.get("/v1/spaces/lab/sessions/s/approvals/none").await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_ends_what_nobody_decides_and_a_turns_end_what_it_asked_for() {
    let lab = Lab::new().await;
    let admin = furnished(&lab).await;
    let asked = lab.ask(&admin, "s", "k", 2).await;
    let (store, stop) = (lab.store.clone(), lab.app.stop.clone());
    let task = tokio::spawn(async move { wharf_operator::approvals::run(store, stop).await });
    let state =
        async |a: &Approval| admin.get(&at(a)).await.expect(200)["state"].as_str().unwrap().to_owned();
    crate::lab::until(async || state(&asked).await == "expired").await;
    task.abort();
    // A turn that runs takes what it asked for along.
    admin.post("/v1/spaces/lab/sessions/s/messages", json!({"content": "x"})).await.expect(202);
    let mut owner = lab.db.owner().await;
    sqlx::query(
        "update turns set state = 'running', started_at = now(), deadline_at = now() + interval '1 hour'",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    let asked = lab.ask(&admin, "s", "in a turn", 86_400).await;
    assert!(
        asked.turn.is_some() && asked.expires_at < lab.store.now().plus(Duration::from_secs(4000)),
        "no longer than its turn"
    );
    sqlx::query("update turns set state = 'cancelled', ended_at = now()").execute(&mut owner).await.unwrap();
    assert_eq!(state(&asked).await, "cancelled");
    let late = admin.post(&at(&asked), json!({"allow": true})).await.refused(409, "invalid_state");
    assert!(late["detail"].as_str().unwrap().contains("its turn ended"), "{late}");
}
