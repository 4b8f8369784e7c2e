//! Every operation of the document, called as nobody, as a stranger and as somebody who may less.

use http::Method;
use serde_json::{Value, json};

use wharf_domain::rbac::Verb;
use wharf_store::published::NewPublished;

use crate::lab::{Caller, Lab};
use crate::openapi::operations;

/// Something valid to say to an operation that takes a body.
pub fn body(operation: &str) -> Option<Value> {
    Some(match operation {
        "login" => json!({"username": "admin", "password": "wrong"}),
        "refresh" => json!({"refresh_token": "wharfr_wrong"}),
        "impersonate" => json!({"principal": "user/admin", "seconds": 60}),
        "review_access" => json!({"verb": "get", "group": "sessions", "resource": "sessions"}),
        "create_user" => json!({"name": "new", "password": "long enough to pass"}),
        "create_agent" | "create_service_account" | "create_space" | "create_token" | "create_repo" => {
            json!({"name": "new"})
        }
        "create_role" => {
            json!({"name": "new", "rules": [{"groups": ["core"], "resources": ["*"], "verbs": ["get"]}]})
        }
        "create_role_binding" => json!({"role": "viewer", "principal": "user/admin", "space": "lab"}),
        "activate_agent_version" => json!({"version": 1}),
        "start_build" => json!({"git": {"url": "https://git.invalid/x.git"}}),
        "create_secret" => json!({"name": "new", "value": "v"}),
        "create_provider" => json!({"name": "new", "protocol": "openai"}),
        "patch_secret" => json!({"value": "w"}),
        "create_connection" => {
            json!({"name": "new", "match": {"host": "api.example"}, "inject": {"header": "x-key", "secret": "key"}})
        }
        "create_policy" => json!({"name": "new", "rules": [{"phase": "tool", "action": "deny"}]}),
        "decide_approval" => json!({"allow": true}),
        "post_message" => json!({"content": "true"}),
        "create_port_link" => json!({"port": 80}),
        "publish" => json!({"paths": ["/tmp/x"]}),
        "link_published" => json!({}),
        "exec" => json!({"argv": ["true"]}),
        "signal_process" => json!({"signal": "TERM"}),
        "write_stdin" => json!({"data": "x"}),
        "post_file" => json!({"op": "mkdir"}),
        id if id.starts_with("patch_") || id.starts_with("create_") => json!({}),
        _ => return None,
    })
}

pub struct Things {
    pub token: String,
    pub build: String,
    pub approval: String,
}

/// One of everything, so that a refusal is about rights and not about things that are not there.
pub async fn furnish(lab: &Lab) -> Things {
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    admin.post("/v1/spaces/lab/secrets", json!({"name": "key", "value": "v"})).await.expect(201);
    admin.post("/v1/spaces/lab/providers", json!({"name": "anthropic", "secret": "key"})).await.expect(201);
    let connection =
        json!({"name": "api", "match": {"host": "api.example"}, "inject": {"basic": "x", "secret": "key"}});
    admin.post("/v1/spaces/lab/connections", connection).await.expect(201);
    admin.post("/v1/users", json!({"name": "una", "password": "long enough to pass"})).await.expect(201);
    admin.post("/v1/service-accounts", json!({"name": "bot"})).await.expect(201);
    let token = admin.post("/v1/service-accounts/bot/tokens", json!({"name": "one"})).await.expect(201);
    let rules = json!([{"groups": ["core"], "resources": ["*"], "verbs": ["get"]}]);
    admin.post("/v1/roles", json!({"name": "looker", "rules": rules})).await.expect(201);
    let binding = json!({"name": "una-looks", "role": "looker", "principal": "user/una", "space": "lab"});
    admin.post("/v1/role-bindings", binding).await.expect(201);
    admin.post("/v1/spaces/lab/sessions", json!({"name": "s"})).await.expect(201);
    admin.post("/v1/spaces/lab/sessions/s/messages", json!({"content": "true"})).await.expect(202);
    admin.post("/v1/spaces/lab/sessions/s/snapshots", json!({"name": "snap"})).await.expect(201);
    admin.post("/v1/spaces/lab/repos", json!({"name": "demo"})).await.expect(201);
    admin.post("/v1/spaces/lab/agents", json!({"name": "helper"})).await.expect(201);
    let source = json!({"git": {"url": "https://git.invalid/x.git"}});
    let build = admin.post("/v1/spaces/lab/agents/helper/build", source).await.expect(202);
    publish(lab, admin.token.as_deref().unwrap()).await;
    let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
    let policy = json!({"name": "careful", "rules": [{"phase": "tool", "action": "approve"}]});
    admin.post("/v1/spaces/lab/policies", policy).await.expect(201);
    let approval = lab.ask(&admin, "s", "walk", 600).await.id.to_string();
    Things { token: id(&token), build: id(&build), approval }
}

/// A published copy without a computer to copy from.
async fn publish(lab: &Lab, token: &str) {
    let credential = wharf_store::Credential::Bearer(wharf_domain::Plain::new(token));
    let meta = wharf_store::RequestMeta { request_id: wharf_domain::RequestId::new(), address: None };
    let caller = lab.store.authenticate(credential, meta).await.unwrap();
    let mut scope = lab.store.scope(&caller, &"lab".parse().unwrap()).await.unwrap();
    let permit = scope.sessions().permit(&"s".parse().unwrap(), Verb::Publish).await.unwrap();
    let leaks = scope.published().leaks(&permit).await.unwrap();
    let mut copier = lab.store.copier(leaks);
    let mut file = copier.file("a.txt".to_owned(), "/a.txt".to_owned()).unwrap();
    file.write(b"hello").await.unwrap();
    file.finish().await.unwrap();
    let new = NewPublished {
        name: Some("copy".parse().unwrap()),
        public: false,
        paths: vec!["/a.txt".to_owned()],
        labels: wharf_domain::Labels::default(),
        expires_at: None,
    };
    scope.published().create(&permit, new, copier.finish()).await.unwrap();
    scope.commit().await.unwrap();
}

pub fn path(template: &str, things: &Things) -> String {
    template
        .replace("{space}", "lab")
        .replace("{session}", "s")
        .replace("{secret}", "key")
        .replace("{provider}", "anthropic")
        .replace("{policy}", "careful")
        .replace("{approval}", &things.approval)
        .replace("{connection}", "api")
        .replace("{user}", "una")
        .replace("{service_account}", "bot")
        .replace("{token}", &things.token)
        .replace("{role}", "looker")
        .replace("{role_binding}", "una-looks")
        .replace("{repo}", "demo")
        .replace("{image}", "base")
        .replace("{agent}", "helper")
        .replace("{build}", &things.build)
        .replace("{version}", "1")
        .replace("{published}", "copy")
        .replace("{link}", "nonsense")
        .replace("{port}", "80")
        .replace("{snapshot}", "snap")
        .replace("{process}", "1")
        .replace("{seq}", "2")
        .replace("{path}", "tmp/x")
}

/// Calls an operation and answers status and code of its refusal.
pub async fn call(
    caller: &Caller,
    template: &str,
    method: &str,
    operation: &Value,
    things: &Things,
) -> (u16, String) {
    let id = operation["operationId"].as_str().unwrap();
    let mut path = path(template, things);
    let mut headers = Vec::new();
    if id == "import_image" {
        path.push_str("?name=new");
        headers.push(("content-type", "application/x-tar"));
    }
    if method == "delete" {
        // Of no version there is: who may delete is told so, and the thing stays.
        headers.push(("if-match", "\"999999\""));
    }
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
    let answer = caller.call(method, &path, body(id), &headers).await;
    let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
    (answer.status.as_u16(), code)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_401_from_everything() {
    let lab = Lab::new().await;
    let things = furnish(&lab).await;
    for (path, method, operation) in operations(&wharf_server::document()) {
        let at = format!("{method} {path}");
        let public = operation["x-wharf-permit"]["access"] == "public";
        let got = call(&lab.nobody(), &path, &method, &operation, &things).await;
        if public {
            // Probes and keys answer; where credentials come from, wrong ones are refused.
            let because = operation["x-wharf-permit"]["because"].as_str();
            assert!(because.is_some_and(|b| !b.is_empty()), "{at} is public without a reason");
            // An address that is a credential is not there where it is a wrong one.
            let wrong = if at.contains("{link}") { (404, "not_found") } else { (401, "unauthenticated") };
            assert!(got.0 == 200 || (got.0, got.1.as_str()) == wrong, "{at}: {got:?}");
        } else {
            assert_eq!(got, (401, "unauthenticated".to_owned()), "{at}");
        }
    }
}

/// Operations a caller without any right may use, and why.
const ABOUT_ONESELF: [(&str, &str); 5] = [
    ("logout", "ends the caller's own login"),
    ("me", "is about the caller"),
    ("review_access", "is about the caller"),
    ("list_runtimes", "is about the installation"),
    ("list_spaces", "shows the spaces the caller may know of: none"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_learns_of_nothing() {
    let lab = Lab::new().await;
    let things = furnish(&lab).await;
    let stranger = lab.actor("stranger", &[]).await;
    for (path, method, operation) in operations(&wharf_server::document()) {
        let at = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap();
        if operation["x-wharf-permit"]["access"] == "public"
            || ABOUT_ONESELF.iter().any(|(own, _)| *own == id)
        {
            continue;
        }
        let got = call(&stranger, &path, &method, &operation, &things).await;
        // What has a name is not there; what has none (a global list, a creation) is forbidden.
        let named = path.contains('{') || id == "impersonate";
        let wanted = if named { (404, "not_found") } else { (403, "forbidden") };
        assert_eq!((got.0, got.1.as_str()), wanted, "{at}");
    }
    let spaces = stranger.get("/v1/spaces").await.expect(200);
    assert_eq!(spaces["items"], json!([]));
    let me = stranger.get("/v1/auth/me").await.expect(200);
    assert_eq!(me["grants"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_may_look_and_nothing_else() {
    let lab = Lab::new().await;
    let things = furnish(&lab).await;
    let viewer = lab.actor("vera", &[("viewer", Some("lab"))]).await;
    for (path, method, operation) in operations(&wharf_server::document()) {
        let at = format!("{method} {path}");
        let permit = &operation["x-wharf-permit"];
        let id = operation["operationId"].as_str().unwrap();
        if !matches!(permit["access"].as_str(), Some("space")) || method == "get" {
            continue;
        }
        assert!(
            !matches!(permit["verb"].as_str(), Some("get" | "list" | "watch")),
            "{at} changes something by reading"
        );
        let got = call(&viewer, &path, &method, &operation, &things).await;
        assert_eq!((got.0, got.1.as_str()), (403, "forbidden"), "{at} ({id})");
    }
}
