//! Spaces, and what happens in them.

use http::Method;
use serde_json::json;

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn a_space_is_changed_piece_by_piece_and_only_at_the_version_seen() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    let made = admin
        .post("/v1/spaces", json!({"name": "lab", "labels": {"a": "1", "b": "2"}, "quotas": {"sessions": 3, "memory_mib": 4096}}))
        .await
        .expect(201);
    let version = format!("\"{}\"", made["resource_version"]);
    let patch = json!({"labels": {"a": null, "c": "3"}, "quotas": {"sessions": null, "cpu_millis": 500}});
    let changed = admin
        .call(Method::PATCH, "/v1/spaces/lab", Some(patch.clone()), &[("if-match", &version)])
        .await
        .expect(200);
    assert_eq!(changed["labels"], json!({"b": "2", "c": "3"}));
    assert_eq!(changed["quotas"]["sessions"], json!(null));
    assert_eq!(changed["quotas"]["cpu_millis"], 500);
    assert_eq!(changed["quotas"]["memory_mib"], 4096);
    admin
        .call(Method::PATCH, "/v1/spaces/lab", Some(patch), &[("if-match", &version)])
        .await
        .refused(412, "precondition_failed");
    let id = made["id"].as_str().unwrap();
    assert_eq!(admin.get(&format!("/v1/spaces/{id}")).await.expect(200)["name"], "lab");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_comes_in_pages_and_by_label() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    for n in 0..5 {
        let body = json!({"name": format!("s{n}"), "labels": {"odd": (n % 2).to_string()}});
        admin.post("/v1/spaces", body).await.expect(201);
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("/v1/spaces?limit=2{cursor}")).await.expect(200);
        names
            .extend(page["items"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["s0", "s1", "s2", "s3", "s4"]);
    let odd = admin.get("/v1/spaces?labels=odd=1").await.expect(200);
    assert_eq!(odd["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_shown_with_their_use_and_enforced() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab", "quotas": {"sessions": 1}})).await.expect(201);
    admin.post("/v1/spaces/lab/sessions", json!({})).await.expect(201);
    let usage = admin.get("/v1/spaces/lab/usage").await.expect(200);
    assert_eq!(usage["sessions"], json!({"used": 1, "limit": 1}));
    assert_eq!(usage["cpu_millis"]["limit"], json!(null));
    let full = admin.post("/v1/spaces/lab/sessions", json!({})).await.refused(422, "quota_exceeded");
    assert_eq!(full["field"], "sessions");
    admin.delete("/v1/spaces/lab").await.refused(409, "in_use");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spaces_defaults_are_what_its_sessions_get() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    let defaults = json!({"resources": {"memory_mib": 333}, "idle_timeout_seconds": 77});
    admin.post("/v1/spaces", json!({"name": "lab", "defaults": defaults})).await.expect(201);
    let made = admin.post("/v1/spaces/lab/sessions", json!({"resources": {"pids": 99}})).await.expect(201);
    assert_eq!(made["resources"]["memory_mib"], 333);
    assert_eq!(made["resources"]["pids"], 99);
    assert_eq!(made["idle_timeout_seconds"], 77);
    assert_eq!(made["image"]["name"], "base");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_space_resume_without_a_gap_or_a_repeat() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let secret = |n: i32| {
        let admin = admin.clone();
        async move {
            admin
                .post("/v1/spaces/lab/secrets", json!({"name": format!("s{n}"), "value": "v"}))
                .await
                .expect(201)
        }
    };
    for n in 0..4 {
        secret(n).await;
    }
    let mut all = admin.events("/v1/spaces/lab/events?after=0-0").await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(all.next().await.unwrap());
    }
    assert_eq!(seen[0].event, "space.created");
    assert!(seen[1..].iter().all(|e| e.event == "secret.created"), "{seen:?}");
    let middle = seen[2].id.clone().unwrap();
    let mut rest =
        admin.stream(Method::GET, "/v1/spaces/lab/events", None, &[("last-event-id", &middle)]).await;
    assert_eq!(rest.next().await.as_ref(), Some(&seen[3]));
    assert_eq!(rest.next().await.as_ref(), Some(&seen[4]));
    rest.silent().await;
    secret(9).await;
    let (live, later) = (all.next().await.unwrap(), rest.next().await.unwrap());
    assert_eq!(live, later);
    assert_eq!(live.data["name"], "s9");
    assert!(!live.data.to_string().contains("\"v\""), "{live:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_watch_sees_no_events() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let agent = lab.actor("alan", &[("agent", Some("lab"))]).await;
    agent.get("/v1/spaces/lab/events").await.refused(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_right_to_it() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let vera = lab.actor("vera", &[("viewer", Some("lab"))]).await;
    let mut events = vera.events("/v1/spaces/lab/events").await;
    admin.post("/v1/spaces/lab/secrets", json!({"name": "one", "value": "v"})).await.expect(201);
    assert_eq!(events.up_to("secret.created").await.pop().unwrap().data["name"], "one");
    admin.delete("/v1/role-bindings/vera-viewer-lab").await.expect(204);
    lab.db.clock.advance(std::time::Duration::from_secs(16));
    admin.post("/v1/spaces/lab/secrets", json!({"name": "two", "value": "v"})).await.expect(201);
    let told = events.next().await.unwrap();
    assert_eq!((told.event.as_str(), told.data["code"].as_str()), ("error", Some("not_found")));
    assert!(events.next().await.is_none());
}
