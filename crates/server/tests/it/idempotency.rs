//! The same key with the same body is done once and answered the same.

use http::Method;
use serde_json::json;

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_twice_makes_one_thing() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let key = [("idempotency-key", "once")];
    let make = || admin.call(Method::POST, "/v1/spaces/lab/sessions", Some(json!({})), &key);
    let first = make().await.expect(201);
    let again = make().await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.expect(201), first);
    let all = admin.get("/v1/spaces/lab/sessions").await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_body_under_the_same_key_is_refused() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    let make = |name: &str| {
        let (admin, body) = (admin.clone(), json!({"name": name}));
        async move { admin.call(Method::POST, "/v1/spaces", Some(body), &[("idempotency-key", "k")]).await }
    };
    make("one").await.expect(201);
    make("two").await.refused(409, "idempotency_mismatch");
    make("one").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_its_caller_and_its_route() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    let other = lab.actor("other", &[("admin", None)]).await;
    let key = [("idempotency-key", "k")];
    admin.call(Method::POST, "/v1/spaces", Some(json!({"name": "one"})), &key).await.expect(201);
    other.call(Method::POST, "/v1/spaces", Some(json!({"name": "two"})), &key).await.expect(201);
    admin.call(Method::POST, "/v1/service-accounts", Some(json!({"name": "one"})), &key).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_failed_may_be_tried_again_under_its_key() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let body = json!({"name": "x", "image": "late"});
    let key = [("idempotency-key", "k")];
    let make = || admin.call(Method::POST, "/v1/spaces/lab/sessions", Some(body.clone()), &key);
    make().await.refused(422, "invalid_reference");
    let archive = admin
        .request(Method::POST, "/v1/spaces/lab/images?name=late")
        .header("content-type", "application/x-tar")
        .body(axum::body::Body::from("archive"))
        .unwrap();
    admin.send(archive).await.expect(201);
    crate::lab::until(|| async { make().await.status == 201 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_under_one_key_make_one_thing() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    let tries = (0..12).map(|_| {
        let admin = admin.clone();
        tokio::spawn(async move {
            admin
                .call(Method::POST, "/v1/spaces", Some(json!({"name": "lab"})), &[("idempotency-key", "k")])
                .await
        })
    });
    let mut made = 0;
    for answer in tries.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        match answer.status.as_u16() {
            201 => made += 1,
            _ => {
                answer.refused(409, "in_progress");
            }
        }
    }
    assert!(made >= 1);
    let all = admin.get("/v1/spaces").await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
}

/// A token's secret part is not kept, so the first answer cannot be given again; nor is a second token made.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_shown_twice() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/service-accounts", json!({"name": "bot"})).await.expect(201);
    let key = [("idempotency-key", "k")];
    let path = "/v1/service-accounts/bot/tokens";
    admin.call(Method::POST, path, Some(json!({"name": "t"})), &key).await.expect(201);
    admin.call(Method::POST, path, Some(json!({"name": "t"})), &key).await.refused(409, "already_exists");
    let all = admin.get(path).await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_refused() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    let long = "k".repeat(256);
    for key in ["", "two words", &long] {
        let headers = [("idempotency-key", key)];
        let answer = admin.call(Method::POST, "/v1/spaces", Some(json!({"name": "lab"})), &headers).await;
        assert_eq!(answer.refused(422, "invalid_field")["field"], "Idempotency-Key");
    }
}
