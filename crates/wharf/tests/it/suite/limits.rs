//! Limits that bite inside, and nowhere else.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{Computer, Place};

fn figure(stats: &Value, what: &str) -> u64 {
    stats[what].as_u64().unwrap_or_else(|| panic!("{what}: {stats}"))
}

pub async fn memory_ends_inside_only(place: Place) {
    let (one, other) =
        (place.session_with("glutton", resources(1000, 96, 64)).await, place.session("beside").await);
    let bomb = r#"awk 'BEGIN { s = "xxxxxxxx"; while (1) s = s s }'"#;
    assert_ne!(one.sh("agent", bomb).await.0, 0);
    assert_ne!(one.sh("root", bomb).await.0, 0);
    let stats = one.get("stats").await;
    assert!(figure(&stats, "oom_kills") >= 2, "{stats}");
    assert_eq!(figure(&stats, "memory_limit_bytes"), 96 << 20, "{stats}");
    assert!(figure(&stats, "memory_peak_bytes") <= 96 << 20, "{stats}");
    // Those who did nothing live, and a turn is answered.
    assert_eq!(one.answer("echo fine").await, "fine\n");
    assert_eq!(figure(&other.get("stats").await, "oom_kills"), 0);

    // More is more at once; less than what is in use is refused, and what was stays.
    let (status, said) = one.patch(resources(1000, 256, 64)).await;
    assert!(status.is_success(), "{said}");
    super::until("it has more", async || figure(&one.get("stats").await, "memory_limit_bytes") == 256 << 20)
        .await;
    one.ok(
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=150 2>/dev/null; rm /dev/shm/x; echo kept > note; sync",
    )
    .await;

    // Files in memory count, and nobody's end gives them back: where there is no room left for the host itself, the computer is
    // started again on its files.
    let files = json!({ "command": "dd if=/dev/zero of=/dev/shm/x bs=1M count=400" });
    let (_, done) = one.call(Method::POST, "exec", files).await;
    assert_ne!(done["exit_code"], 0, "{done}");
    let tidy = json!({ "command": "rm -f /dev/shm/x; cat note" });
    super::until("it is itself again", async || {
        one.call(Method::POST, "exec", tidy.clone()).await.1["stdout"] == "kept\n"
    })
    .await;
}

pub async fn processes_are_counted(place: Place) {
    let (one, other) =
        (place.session_with("breeder", resources(1000, 128, 40)).await, place.session("quiet").await);
    let (code, text) = one.sh("agent", "for i in $(seq 100); do sleep 7301 & done").await;
    assert!(code != 0 && text.contains("fork"), "{code}: {text}");
    let stats = one.get("stats").await;
    assert!((20..=40).contains(&figure(&stats, "pids")), "{stats}");
    assert_eq!(other.ok("echo fine").await, "fine");
    // Full as it is it closes, and comes back empty.
    one.close().await;
    assert_eq!(one.ok("ps | grep -c '[s]leep 7301' || true").await, "0");
    let (status, said) = one.patch(json!({ "resources": { "pids": 90 } })).await;
    assert!(status.is_success(), "{said}");
    let many =
        "killall sleep 2>/dev/null; for i in $(seq 60); do sleep 7301 & done; ps | grep -c ' sleep 7301$'";
    super::until("it has more", async || one.sh("agent", many).await == (0, "60".to_owned())).await;
}

pub async fn the_cpu_is_shared_as_was_said(place: Place) {
    let one = place.session_with("busybody", resources(200, 128, 64)).await;
    one.ok("for i in 1 2 3; do (while :; do :; done) >/dev/null 2>&1 & done").await;
    let slow = share(&one).await;
    assert!((0.01..0.27).contains(&slow), "0.2 cores at most, and not nothing: {slow}");
    let (status, said) = one.patch(json!({ "resources": { "cpu_millis": 700 } })).await;
    assert!(status.is_success(), "{said}");
    super::until("it gets more", async || share(&one).await > 0.27).await;
    assert!(share(&one).await < 0.85);
    one.close().await;
}

/// Cores it uses.
async fn share(computer: &Computer) -> f64 {
    let used = async || figure(&computer.get("stats").await, "cpu_usage_micros") as f64 / 1e6;
    let (begun, before) = (Instant::now(), used().await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    (used().await - before) / begun.elapsed().as_secs_f64()
}

fn resources(cpu: u32, memory: u32, pids: u32) -> Value {
    json!({ "resources": { "cpu_millis": cpu, "memory_mib": memory, "pids": pids, "disk_mib": 128 } })
}

pub async fn what_the_space_has_no_room_for_is_refused(place: Place) {
    let quotas = json!({ "sessions": 1, "memory_mib": 100 });
    place.wharf.post("/v1/spaces", json!({ "name": "tight", "quotas": quotas })).await;
    let sessions = "/v1/spaces/tight/sessions?wait=ready";
    let body = |memory: u32| json!({ "image": "tiny", "name": "only", "resources": { "memory_mib": memory, "disk_mib": 64 } });
    let call = async |body: Value| place.wharf.call(Method::POST, sessions, Some(&body), None).await.unwrap();
    let (status, problem) = call(body(101)).await;
    assert!(status.is_client_error() && problem.to_string().contains("memory_mib"), "{status}: {problem}");
    let (status, made) = call(body(100)).await;
    assert!(status.is_success() && made["runtime"] == place.runtime.name(), "{status}: {made}");
    let mut second = body(16);
    second["name"] = json!("second");
    let (status, problem) = call(second).await;
    assert!(status.is_client_error() && problem.to_string().contains("sessions"), "{status}: {problem}");
    let only = "/v1/spaces/tight/sessions/only";
    let (status, said) = place.wharf.call(Method::DELETE, only, None, None).await.unwrap();
    assert!(status.is_success(), "{said}");
}
