//! The server about itself.

use http::Method;
use serde_json::json;

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_without_a_credential_and_tell_the_truth() {
    let lab = Lab::new().await;
    let nobody = lab.nobody();
    nobody.get("/livez").await.expect(200);
    nobody.get("/readyz").await.expect(200);
    assert_eq!(nobody.get("/version").await.expect(200)["name"], "wharf");
    lab.app.health.require("jailer", || async { Err("nobody listens".to_owned()) });
    let problem = nobody.get("/readyz").await.refused(503, "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("jailer: nobody listens"), "{problem}");
    nobody.get("/livez").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_is_not_ready() {
    let lab = Lab::new().await;
    lab.stopper.drain();
    lab.nobody().get("/readyz").await.refused(503, "unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_the_reference_are_served() {
    let lab = Lab::new().await;
    let document = lab.nobody().get("/openapi.json").await.expect(200);
    assert_eq!(document, wharf_server::document());
    let docs = lab.nobody().get("/docs/").await;
    assert_eq!(docs.status, 200);
    assert!(docs.text().contains("swagger"), "{}", docs.text());
    let script = lab.nobody().get("/docs/swagger-initializer.js").await;
    assert!(script.text().contains("/openapi.json"), "{}", script.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_request_id_of_its_own() {
    let lab = Lab::new().await;
    let one = lab.nobody().get("/livez").await.header("x-request-id").unwrap().to_owned();
    let two = lab.nobody().get("/nowhere").await.header("x-request-id").unwrap().to_owned();
    assert_ne!(one, two);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_kept_by_route_and_not_by_path() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.get("/v1/spaces/one-of-many").await.refused(404, "not_found");
    admin
        .call(Method::from_bytes(b"BREW").unwrap(), "/v1/spaces", None, &[])
        .await
        .refused(405, "method_not_allowed");
    let text = lab.app.metrics.encode().unwrap();
    assert!(
        text.contains(r#"wharf_http_requests_total{method="GET",route="/v1/spaces/{space}",status="404"} 1"#),
        "{text}"
    );
    assert!(text.contains(r#"method="other""#), "{text}");
    assert!(!text.contains("one-of-many"), "{text}");
    assert!(text.contains("wharf_http_requests_in_flight 0"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_never_cached() {
    let lab = Lab::new().await;
    let admin = lab.admin().await;
    admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
    let made = admin.post("/v1/spaces/lab/secrets", json!({"name": "key", "value": "hush"})).await;
    assert_eq!(made.header("cache-control"), Some("no-store"));
    assert!(!made.text().contains("hush"));
    let read = admin.get("/v1/spaces/lab/secrets/key").await;
    assert_eq!(read.header("cache-control"), Some("no-store"));
    assert!(!read.text().contains("hush"));
    let revealed = admin.call(Method::POST, "/v1/spaces/lab/secrets/key/reveal", None, &[]).await;
    assert_eq!(revealed.header("cache-control"), Some("no-store"));
    assert_eq!(revealed.expect(200)["value"], "hush");
    let audit = admin.get("/v1/audit?verb=read-values").await.expect(200);
    assert_eq!(audit["items"][0]["name"], "key");
    assert_eq!(audit["items"][0]["principal"], "user/admin");
}
