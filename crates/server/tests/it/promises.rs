//! What a runtime cannot keep is refused when it is asked for.

use serde_json::json;
use wharf_ports::runtime::Capabilities;

use crate::lab::Lab;

const SESSIONS: &str = "/v1/spaces/lab/sessions";

/// A runtime that keeps everything.
fn all() -> Capabilities {
    Capabilities {
        runtime: "native".into(),
        cgroups: "v2".into(),
        volumes: "btrfs".into(),
        cpu_limit: true,
        memory_limit: true,
        pids_limit: true,
        disk_limit: true,
        resizes_running: true,
        waives_disk_limit: false,
        cheap_snapshots: true,
        freeze: true,
        root_is_nobody: true,
        waives_user_namespaces: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_cannot_be_kept_is_refused_by_its_name() {
    for (promises, field) in [
        (Capabilities { cpu_limit: false, ..all() }, Some("resources.cpu_millis")),
        (Capabilities { memory_limit: false, ..all() }, Some("resources.memory_mib")),
        (Capabilities { pids_limit: false, ..all() }, Some("resources.pids")),
        (Capabilities { disk_limit: false, ..all() }, Some("resources.disk_mib")),
        (Capabilities { disk_limit: false, waives_disk_limit: true, ..all() }, None),
        (all(), None),
    ] {
        let lab = Lab::at_work().await;
        let admin = lab.admin().await;
        // Before anybody asked it was not known what it can.
        lab.desk.promise(promises);
        let made = admin.post(SESSIONS, json!({"name": "desk"})).await;
        let Some(field) = field else {
            made.expect(201);
            continue;
        };
        let problem = made.refused(422, "unsupported");
        assert!(problem.to_string().contains(field), "{problem}");
        let listed = admin.get(SESSIONS).await.expect(200);
        assert_eq!(listed["items"], json!([]), "nothing was made");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_limit_that_cannot_change_while_it_runs_changes_while_it_is_closed() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.desk.promise(Capabilities { resizes_running: false, ..all() });
    lab.session(&admin, "desk").await;
    let one = format!("{SESSIONS}/desk");
    let more = json!({"resources": {"disk_mib": 4321}});
    let problem = admin.patch(&one, more.clone()).await.refused(422, "unsupported");
    assert!(problem["detail"].as_str().unwrap().contains("close it first"), "{problem}");
    admin.call(http::Method::POST, &format!("{one}/close"), None, &[]).await.expect(202);
    crate::lab::until(|| async { admin.get(&one).await.expect(200)["state"] == "closed" }).await;
    assert_eq!(admin.patch(&one, more).await.expect(200)["resources"]["disk_mib"], 4321);
}
