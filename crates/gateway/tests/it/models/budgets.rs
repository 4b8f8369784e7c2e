//! What a session may not do, in words that its own client library shows.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;
use wharf_domain::quota::Quotas;

use super::lab::Lab;
use super::peer::Peer;
use super::streams::{anthropic, ask, openai};

async fn cheap() -> Peer {
    Peer::always("200 OK", json!({"content": [], "usage": {"input_tokens": 60, "output_tokens": 50}})).await
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_refused_in_the_vendors_own_shape() {
    let peer = cheap().await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    lab.change("anthropic", |spec| spec.budget.tokens_per_day = Some(200)).await;
    for _ in 0..2 {
        assert_eq!(
            lab.post("/anthropic/v1/messages", &ask(false)).await.text().await.map(|_| ()).ok(),
            Some(())
        );
    }
    let answer = lab.post("/anthropic/v1/messages", &ask(true)).await;
    assert_eq!(answer.status(), 429);
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    assert_eq!(answer.headers()["x-should-retry"], "false");
    let error = answer.json().await;
    assert_eq!(error["type"], "error");
    assert_eq!(error["error"]["type"], "rate_limit_error");
    let said = error["error"]["message"].as_str().unwrap();
    for word in ["tokens_per_day", "provider anthropic", "220 of 200", "wharf provider update anthropic"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    assert_eq!(peer.heard().len(), 2, "the provider was not asked");
}

#[tokio::test]
async fn a_turn_has_a_budget_of_its_own_whatever_agent_answers_it() {
    let peer = cheap().await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    lab.change("anthropic", |spec| spec.budget.tokens_per_turn = Some(200)).await;
    // Outside of a turn there is none to count it under.
    let say = async || {
        let answer = lab.post("/anthropic/v1/messages", &ask(false)).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(say().await.0, 200);
    for seq in 1..=2 {
        let turn = lab.turn(seq).await;
        assert_eq!((say().await.0, say().await.0), (200, 200));
        let (status, said) = say().await;
        assert_eq!(status, 429, "{said}");
        for word in ["tokens_per_turn", "220 of 200", "--budget tokens_per_turn="] {
            assert!(said.contains(word), "{word} is not in {said}");
        }
        lab.end_turn(turn).await;
    }
    lab.change("anthropic", |spec| {
        spec.budget.tokens_per_turn = None;
        spec.budget.cost_micro_usd_per_turn = Some(1000);
    })
    .await;
    lab.turn(3).await;
    // 60 * 3 + 50 * 15 micro-dollars each.
    assert_eq!((say().await.0, say().await.0), (200, 200));
    let (status, said) = say().await;
    assert_eq!(status, 429);
    assert!(said.contains("cost_micro_usd_per_turn") && said.contains("1860 of 1000"), "{said}");
    assert_eq!(peer.heard().len(), 7);
}

#[tokio::test]
async fn requests_that_are_open_hold_their_part_of_a_limit_until_they_end() {
    let (heard, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, gate) = (heard.clone(), go_on.clone());
    let peer = Peer::new(move |_, _, mut line| {
        let (tell, gate) = (tell.clone(), gate.clone());
        async move {
            tell.notify_one();
            gate.notified().await;
            let usage = json!({"content": [], "usage": {"input_tokens": 1, "output_tokens": 1}});
            line.json("200 OK", &usage).await;
        }
    })
    .await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    lab.change("anthropic", |spec| spec.budget.tokens_per_day = Some(20)).await;
    let body = ask(false);
    let open = lab.post("/anthropic/v1/messages", &body);
    tokio::pin!(open);
    tokio::select! {
        _ = &mut open => panic!("nobody answered it"),
        () = heard.notified() => {}
    }
    let refused = lab.post("/anthropic/v1/messages", &body).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["x-should-retry"], "true", "it will be free again");
    let error = refused.json().await;
    let said = error["error"]["message"].as_str().unwrap();
    let held = body.to_string().len().div_ceil(4);
    assert!(said.contains("0 of 20 tokens") && said.contains(&format!("hold {held}")), "{said}");
    go_on.notify_one();
    assert_eq!(open.await.text().await.map(|_| ()).ok(), Some(()));
    go_on.notify_one();
    assert_eq!(lab.post("/anthropic/v1/messages", &body).await.status(), 200);
}

#[tokio::test]
async fn the_spaces_quota_is_named_as_the_spaces() {
    let peer = cheap().await;
    let quotas = Quotas { model_tokens_per_day: Some(100), ..Quotas::default() };
    let lab = Lab::with(quotas, &["127.0.0.1"]).await;
    lab.provider("openai", openai(&peer.url())).await;
    let body = json!({"model": "m", "messages": []});
    lab.post("/openai/v1/responses", &body).await.text().await.unwrap();
    let answer = lab.post("/openai/v1/responses", &body).await;
    assert_eq!(answer.status(), 429);
    let error = answer.json().await;
    assert_eq!(
        (&error["error"]["type"], &error["error"]["code"]),
        (&json!("insufficient_quota"), &json!("budget_exceeded"))
    );
    let said = error["error"]["message"].as_str().unwrap();
    assert!(
        said.contains("quota model_tokens_per_day of space lab") && said.contains("110 of 100"),
        "{said}"
    );
}

#[tokio::test]
async fn what_could_not_be_counted_is_refused_where_a_limit_says_it_must_be() {
    let peer = cheap().await;
    let lab = Lab::new().await;
    lab.provider("openai", openai(&peer.url())).await;
    let image = json!({"model": "m", "prompt": "a dog"});
    assert_eq!(lab.post("/openai/v1/images/generations", &image).await.status(), 200, "no limit, no harm");
    lab.change("openai", |spec| spec.budget.tokens_per_session = Some(1_000_000)).await;
    let refused = lab.post("/openai/v1/images/generations", &image).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.json().await["error"]["code"], "cannot_be_counted");

    lab.change("openai", |spec| spec.budget.cost_micro_usd_per_day = Some(1_000_000)).await;
    let chat = json!({"model": "unpriced", "messages": []});
    let refused = lab.post("/openai/v1/chat/completions", &chat).await;
    assert_eq!(refused.status(), 403);
    let said = refused.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.contains("unpriced has no price") && said.contains("--price"), "{said}");
    assert_eq!(peer.heard().len(), 1);
}

#[tokio::test]
async fn only_allowed_models_are_asked_however_they_are_named() {
    let peer = cheap().await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    lab.change("anthropic", |spec| spec.models = vec!["claude-haiku-*".into()]).await;
    let body = |model: &str| format!("{{\"model\": {model}, \"messages\": []}}");
    for (body, status) in [
        (body("\"claude-haiku-5\""), 200),
        (body("\"claude-opus-5\""), 403),
        (body("null"), 403),
        (body("\"claude-haiku-5\", \"model\": \"claude-opus-5\""), 400),
    ] {
        let answer = lab.send("/anthropic/v1/messages", &[], Some(body.clone())).await;
        assert_eq!(answer.status(), status, "{body}");
    }
    assert_eq!(peer.heard().len(), 1);
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_explained() {
    let lab = Lab::new().await;
    let answer = lab.post("/anthropic/v1/messages", &ask(false)).await;
    assert_eq!(answer.status(), 404);
    let error: Value = answer.json().await;
    assert_eq!(error["error"]["type"], "not_found_error");
    assert!(
        error["error"]["message"].as_str().unwrap().contains("wharf provider create anthropic"),
        "{error}"
    );
    let answer = lab.post("/Not%20A%20Name/v1/chat/completions", &ask(false)).await;
    assert_eq!(
        (answer.status().as_u16(), answer.json().await["error"]["code"].clone()),
        (404, json!("no_such_provider"))
    );
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_before_it_is_sent() {
    let peer = cheap().await;
    let lab = Lab::new().await;
    lab.provider("openai", openai(&peer.url())).await;
    let body = format!("{{\"model\": \"m\", \"x\": \"{}\"}}", "a".repeat(33 * 1024 * 1024));
    let answer = lab.send("/openai/v1/chat/completions", &[], Some(body)).await;
    assert_eq!(answer.status(), 413);
    assert!(answer.json().await["error"]["message"].as_str().unwrap().contains("MODEL_REQUEST_BYTES"));
    assert!(peer.heard().is_empty());
}

#[tokio::test]
async fn the_first_use_of_a_key_in_a_session_is_in_the_audit_log() {
    let peer = cheap().await;
    let lab = Lab::new().await;
    lab.provider("anthropic", anthropic(&peer.url())).await;
    for _ in 0..3 {
        lab.post("/anthropic/v1/messages", &ask(false)).await.text().await.unwrap();
    }
    let mut owner = lab.db.owner().await;
    let uses: Vec<String> = sqlx::query_scalar(
        "select principal_name || ' ' || resource_name || ' ' || (detail ->> 'provider') from audit_entries where verb = 'use'",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert_eq!(uses, ["gateway anthropic-key anthropic"]);
    let dump: String =
        sqlx::query_scalar("select coalesce(string_agg(a::text, ' '), '') from audit_entries a")
            .fetch_one(&mut owner)
            .await
            .unwrap();
    assert!(!dump.contains("sk-canary"));
}
