#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use wharf_wire::api::ModelProtocol;

use super::{ATTEMPTS, Listener, PAUSE, PAUSE_MAX, ask};
use crate::http::Gateway;
use crate::model::{Call, Delta, Failure};

#[derive(Default)]
struct Heard(Vec<(Instant, Duration)>);

impl Listener for Heard {
    fn said(&mut self, _: &[Delta]) {}
    fn again(&mut self, _: u32, _: &str, pause: Duration) {
        self.0.push((Instant::now(), pause));
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_double_up_to_a_minute_and_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there, which is known at once: the clock goes for the pauses alone.
    let gateway = Gateway::new(dir.path().join("gateway.sock"));
    let call = Call { path: "/lab/v1/messages".into(), headers: Vec::new(), body: json!({}) };
    let mut heard = Heard::default();
    let failed = ask(&gateway, ModelProtocol::Anthropic, &call, &mut heard).await.unwrap_err();
    let Failure::Final(why) = failed else { panic!("{failed:?}") };
    assert!(why.contains(&format!("tried {ATTEMPTS} times")), "{why}");
    let end = Instant::now();
    let Heard(heard) = heard;
    assert_eq!(heard.len() as u32, ATTEMPTS - 1);
    // The clock goes in whole milliseconds.
    let tick = Duration::from_millis(1);
    for (n, (said, pause)) in heard.iter().enumerate() {
        let full = (PAUSE * 2_u32.pow(n as u32)).min(PAUSE_MAX);
        assert!(*pause >= full / 2 && *pause <= full, "pause {n} is {pause:?} of {full:?}");
        let next = heard.get(n + 1).map_or(end, |(at, _)| *at);
        let took = next - *said;
        assert!(took >= *pause && took <= *pause + tick, "{took:?} passed instead of {pause:?}");
    }
    assert!(heard[6].1 > 10 * heard[0].1, "they grew");
    assert_eq!(PAUSE * 64, Duration::from_secs(64), "the last one was bounded");
}
