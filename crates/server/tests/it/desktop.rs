//! The desktop of a session: who may look, who may touch, and what is said where there is none.

use crate::lab::{Lab, SOON};

const DESK: &str = "/v1/spaces/lab/sessions/desk";

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_desktop_is_named() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let problem = admin.get(&format!("{DESK}/screenshot")).await.refused(422, "unsupported");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("image base has no desktop") && detail.contains("image desktop"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_is_a_websocket_and_a_picture_is_asked_for_strictly() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let problem = admin.get(&format!("{DESK}/desktop")).await.refused(422, "invalid_field");
    assert!(problem["detail"].as_str().unwrap().contains("WebSocket"), "{problem}");
    admin.get(&format!("{DESK}/desktop?mode=own")).await.refused(422, "invalid_field");
    for (query, code) in [
        ("region=1,2,3", "invalid_field"),
        ("region=0,0,0,0", "invalid_field"),
        ("scale=100", "invalid_field"),
        ("scale=NaN", "invalid_field"),
        ("settle=99999999", "invalid_field"),
        ("zoom=2", "unknown_field"),
    ] {
        admin.get(&format!("{DESK}/screenshot?{query}")).await.refused(422, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_look_neither_touches_nor_wakes() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let viewer = lab.actor("vera", &[("viewer", Some("lab"))]).await;
    viewer.get(&format!("{DESK}/desktop?mode=control")).await.refused(403, "forbidden");
    viewer.get(&format!("{DESK}/desktop")).await.refused(403, "forbidden");
    viewer.get(&format!("{DESK}/desktop?mode=view")).await.refused(422, "invalid_field");
    // The computer runs; its image has no desktop, and that is what the viewer is told.
    viewer.get(&format!("{DESK}/screenshot")).await.refused(422, "unsupported");
    admin.call(http::Method::POST, &format!("{DESK}/close"), None, &[]).await.expect(202);
    let closed = tokio::time::Instant::now() + SOON;
    while admin.get(DESK).await.expect(200)["state"] != "closed" {
        assert!(tokio::time::Instant::now() < closed, "it does not close");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    viewer.get(&format!("{DESK}/screenshot")).await.refused(409, "invalid_state");
    assert_eq!(admin.get(DESK).await.expect(200)["state"], "closed");
    // Who may run commands wakes it by looking.
    admin.get(&format!("{DESK}/screenshot")).await.refused(422, "unsupported");
    assert_eq!(admin.get(DESK).await.expect(200)["state"], "idle");
}
