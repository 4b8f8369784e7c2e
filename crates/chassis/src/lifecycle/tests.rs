#![allow(clippy::unwrap_used)]

use super::*;

const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_drain_waits_for_what_is_in_hand() {
    let mut roles = Roles::default();
    let (stop, stopper) = (roles.stop(), roles.stopper());
    let (done, was_done) = tokio::sync::oneshot::channel();
    roles.add("worker", async move {
        stop.draining().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        done.send(()).unwrap();
        Ok::<_, std::io::Error>(())
    });
    stopper.drain();
    roles.run(Duration::from_secs(5)).await.unwrap();
    was_done.await.unwrap();
}

#[tokio::test]
async fn a_role_that_does_not_drain_is_ended_and_named() {
    let mut roles = Roles::default();
    roles.add("stubborn", async { std::future::pending::<Result<(), std::io::Error>>().await });
    roles.stopper().drain();
    let error = roles.run(SHORT).await.unwrap_err().to_string();
    assert!(error.contains("stubborn did not drain"), "{error}");
}

#[tokio::test]
async fn one_failure_drains_the_others_and_is_the_result() {
    let mut roles = Roles::default();
    let stop = roles.stop();
    roles.add("good", async move {
        stop.draining().await;
        Ok::<_, std::io::Error>(())
    });
    roles.add("bad", async { Err(std::io::Error::other("the disk is full")) });
    assert_eq!(roles.run(SHORT).await.unwrap_err().to_string(), "bad: the disk is full");
}

#[tokio::test]
async fn a_panic_and_an_early_return_are_failures() {
    let mut roles = Roles::default();
    roles.add("jumpy", async { panic!("oh") as Result<(), std::io::Error> });
    assert!(roles.run(SHORT).await.unwrap_err().to_string().starts_with("jumpy panicked"));
    let mut roles = Roles::default();
    roles.add("hasty", async { Ok::<_, std::io::Error>(()) });
    assert!(roles.run(SHORT).await.unwrap_err().to_string().contains("hasty returned"));
}

#[tokio::test]
async fn the_second_signal_ends_at_once() {
    let mut roles = Roles::default();
    let stopper = roles.stopper();
    roles.add("stubborn", async { std::future::pending::<Result<(), std::io::Error>>().await });
    stopper.drain();
    stopper.end();
    stopper.drain();
    tokio::time::timeout(Duration::from_secs(2), roles.run(Duration::from_secs(60))).await.unwrap().unwrap();
}

#[tokio::test]
async fn work_gives_way_to_a_drain() {
    let (stopper, stop) = Stopper::new();
    assert_eq!(stop.or_drain(async { 1 }).await, Some(1));
    stopper.drain();
    assert_eq!(stop.or_drain(std::future::pending::<()>()).await, None);
}
