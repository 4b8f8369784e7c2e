//! Connections to ssh servers, as the API shows them. What a credential does is told in the gateway's tests.

use serde_json::json;

use crate::lab::{Caller, Lab};

const AT: &str = "/v1/spaces/lab/connections";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOjU6fH9v+hiXuGtK0zgvqvLgA5fD8rt7SpPC7zymVg6";
const PRINT: &str = "SHA256:XD4mm1PJhqLACObvMwjWspl0SEWTlFTkfAUcg4S2B6s";

async fn with_key(lab: &Lab) -> Caller {
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    admin.post("/v1/spaces/lab/secrets", json!({"name": "key", "value": "sk-canary"})).await.expect(201);
    admin
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_an_ssh_server_is_named_and_the_server_known_by_its_own() {
    let lab = Lab::new().await;
    let admin = with_key(&lab).await;
    let rule = json!({"host": "git.example.org", "path_prefix": "/team/"});
    let lines = [format!("git.example.org {KEY} comment"), format!("{PRINT}="), KEY.to_owned()];
    let inject = json!({"secret": "key", "ssh": {"host_keys": lines}});
    let made = admin.post(AT, json!({"name": "forge", "match": rule, "inject": inject})).await.expect(201);
    let expected = json!({"secret": "key", "ssh": {"host_keys": [PRINT, KEY], "push": false}});
    assert_eq!(made["inject"], expected, "once each, without hosts and comments");
    let at = format!("{AT}/forge");
    let inject = json!({"secret": "key", "ssh": {"user": "git", "host_keys": [PRINT], "push": true}});
    admin.patch(&at, json!({"inject": inject})).await.expect(200);
    let shown = admin.get(&at).await;
    assert!(!shown.text().contains("sk-canary"));
    assert_eq!(shown.expect(200)["inject"], inject);
    // Methods go with nothing of it, whichever of the two is changed.
    let refused = admin.patch(&at, json!({"match": {"host": "git.example.org", "methods": ["GET"]}})).await;
    assert_eq!(refused.refused(422, "invalid_field")["field"], "match.methods");
    let web = json!({"match": {"host": "git.example.org", "methods": ["GET"]}, "inject": {"secret": "key", "header": "x-key"}});
    let changed = admin.patch(&at, web).await.expect(200);
    assert_eq!(changed["inject"], json!({"secret": "key", "header": "x-key"}));
    admin.patch(&at, json!({"inject": inject})).await.refused(422, "invalid_field");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_ssh_server_could_be_spoken_to_with_is_refused_with_the_field_at_fault() {
    let lab = Lab::new().await;
    let admin = with_key(&lab).await;
    for (inject, field) in [
        (json!({"secret": "key", "ssh": {"user": "-oProxyCommand=x"}}), "inject.ssh.user"),
        (json!({"secret": "key", "ssh": {"host_keys": ["forge"]}}), "inject.ssh.host_keys[0]"),
        (json!({"secret": "key", "ssh": {"host_keys": [PRINT, &KEY[..60]]}}), "inject.ssh.host_keys[1]"),
        (json!({"secret": "key", "ssh": {"host_keys": vec![PRINT; 17]}}), "inject.ssh.host_keys"),
        (json!({"secret": "key", "ssh": {}, "basic": "git"}), "inject"),
    ] {
        let body = json!({"name": "forge", "match": {"host": "git.example.org"}, "inject": inject});
        let refused = admin.post(AT, body.clone()).await.refused(422, "invalid_field");
        assert_eq!(refused["field"], field, "{body}: {refused}");
    }
    assert_eq!(admin.get(AT).await.expect(200)["items"], json!([]));
}
