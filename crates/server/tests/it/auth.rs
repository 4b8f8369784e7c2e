//! Login, tokens and who may act as whom.

use http::Method;
use serde_json::json;

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_prolonged_until_somebody_uses_a_refresh_token_twice() {
    let lab = Lab::new().await;
    let nobody = lab.nobody();
    let body = json!({"username": "admin", "password": lab.password});
    let first = nobody.post("/v1/auth/login", body).await;
    assert_eq!(first.header("cache-control"), Some("no-store"));
    let first = first.expect(200);
    assert_eq!(first["token_type"], "Bearer");
    assert!((890..=900).contains(&first["expires_in_seconds"].as_u64().unwrap()), "{first}");
    let me = lab.with_token(first["access_token"].as_str().unwrap()).get("/v1/auth/me").await.expect(200);
    assert_eq!(me["principal"], "user/admin");

    let refresh = json!({"refresh_token": first["refresh_token"]});
    let second = nobody.post("/v1/auth/token", refresh.clone()).await.expect(200);
    let caller = lab.with_token(second["access_token"].as_str().unwrap());
    caller.get("/v1/auth/me").await.expect(200);
    nobody.post("/v1/auth/token", refresh).await.refused(401, "unauthenticated");
    caller.get("/v1/auth/me").await.refused(401, "unauthenticated");
    let next = json!({"refresh_token": second["refresh_token"]});
    nobody.post("/v1/auth/token", next).await.refused(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_out_ends_the_access_token_at_once() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.call(Method::POST, "/v1/auth/logout", None, &[]).await.expect(204);
    admin.get("/v1/auth/me").await.refused(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_locks_the_account_for_a_while() {
    let lab = Lab::new().await;
    let mut locked = None;
    for _ in 0..50 {
        let answer =
            lab.nobody().post("/v1/auth/login", json!({"username": "admin", "password": "guess"})).await;
        if answer.status == 429 {
            locked = Some(answer);
            break;
        }
        answer.refused(401, "unauthenticated");
    }
    let locked = locked.expect("a lock");
    assert!(locked.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    locked.refused(429, "rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_keys_are_those_that_sign() {
    use base64::Engine as _;
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    let token = admin.token.clone().unwrap();
    let head = token.split('.').next().unwrap();
    let head = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(head).unwrap();
    let head: serde_json::Value = serde_json::from_slice(&head).unwrap();
    assert_eq!(head["alg"], "EdDSA");
    let keys = lab.nobody().get("/.well-known/jwks.json").await.expect(200);
    let key = keys["keys"].as_array().unwrap().iter().find(|k| k["kid"] == head["kid"]).expect("the key");
    assert_eq!(
        (key["kty"].as_str(), key["crv"].as_str(), key["use"].as_str()),
        (Some("OKP"), Some("Ed25519"), Some("sig"))
    );
    assert!(key["d"].is_null(), "the private half stays here");
}

#[tokio::test(flavor = "multi_thread")]
async fn acting_as_somebody_leaves_both_names_in_the_log() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    admin.post("/v1/users", json!({"name": "una", "password": "long enough to pass"})).await.expect(201);
    admin
        .post("/v1/role-bindings", json!({"role": "developer", "principal": "user/una", "space": "lab"}))
        .await
        .expect(201);
    let pair =
        admin.post("/v1/auth/impersonate", json!({"principal": "user/una", "seconds": 60})).await.expect(200);
    assert!(pair["refresh_token"].is_null());
    let una = lab.with_token(pair["access_token"].as_str().unwrap());
    let me = una.get("/v1/auth/me").await.expect(200);
    assert_eq!(
        (me["principal"].as_str(), me["impersonator"].as_str()),
        (Some("user/una"), Some("user/admin"))
    );
    una.post("/v1/spaces/lab/secrets", json!({"name": "key", "value": "v"})).await.expect(201);
    una.get("/v1/users").await.refused(403, "forbidden");
    let log = admin.get("/v1/audit?verb=create&resource=secrets").await.expect(200);
    assert_eq!(log["items"][0]["principal"], "user/una");
    assert_eq!(log["items"][0]["impersonator"], "user/admin");
    una.post("/v1/auth/impersonate", json!({"principal": "user/admin", "seconds": 60}))
        .await
        .refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_less_than_its_owner_and_dies_with_it() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let bot = lab.actor("bot", &[("developer", Some("lab"))]).await;
    bot.post("/v1/spaces/lab/secrets", json!({"name": "key", "value": "v"})).await.expect(201);
    let rules = json!([{"groups": ["core"], "resources": ["secrets", "spaces"], "verbs": ["get", "list"]}]);
    let narrow = admin
        .post(
            "/v1/service-accounts/bot/tokens",
            json!({"name": "narrow", "rules": rules, "expires_in_seconds": 600}),
        )
        .await;
    assert_eq!(narrow.header("cache-control"), Some("no-store"));
    let narrow = narrow.expect(201);
    assert!(narrow["token"].as_str().unwrap().starts_with("wharf_"));
    let reader = lab.with_token(narrow["token"].as_str().unwrap());
    reader.get("/v1/spaces/lab/secrets/key").await.expect(200);
    reader.delete("/v1/spaces/lab/secrets/key").await.refused(403, "forbidden");
    let listed = admin.get("/v1/service-accounts/bot/tokens").await.expect(200).to_string();
    assert!(!listed.contains(narrow["token"].as_str().unwrap()));
    let id = narrow["id"].as_str().unwrap();
    admin.delete(&format!("/v1/service-accounts/bot/tokens/{id}")).await.expect(204);
    reader.get("/v1/spaces/lab/secrets/key").await.refused(401, "unauthenticated");
    admin.patch("/v1/service-accounts/bot", json!({"disabled": true})).await.expect(200);
    bot.get("/v1/auth/me").await.refused(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_review_names_the_binding() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let vera = lab.actor("vera", &[("viewer", Some("lab"))]).await;
    let ask = |verb: &str| json!({"verb": verb, "group": "sessions", "resource": "sessions", "space": "lab"});
    let yes = vera.post("/v1/access-review", ask("get")).await.expect(200);
    assert_eq!((yes["allowed"].as_bool(), yes["binding"].as_str()), (Some(true), Some("vera-viewer-lab")));
    let no = vera.post("/v1/access-review", ask("exec")).await.expect(200);
    assert_eq!(no["allowed"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_verified() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let verdict = admin.call(Method::POST, "/v1/audit/verify", None, &[]).await.expect(200);
    assert_eq!(verdict["ok"], true, "{verdict}");
    let page = admin.get("/v1/audit?limit=1").await.expect(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let cursor = page["next_cursor"].as_str().expect("more");
    let next = admin.get(&format!("/v1/audit?limit=1&cursor={cursor}")).await.expect(200);
    assert_ne!(next["items"][0]["id"], page["items"][0]["id"]);
}
