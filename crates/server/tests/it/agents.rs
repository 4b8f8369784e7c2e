//! Sessions with agents of one's own, alone and several together.

use serde_json::{Value, json};

use crate::lab::{Caller, Lab};

const SESSIONS: &str = "/v1/spaces/lab/sessions";

const AGENTS: &str = r#"
def front(message, context):
    if message.text == "who": return f"{context.agent} with {[a['name'] + ': ' + (a.get('description') or '') for a in context.agents]}"
    context.hand_over("back")
    return "one moment"

def back(message, context):
    said = [f"{m.agent or m.role}: {m.text}" for m in context.history()]
    return f"{context.agent} knows {said}"
"#;

async fn write_agents(admin: &Caller, session: &str) {
    admin
        .post(&format!("{SESSIONS}/{session}/exec"), json!({"command": "cat > team.py", "stdin": AGENTS}))
        .await
        .expect(200);
}

fn texts(said: &Value) -> Vec<(String, String)> {
    said["replies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            (
                m["agent"].as_str().unwrap_or_default().to_owned(),
                m["content"][0]["text"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_agents_are_addressed_hand_over_and_sign() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    let body = json!({
        "name": "team",
        "agents": [
            {"name": "front", "kind": "python", "entry": "team:front", "description": "listens"},
            {"name": "back", "kind": "python", "entry": "team:back", "description": "knows"},
            {"name": "sh", "kind": "shell"},
        ],
    });
    let made = admin.post(&format!("{SESSIONS}?wait=ready"), body).await.expect(201);
    assert_eq!((&made["agent"]["name"], made["agents"].as_array().unwrap().len()), (&json!("front"), 3));
    write_agents(&admin, "team").await;
    let messages = format!("{SESSIONS}/team/messages");

    let said = admin.post(&format!("{messages}?wait=done"), json!({"content": "who"})).await.expect(202);
    assert_eq!(
        texts(&said),
        [("front".into(), "front with ['front: listens', 'back: knows', 'sh: ']".into())],
        "{said}"
    );
    let said = admin.post(&format!("{messages}?wait=done"), json!({"content": "hello"})).await.expect(202);
    let all = texts(&said);
    assert_eq!((all[0].0.as_str(), all[1].0.as_str()), ("front", "back"), "{said}");
    assert!(all[1].1.ends_with("'user: hello', 'front: one moment']"), "{said}");
    let asked = json!({"content": "echo $((6 * 7))", "to": "sh"});
    let said = admin.post(&format!("{messages}?wait=done"), asked).await.expect(202);
    assert_eq!((said["to"].as_str(), texts(&said)), (Some("sh"), vec![("sh".into(), "42\n".into())]));

    let log = admin.get(&format!("{SESSIONS}/team/events?after=0&no_follow=true")).await;
    let log = log.text();
    assert!(log.contains("turn.handover") && log.contains(r#"{"from":"front","to":"back"}"#), "{log}");
    let problem = admin
        .post(&messages, json!({"content": "x", "to": "nobody"}))
        .await
        .refused(422, "invalid_reference");
    assert!(problem["detail"].as_str().unwrap().contains("front, back, sh"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_be_run_is_refused_before_there_is_a_session() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    for (body, field) in [
        (json!({"agent": {"kind": "python", "entry": "agent.py"}}), "agent.entry"),
        (json!({"agent": {"kind": "python", "argv": ["x"]}}), "agent.argv"),
        (json!({"agent": {"kind": "acp"}}), "agent.argv"),
        (json!({"agent": {"kind": "shell", "entry": "x"}}), "agent.entry"),
        (json!({"agent": {"kind": "node", "entry": "a.mjs", "cwd": ""}}), "agent.cwd"),
        (json!({"agents": [{"kind": "shell"}]}), "agents.0.name"),
        (
            json!({"agent": {"kind": "shell"}, "agents": [{"name": "shell", "kind": "shell"}]}),
            "agents.0.name",
        ),
        (json!({"agents": [{"name": "a", "kind": "node"}]}), "agents.0.entry"),
    ] {
        let problem = admin.post(SESSIONS, body.clone()).await.refused(422, "invalid_field");
        assert_eq!(problem["field"], field, "{body} {problem}");
    }
    // One agent may be named without becoming several.
    let one = json!({"name": "one", "agents": [{"name": "solo", "kind": "shell"}]});
    let made = admin.post(&format!("{SESSIONS}?wait=ready"), one).await.expect(201);
    assert_eq!((&made["agent"]["name"], made.get("agents")), (&json!("solo"), None));
    let said = json!({"content": "echo hi", "to": "solo"});
    let said = admin.post(&format!("{SESSIONS}/one/messages?wait=done"), said).await.expect(202);
    assert_eq!(texts(&said)[0].1, "hi\n");
}
