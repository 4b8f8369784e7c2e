//! Event streams through broken connections.

use std::time::Duration;

use wharf_client::{Error, EventStream, Method};
use wharf_domain::Code;

use crate::peer::{Answer, Peer, problem};

/// A chunked event stream that holds these bytes and, unless `end`, breaks off in the middle.
fn events(body: &str, end: bool) -> Answer {
    let tail = if end { "0\r\n\r\n" } else { "" };
    Answer::Cut(
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n{tail}",
            body.len()
        )
        .into_bytes(),
    )
}

async fn open(peer: &Peer, after: Option<i64>) -> wharf_client::Result<EventStream> {
    peer.client().space("lab").session("s").events(after).await
}

async fn ids(stream: &mut EventStream, n: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..n {
        ids.push(stream.next().await.unwrap().unwrap().id.unwrap());
    }
    ids
}

#[tokio::test]
async fn a_truncated_stream_goes_on_behind_the_last_whole_event() {
    let peer = Peer::script(vec![
        events("id: 5\ndata: {}\n\nid: 6\ndata: {}\n\nid: 7\ndata: {\"ha", false),
        events(": hello\n\nid: 7\ndata: {}\n\n", true),
        problem(503, "unavailable", true, vec![]),
        events("id: 8\ndata: {}\n\n", false),
    ])
    .await;
    let mut stream = open(&peer, Some(4)).await.unwrap();
    assert_eq!(ids(&mut stream, 4).await, ["5", "6", "7", "8"]);
    let asked: Vec<_> = peer.seen().iter().map(|r| r.header("last-event-id").unwrap().to_owned()).collect();
    assert_eq!(asked, ["4", "6", "7", "7"]);
    assert!(peer.seen().iter().all(|r| r.header("accept") == Some("text/event-stream")));
}

#[tokio::test]
async fn a_stream_whose_subject_is_gone_ends_with_the_reason() {
    let peer =
        Peer::script(vec![events("id: 1\ndata: {}\n\n", true), problem(404, "not_found", false, vec![])])
            .await;
    let mut stream = open(&peer, None).await.unwrap();
    assert_eq!(ids(&mut stream, 1).await, ["1"]);
    assert!(stream.next().await.unwrap().unwrap_err().is(Code::NotFound));
    assert!(stream.next().await.is_none(), "an error is the last thing a stream says");
}

#[tokio::test]
async fn a_stream_does_not_wait_for_ever_for_a_server_that_stays_away() {
    let peer = Peer::script(vec![events("id: 1\ndata: {}\n\n", true)]).await;
    let mut stream = open(&peer, None).await.unwrap().outage(Duration::from_millis(200));
    assert_eq!(ids(&mut stream, 1).await, ["1"]);
    let end = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.unwrap();
    assert!(end.unwrap().is_err());
}

#[tokio::test]
async fn a_stream_that_cannot_be_resumed_says_when_it_broke() {
    let peer =
        Peer::script(vec![events("data: {}\n\ndata: {\"x", false), events("data: {}\n\n", true)]).await;
    let mut stream = EventStream::once(peer.client().call(Method::POST, ["exec"])).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().data, "{}");
    assert!(matches!(stream.next().await.unwrap(), Err(Error::Broken { .. })));
    assert_eq!(peer.seen().len(), 1, "a command is not run twice");

    let mut stream = EventStream::once(peer.client().call(Method::POST, ["exec"])).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn what_is_no_event_stream_is_refused() {
    let peer = Peer::script(vec![crate::peer::json(200, &serde_json::json!({}))]).await;
    assert!(matches!(open(&peer, None).await, Err(Error::Protocol { .. })));
}
