#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_session_has_so_many_places_and_they_come_back() {
    let busy = Busy::default();
    let (one, other) = (SessionId::new(), SessionId::new());
    let held: Vec<_> = (0..limits::PORT_CONNECTIONS).map(|_| busy.enter(one).unwrap()).collect();
    assert_eq!(busy.enter(one).unwrap_err().code, Code::RateLimited);
    drop(busy.enter(other).unwrap());
    drop(held);
    drop(busy.enter(one).unwrap());
    assert!(busy.0.slots.lock().unwrap().len() <= 2);
}

#[test]
fn a_use_is_written_down_once_in_a_while() {
    let (busy, session, who) = (Busy::default(), SessionId::new(), Uuid::now_v7());
    let at = |seconds: i64| Time::from_millis(seconds * 1000);
    assert!(busy.first(who, session, 80, at(1)));
    assert!(!busy.first(who, session, 80, at(200)));
    assert!(busy.first(who, session, 81, at(200)));
    assert!(busy.first(Uuid::now_v7(), session, 80, at(200)));
    assert!(busy.first(who, session, 80, at(301)));
}
