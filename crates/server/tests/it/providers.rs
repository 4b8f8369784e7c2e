//! Model providers and what is used of them, as the API shows them.

use http::Method;
use serde_json::json;

use crate::lab::{Caller, Lab};

async fn with_key(lab: &Lab) -> Caller {
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    admin.post("/v1/spaces/lab/secrets", json!({"name": "key", "value": "sk-canary"})).await.expect(201);
    admin
}

const AT: &str = "/v1/spaces/lab/providers";

#[tokio::test(flavor = "multi_thread")]
async fn the_vendors_names_are_enough_and_the_key_is_never_shown() {
    let lab = Lab::new().await;
    let admin = with_key(&lab).await;
    let made = admin.post(AT, json!({"name": "anthropic", "secret": "key"})).await.expect(201);
    assert_eq!(made["protocol"], "anthropic");
    assert_eq!(
        (&made["base_url"], &made["key_header"]),
        (&json!("https://api.anthropic.com"), &json!("x-api-key"))
    );
    assert_eq!((&made["retries"], &made["secret"]), (&json!(2), &json!("key")));
    let made = admin.post(AT, json!({"name": "openai", "secret": "key"})).await.expect(201);
    assert_eq!(
        (&made["base_url"], &made["key_header"]),
        (&json!("https://api.openai.com"), &json!("authorization"))
    );
    let list = admin.get(AT).await;
    assert!(!list.text().contains("sk-canary"));
    assert_eq!(list.expect(200)["items"].as_array().unwrap().len(), 2);
    admin.delete("/v1/spaces/lab/secrets/key").await.refused(409, "in_use");
    admin.delete(&format!("{AT}/openai")).await.expect(204);
    admin.get(&format!("{AT}/openai")).await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_with_the_field_at_fault() {
    let lab = Lab::new().await;
    let admin = with_key(&lab).await;
    for (body, code, field) in [
        (json!({"name": "mine"}), "invalid_field", "protocol"),
        (json!({"name": "anthropic", "secret": "none"}), "invalid_reference", "secret"),
        (json!({"name": "anthropic", "base_url": "api.anthropic.com"}), "invalid_field", "base_url"),
        (json!({"name": "demo", "protocol": "scripted"}), "invalid_field", "script"),
        (json!({"name": "anthropic", "headers": {"x-api-key": "sk"}}), "invalid_field", "headers"),
        (json!({"name": "anthropic", "retries": 11}), "invalid_field", "retries"),
        (json!({"name": "guard", "protocol": "openai"}), "invalid_field", "name"),
        (json!({"name": "anthropic", "prices": {"x": {"input": 3}}}), "unknown_field", "prices.x.input"),
    ] {
        let refused = admin.post(AT, body.clone()).await.refused(422, code);
        assert_eq!(refused["field"], field, "{body}: {refused}");
    }
    assert_eq!(admin.get(AT).await.expect(200)["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_changed_piece_by_piece() {
    let lab = Lab::new().await;
    let admin = with_key(&lab).await;
    let price = |n: u64| json!({"input_micro_usd": n, "output_micro_usd": n});
    let body = json!({"name": "openai", "secret": "key", "base_url": "https://h/v1", "models": ["gpt-*"],
        "headers": {"X-One": "1", "x-two": "2"}, "prices": {"a": price(1), "b": price(2)},
        "budget": {"tokens_per_day": 5, "tokens_per_session": 6}});
    let made = admin.post(AT, body).await.expect(201);
    assert_eq!(made["headers"], json!({"x-one": "1", "x-two": "2"}));
    let patch = json!({"base_url": null, "secret": null, "headers": {"x-one": null, "x-three": "3"},
        "prices": {"a": {"output_micro_usd": 9}, "b": null, "c": price(3)}, "budget": {"tokens_per_day": null}, "models": []});
    let at = format!("{AT}/openai");
    let version = format!("\"{}\"", made["resource_version"]);
    let changed =
        admin.call(Method::PATCH, &at, Some(patch.clone()), &[("if-match", &version)]).await.expect(200);
    assert_eq!(changed["base_url"], "https://api.openai.com");
    assert_eq!(changed["secret"], json!(null));
    assert_eq!(changed["headers"], json!({"x-three": "3", "x-two": "2"}));
    assert_eq!(changed["prices"], json!({"a": {"input_micro_usd": 1, "output_micro_usd": 9}, "c": price(3)}));
    assert_eq!(changed["budget"], json!({"tokens_per_session": 6}));
    assert_eq!(changed["models"], json!([]));
    admin
        .call(Method::PATCH, &at, Some(patch), &[("if-match", &version)])
        .await
        .refused(412, "precondition_failed");
    // A price that is not whole is none.
    let half = json!({"prices": {"new": {"input_micro_usd": 1}}});
    admin.patch(&at, half).await.refused(422, "invalid_field");

    let script = |text: &str, repeat: bool| json!({"turns": [{"say": [{"type": "text", "text": text}]}], "repeat": repeat});
    let demo = json!({"name": "demo", "protocol": "scripted", "script": script("a", true)});
    admin.post(AT, demo).await.expect(201);
    let changed = admin.patch(&format!("{AT}/demo"), json!({"script": script("b", false)})).await.expect(200);
    assert_eq!(
        changed["script"],
        json!({"turns": [{"say": [{"type": "text", "text": "b"}]}]}),
        "replaced whole"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_shown_beside_its_limits() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    let quotas = json!({"model_tokens_per_day": 1000, "model_cost_micro_usd_per_day": 5_000_000, "egress_bytes_per_day": 9});
    admin.post("/v1/spaces", json!({"name": "lab", "quotas": quotas})).await.expect(201);
    let usage =
        admin.get("/v1/spaces/lab/usage?by=day,session&from=2026-01-01&to=2026-01-31").await.expect(200);
    assert_eq!(usage["model_tokens_per_day"], json!({"used": 0, "limit": 1000}));
    assert_eq!(usage["model_cost_micro_usd_per_day"]["limit"], 5_000_000);
    assert_eq!(usage["egress_bytes_per_day"], json!({"used": 0, "limit": 9}));
    assert_eq!(
        usage["models"],
        json!({"from": "2026-01-01", "to": "2026-01-31", "lines": [], "more": false})
    );
    for (query, field) in [
        ("by=week", "by"),
        ("from=yesterday", "from"),
        ("from=2026-02-01&to=2026-01-01", "from"),
        ("session=No%20Name", "session"),
    ] {
        let refused = admin.get(&format!("/v1/spaces/lab/usage?{query}")).await.expect(422);
        assert_eq!(refused["field"], field, "{refused}");
    }
    admin.get("/v1/spaces/lab/usage?session=none").await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_read_a_secret_cannot_have_it_sent_anywhere() {
    let lab = Lab::new().await;
    let admin = with_key(&lab).await;
    let olga = lab.actor("olga", &[("operator", Some("lab"))]).await;
    let refused = olga.post(AT, json!({"name": "mine", "protocol": "openai", "base_url": "https://olga.example", "secret": "key"})).await;
    let refused = refused.refused(403, "forbidden");
    assert_eq!(refused["field"], "secret", "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("read-values"), "{refused}");
    olga.post(AT, json!({"name": "open", "protocol": "openai", "base_url": "https://olga.example"}))
        .await
        .expect(201);
    olga.patch(&format!("{AT}/open"), json!({"secret": "key"})).await.refused(403, "forbidden");
    admin.post(AT, json!({"name": "anthropic", "secret": "key"})).await.expect(201);
    let path = format!("{AT}/anthropic");
    olga.patch(&path, json!({"base_url": "https://olga.example"})).await.refused(403, "forbidden");
    assert_eq!(
        olga.patch(&path, json!({"retries": 4})).await.expect(200)["retries"],
        4,
        "what moves no secret is hers"
    );
}
