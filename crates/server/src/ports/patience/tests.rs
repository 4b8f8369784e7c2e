#![allow(clippy::unwrap_used)]

use axum::body::{Body as Any, Bytes};
use http_body_util::BodyExt as _;

use super::*;

const SHORT: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(600);

fn fed() -> (tokio::sync::mpsc::Sender<Bytes>, Any) {
    let (feed, from) = tokio::sync::mpsc::channel::<Bytes>(8);
    let stream = futures_util::stream::unfold(from, |mut from| async move {
        from.recv().await.map(|bytes| (Ok::<_, std::io::Error>(bytes), from))
    });
    (feed, Any::from_stream(stream))
}

#[tokio::test]
async fn an_upload_may_take_longer_than_the_answer() {
    let (feed, body) = fed();
    let (mut sent, patience) = watched(body, SHORT, LONG);
    let begun = Instant::now();
    let clock = tokio::spawn(patience.over());
    let read = tokio::spawn(async move { while sent.frame().await.is_some() {} });
    for _ in 0..6 {
        tokio::time::sleep(SHORT / 2).await;
        feed.send(Bytes::from_static(b"piece")).await.unwrap();
    }
    assert!(!clock.is_finished(), "it is still being sent");
    let last = Instant::now();
    drop(feed);
    read.await.unwrap();
    assert_eq!(clock.await.unwrap(), Side::Program);
    assert!(begun.elapsed() >= SHORT * 4, "{:?}", begun.elapsed());
    assert!(last.elapsed() >= SHORT, "it has its time from the last byte on: {:?}", last.elapsed());
}

#[tokio::test]
async fn a_program_that_takes_nothing_and_a_caller_that_sends_nothing_are_told_apart() {
    let (_feed, body) = fed();
    let (_sent, patience) = watched(body, SHORT, LONG);
    assert_eq!(patience.over().await, Side::Program, "nobody asked for the body");

    let (_feed, body) = fed();
    let (mut sent, patience) = watched(body, LONG, SHORT);
    let read = tokio::spawn(async move { sent.frame().await });
    assert_eq!(patience.over().await, Side::Caller);
    read.abort();
}
