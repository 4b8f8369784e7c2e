use super::*;

#[test]
fn only_the_last_time_of_a_session_counts() {
    let timers = Timers::default();
    let (a, b) = (SessionId::new(), SessionId::new());
    let at = |ms| Time::from_millis(ms);
    timers.set(a, at(10));
    timers.set(b, at(20));
    timers.set(a, at(30));
    assert_eq!(timers.due(at(15)), (vec![], Some(at(20))));
    assert_eq!(timers.due(at(25)), (vec![b], Some(at(30))));
    timers.clear(a);
    assert_eq!(timers.due(at(99)), (vec![], None));
}
