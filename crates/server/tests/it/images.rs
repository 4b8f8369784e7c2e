//! Images over the API.

use axum::body::Body;
use http::Method;
use serde_json::json;

use crate::lab::{Caller, Lab, until};

async fn import(caller: &Caller, name: &str, archive: &str) -> crate::lab::Answer {
    let request = caller
        .request(Method::POST, &format!("/v1/spaces/lab/images?name={name}"))
        .header("content-type", "application/x-tar")
        .body(Body::from(archive.to_owned()))
        .unwrap();
    caller.send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_image_is_there_for_the_next_session_and_gone_when_nobody_needs_it() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    let made = import(&admin, "mine", "an archive").await.expect(201);
    assert_eq!(made["name"], "mine");
    assert_eq!(made["size_bytes"], 10);
    let all = admin.get("/v1/spaces/lab/images").await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
    let session =
        admin.post("/v1/spaces/lab/sessions?wait=ready", json!({"image": "mine"})).await.expect(201);
    assert_eq!(session["image"]["digest"], made["digest"]);
    admin.delete("/v1/spaces/lab/images/mine").await.refused(409, "in_use");
    let id = session["id"].as_str().unwrap();
    admin.delete(&format!("/v1/spaces/lab/sessions/{id}")).await.expect(202);
    until(|| async { admin.delete("/v1/spaces/lab/images/mine").await.status == 204 }).await;
    admin.get("/v1/spaces/lab/images/mine").await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_archive_is_refused_with_the_reason() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    let problem = import(&admin, "bad", "not a tar").await.refused(422, "unsupported");
    assert!(problem["detail"].as_str().unwrap().contains("not a tar archive"), "{problem}");
    import(&admin, "empty", "").await.refused(422, "invalid_field");
    admin.post("/v1/spaces/lab/images?name=json", json!({})).await.refused(415, "unsupported_media_type");
    let viewer = lab.actor("vera", &[("viewer", Some("lab"))]).await;
    import(&viewer, "mine", "an archive").await.refused(403, "forbidden");
    assert_eq!(
        std::fs::read_dir(lab.app.settings.spool_dir()).map_or(0, Iterator::count),
        0,
        "nothing stays behind"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_in_pages() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    import(&admin, "aaa", "1").await.expect(201);
    let first = admin.get("/v1/spaces/lab/images?limit=1").await.expect(200);
    assert_eq!(first["items"][0]["name"], "aaa");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = admin.get(&format!("/v1/spaces/lab/images?limit=1&cursor={cursor}")).await.expect(200);
    assert_eq!(second["items"][0]["name"], "base");
    assert!(second["next_cursor"].is_null());
}
