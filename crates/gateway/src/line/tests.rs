#![allow(clippy::unwrap_used)]

use wharf_domain::{SessionId, SpaceId};
use wharf_store::Actor;

use super::*;

#[tokio::test]
async fn lines_that_nobody_can_write_are_left_out_beyond_a_number_and_counted() {
    let db = wharf_testkit::TestDb::new().await;
    let (log, writer) = Log::new(db.store().await.system(Actor::Gateway));
    let entry = EgressEntry {
        id: EgressId::new(),
        space_id: SpaceId::new(),
        session_id: SessionId::new(),
        turn_id: None,
        kind: "request",
        host: "a.example".into(),
        port: 80,
        method: None,
        status: None,
        decision: Decision::Allowed.as_str(),
        reason: None,
        connection: None,
        bytes_sent: 0,
        bytes_received: 0,
        started_ms: 0,
        duration_ms: 0,
        session_name: "s".parse().unwrap(),
        space_name: "lab".parse().unwrap(),
    };
    for _ in 0..20_007 {
        log.put(entry.clone());
    }
    assert_eq!((writer.lines.len(), writer.left_out.load(Ordering::Relaxed)), (20_000, 7));
}
