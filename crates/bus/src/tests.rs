use wharf_domain::SessionId;
use wharf_ports::bus::Wake;

use super::*;

#[tokio::test]
async fn every_subscriber_sees_every_wake_up_in_order() {
    let bus = Local::new();
    let (mut one, mut two) = (bus.subscribe(), bus.subscribe());
    let topics = [Topic::Session(SessionId::new()), Topic::Audit, Topic::SessionLog(SessionId::new())];
    for t in topics {
        bus.wake(t);
    }
    for t in topics {
        assert_eq!(one.next().await, Some(Wake::Topic(t)));
        assert_eq!(two.next().await, Some(Wake::Topic(t)));
    }
}

#[tokio::test]
async fn who_is_too_slow_is_told_that_it_missed_some() {
    let bus = Local::with_ring(4);
    let mut slow = bus.subscribe();
    for _ in 0..100 {
        bus.wake(Topic::Audit);
    }
    assert_eq!(slow.next().await, Some(Wake::Missed));
    assert_eq!(slow.next().await, Some(Wake::Topic(Topic::Audit)));
}

#[tokio::test]
async fn a_wake_up_without_a_subscriber_is_no_error_and_not_kept() {
    let bus = Local::new();
    bus.wake(Topic::Audit);
    let mut late = bus.subscribe();
    drop(bus);
    assert_eq!(late.next().await, None);
}
