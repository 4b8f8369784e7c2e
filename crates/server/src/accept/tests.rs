#![allow(clippy::unwrap_used)]

use std::time::Instant;

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

struct Listening {
    address: SocketAddr,
    drain: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

async fn listening(bounds: Bounds) -> Listening {
    let slow = || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "late"
    };
    let router = Router::new().route("/", get(|| async { "here" })).route("/slow", get(slow));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, drained) = oneshot::channel();
    let task = tokio::spawn(serve(listener, router, bounds, async {
        drained.await.ok();
    }));
    Listening { address, drain: Some(drain), task }
}

async fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn whoever_sends_half_a_head_is_let_go_and_others_are_served_meanwhile() {
    let bounds = Bounds { head: Duration::from_millis(300), connections: 8 };
    let here = listening(bounds).await;
    let mut slow = TcpStream::connect(here.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    assert!(ask(here.address, "/").await.ends_with("here"));
    let since = Instant::now();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(10), "it was not let go");
}

#[tokio::test]
async fn beyond_the_limit_callers_wait_for_a_place_and_then_are_served() {
    let here = listening(Bounds { head: Duration::from_secs(60), connections: 1 }).await;
    let holder = TcpStream::connect(here.address).await.unwrap();
    let mut waiting = tokio::spawn(ask(here.address, "/"));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "two at a time");
    drop(holder);
    assert!(waiting.await.unwrap().ends_with("here"));
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_hand_and_takes_nothing_new() {
    let mut here = listening(Bounds::default()).await;
    let slow = tokio::spawn(ask(here.address, "/slow"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    here.drain.take().unwrap().send(()).unwrap();
    assert!(slow.await.unwrap().ends_with("late"));
    here.task.await.unwrap();
    assert!(TcpStream::connect(here.address).await.is_err());
}
