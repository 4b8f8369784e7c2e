#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::time::Instant;

use super::{Ask, PAUSE, PAUSE_MAX, tries};
use crate::models::fault::Fault;

fn ask(retries: u32) -> Ask {
    Ask {
        method: Method::POST,
        uri: Uri::from_static("http://nowhere/"),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        retries,
        peeks: false,
        sending: Arc::default(),
    }
}

fn away() -> Fault {
    Fault::new(StatusCode::BAD_GATEWAY, "provider_unreachable", "away")
}

#[tokio::test(start_paused = true)]
async fn pauses_double_up_to_a_bound_and_no_two_providers_are_asked_in_one_breath() {
    let asked = RefCell::new(Vec::new());
    let failed = tries(&ask(9), |_| {
        asked.borrow_mut().push(Instant::now());
        async { Err((away(), true)) }
    })
    .await
    .err()
    .unwrap();
    assert_eq!(failed.attempts, 10);
    let asked = asked.into_inner();
    assert_eq!(asked.len(), 10);
    // The clock goes in whole milliseconds.
    let tick = Duration::from_millis(1);
    for (n, pair) in asked.windows(2).enumerate() {
        let (pause, whole) = (pair[1] - pair[0], PAUSE.saturating_mul(1 << n).min(PAUSE_MAX));
        assert!(
            pause + tick >= whole.mul_f64(0.75) && pause <= whole + tick,
            "pause {n}: {pause:?} of {whole:?}"
        );
    }
    assert!(asked[9] - asked[8] > 10 * (asked[1] - asked[0]), "they grew");
}

#[tokio::test(start_paused = true)]
async fn what_will_not_change_is_not_tried_again() {
    let begun = Instant::now();
    let failed = tries(&ask(9), |_| async { Err((away(), false)) }).await.err().unwrap();
    assert_eq!((failed.attempts, begun.elapsed()), (1, Duration::ZERO));
}
